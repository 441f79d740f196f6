"""Tokens, and the two files that hold them.

`.npy` is the published package's file: an int64 array [1, T, 2] and nothing else. `.sct` is the packed
container, which also knows its rate, its vocabularies and the length of the original, all little-endian:

| byte | field     | type | holds                                                              |
|------|-----------|------|--------------------------------------------------------------------|
| 0    | magic     | 4 s  | `SCTK`                                                             |
| 4    | version   | u8   | 1                                                                  |
| 5    | rate      | u8   | 25, 50 or 100 tokens per second                                    |
| 6    | semantic  | u16  | semantic vocabulary, less one                                      |
| 8    | acoustic  | u16  | acoustic vocabulary, less one                                      |
| 10   | positions | u32  | T, at least 1                                                      |
| 14   | samples   | u64  | samples of the original at 16 kHz; 0: not known                    |
| 22   | CRC       | u32  | CRC-32 (zlib's) of every other byte of the file, in order          |
| 26   | codes     | bits | position by position: the semantic token, then the acoustic token, |
|      |           |      | each at the bits its vocabulary needs, most significant bit first; |
|      |           |      | zeros fill the last byte                                           |

So 10.24 s at 25 tokens per second and 4096 centroids are 400 bytes of codes, the paper's 0.31 kbps. A file
has one spelling only: whatever decodes encodes to the same bytes again.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from .errors import TokensError
from .files import write_atomically
from .semanticodec.config import SAMPLE_RATE, TOKEN_RATES, SemantiCodecConfig

MAGIC = b"SCTK"
VERSION = 1
_FIELDS = struct.Struct("<4sBBHHIQ")  #: the header up to its CRC
HEADER_BYTES = _FIELDS.size + 4

_MAX_VOCABULARY = 2**16
_MAX_POSITIONS = 2**32 - 1
_MAX_SAMPLES = 2**64 - 1
_MAX_NPY_HEADER = 10_000  #: bytes; numpy's own limit
_PACK_POSITIONS = 2**16  #: packed at a time; a multiple of 8, so that a chunk begins with a byte
_READ_BYTES = 2**20  #: asked of a stream at a time, so that a false length in a header allocates nothing

_DAMAGED = "the file is damaged; copy or encode it again"


@dataclass(frozen=True, eq=False)
class Tokens:
    """What one recording became: two tokens a position, and what is needed to decode them.

    `codes` int32 [T, 2], read-only: (semantic, acoustic) of each position; a copy of whatever integer array
    [T, 2] or [1, T, 2] is given. `config` says the rate and the vocabularies; its `width` is no matter of
    tokens, so that neither files nor `==` know of it. `samples` is the original's length at 16 kHz, None if
    not known.

    Raises `TokensError` for a wrong shape or dtype, no position, a token outside its vocabulary, or a number
    of samples that makes another number of positions.
    """

    codes: NDArray[np.int32]
    config: SemantiCodecConfig
    samples: int | None = None

    def __post_init__(self) -> None:
        codes = _check_codes(self.codes, self.config)
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "samples", _check_samples(self.samples, len(codes), self.config))

    @classmethod
    def from_array(cls, array: ArrayLike, config: SemantiCodecConfig, samples: int | None = None) -> Tokens:
        """Take tokens from an array [T, 2] or [1, T, 2] of any integer dtype, which is copied.

        Raises `TokensError`, as the class does.
        """
        return cls(_as_array(array), config, samples)

    def __len__(self) -> int:
        """T: positions, of two tokens each."""
        return len(self.codes)

    def __eq__(self, other: object) -> bool:
        """Compare codes, rate, vocabularies and samples."""
        if not isinstance(other, Tokens):
            return NotImplemented
        return (
            _list_sizes(self.config) == _list_sizes(other.config)
            and self.samples == other.samples
            and np.array_equal(self.codes, other.codes)
        )

    @property
    def seconds(self) -> float:
        """Length of the original if known, else of the audio that the tokens decode to."""
        samples = self.config.count_samples(len(self)) if self.samples is None else self.samples
        return samples / SAMPLE_RATE

    @property
    def bitrate(self) -> float:
        """Bits per second of the packed codes, as in the paper's Table I; a file's header is extra."""
        return self.config.bitrate

    def require(self, config: SemantiCodecConfig) -> Tokens:
        """Return these tokens as tokens of `config`. Raises `TokensError` if rate or vocabularies differ."""
        mine, wanted = self.config, config
        again = "encode the audio again with this bundle"
        if mine.tps != wanted.tps:
            raise TokensError(
                f"tokens at {mine.tps} tps",
                f"{wanted.tps} tps, the rate of the bundle",
                f"decode them with a bundle of {mine.tps} tps, or {again}",
            )
        for name, given, expected in (
            ("semantic", mine.vocab, wanted.vocab),
            ("acoustic", mine.acoustic_vocab, wanted.acoustic_vocab),
        ):
            if given != expected:
                raise TokensError(
                    f"tokens whose {name} vocabulary is {given}",
                    f"{expected}, the {name} vocabulary of the bundle",
                    f"choose the vocabulary of {given}, or {again}",
                )
        return dataclasses.replace(self, config=config)

    def to_bytes(self) -> bytes:
        """Return the container (`.sct`). Raises `TokensError` if a vocabulary or T is too large for it."""
        config, samples = self.config, self.samples or 0
        for name, value, limit in (
            ("semantic vocabulary", config.vocab, _MAX_VOCABULARY),
            ("acoustic vocabulary", config.acoustic_vocab, _MAX_VOCABULARY),
            ("number of positions", len(self), _MAX_POSITIONS),
        ):
            if value > limit:
                raise TokensError(f"{name} {value}", f"at most {limit} in an .sct file", "save it as .npy")
        _check_information(config)
        header = _FIELDS.pack(
            MAGIC, VERSION, config.tps, config.vocab - 1, config.acoustic_vocab - 1, len(self), samples
        )
        payload = _pack(self.codes, config.bits)
        return header + _checksum(header, payload) + payload

    @classmethod
    def from_bytes(cls, data: bytes, config: SemantiCodecConfig | None = None) -> Tokens:
        """Take tokens from the bytes of a file; see `read`."""
        return cls.read(BytesIO(data), config)

    @classmethod
    def read(cls, file: BinaryIO, config: SemantiCodecConfig | None = None) -> Tokens:
        """Take tokens from an open file or pipe of either kind, told apart by their first bytes.

        `config` is what the tokens must be of. Without it a container is what it says; an .npy needs it. At
        most one byte more is read than the header says there are, and no more is allocated than arrives.

        Raises `TokensError` for whatever is wrong with the file, and if it is not of `config`.
        """
        start = _read_bytes(file, len(npy.MAGIC_PREFIX))
        if start == npy.MAGIC_PREFIX:
            return cls.from_array(*_read_npy(file, config))
        if not MAGIC.startswith(start[: len(MAGIC)]):
            raise TokensError(
                f"a file that begins with {start!r}", "tokens in an .sct or .npy file", "encode audio first"
            )
        tokens = _read_container(start, file)
        return tokens if config is None else tokens.require(config)

    @classmethod
    def load(cls, path: str | os.PathLike[str], config: SemantiCodecConfig | None = None) -> Tokens:
        """Take tokens from the file at `path`; see `read`. A `TokensError` names the path."""
        try:
            with Path(path).open("rb") as file:
                return cls.read(file, config)
        except TokensError as error:
            raise TokensError(f"{os.fspath(path)}: {error.given}", error.expected, error.remedy) from error
        except OSError as error:
            given = f"{os.fspath(path)}: {error.strerror or error}"
            raise TokensError(given, "a token file", "check its name and permissions") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to `path`, whole or not at all: an `.sct`, or an `.npy`, which forgets all but the codes.

        Raises `TokensError` for another suffix, `OutputError` for what the system refuses.
        """
        path = Path(path)
        if path.suffix.lower() == ".sct":
            data = self.to_bytes()
        elif path.suffix.lower() == ".npy":
            file = BytesIO()
            npy.write_array(file, self.codes[np.newaxis].astype("<i8"), version=(1, 0), allow_pickle=False)
            data = file.getvalue()
        else:
            raise TokensError(f"{path}: suffix {path.suffix!r}", "'.sct' or '.npy'", "rename the output")
        write_atomically(path, data)


def _list_sizes(config: SemantiCodecConfig) -> tuple[int, int, int]:
    return config.tps, config.vocab, config.acoustic_vocab


def _as_array(array: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(array)
    except (TypeError, ValueError) as error:
        given = f"a {type(array).__name__} that makes no array ({error})"
        raise TokensError(given, "integers [T, 2] or [1, T, 2]") from error


def _check_layout(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        remedy = "pickled files are never opened; save int64"
        raise TokensError("an array of Python objects", "integers", remedy)
    if dtype.kind not in "iu":
        raise TokensError(f"an array of dtype {dtype}", "integers", "convert it if its values are tokens")
    if len(shape) not in (2, 3) or shape[-1] != 2 or shape[-2] < 1 or (len(shape) == 3 and shape[0] != 1):
        raise TokensError(
            f"an array of shape {list(map(int, shape))}",
            "[T, 2] or [1, T, 2] with T at least 1",
            "give (semantic, acoustic) pairs of one recording at a time",
        )


def _check_codes(array: ArrayLike, config: SemantiCodecConfig) -> NDArray[np.int32]:
    """Return a read-only int32 copy [T, 2] of `array`. Raises `TokensError`."""
    given = _as_array(array)
    _check_layout(given.shape, given.dtype)
    given = given.reshape(-1, 2)
    for column, name, size in ((0, "semantic", config.vocab), (1, "acoustic", config.acoustic_vocab)):
        tokens = given[:, column]
        if int(tokens.min()) < 0 or int(tokens.max()) >= size:
            position = int(((tokens < 0) | (tokens > size - 1)).argmax())
            raise TokensError(
                f"{name} token {tokens[position]} at position {position}",
                f"0 to {size - 1}",
                f"choose the vocabulary that the tokens were made with, if it is not {size}",
            )
    codes = given.astype(np.int32, order="C", copy=True)
    codes.flags.writeable = False
    return codes


def _check_samples(samples: int | None, positions: int, config: SemantiCodecConfig) -> int | None:
    if samples is None:
        return None
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer):
        raise TokensError(f"samples {samples!r}", "a whole number of samples at 16 kHz, or None")
    samples = int(samples)
    if not 1 <= samples <= _MAX_SAMPLES:
        raise TokensError(f"samples {samples}", f"1 to {_MAX_SAMPLES}, or None if not known")
    expected = config.count_positions(samples)
    if positions != expected:
        raise TokensError(
            f"{positions} positions for {samples} samples",
            f"{expected} positions at {config.tps} tps",
            "leave `samples` out for tokens that were cut or joined",
        )
    return samples


def _check_information(config: SemantiCodecConfig) -> None:
    """Refuse tokens of no bits, of which a file of no bytes could claim any number."""
    if not any(config.bits):
        raise TokensError("vocabularies of one token each", "at least two tokens in one of them")


def _checksum(header: bytes, payload: bytes) -> bytes:
    return zlib.crc32(payload, zlib.crc32(header)).to_bytes(4, "little")


def _pack(codes: NDArray[np.int32], bits: tuple[int, int]) -> bytes:
    """Pack codes [T, 2] at `bits` (semantic, acoustic) bits; together 1 to 32."""
    width = sum(bits)
    chunks = []
    for start in range(0, len(codes), _PACK_POSITIONS):
        semantic, acoustic = codes[start : start + _PACK_POSITIONS].astype(np.uint32).T
        words = ((semantic << bits[1]) | acoustic).astype(">u4")
        spread = np.unpackbits(words.view(np.uint8).reshape(-1, 4), axis=1)  # [T, 32] of 0 and 1
        chunks.append(np.packbits(spread[:, 32 - width :]).tobytes())
    return b"".join(chunks)


def _unpack(payload: bytes, positions: int, bits: tuple[int, int]) -> NDArray[np.int32]:
    """Unpack `positions` codes; the inverse of `_pack`. Returns int32 [T, 2]."""
    width = sum(bits)
    packed = np.frombuffer(payload, np.uint8)
    codes = np.empty((positions, 2), np.int32)
    for start in range(0, positions, _PACK_POSITIONS):
        count = min(_PACK_POSITIONS, positions - start)
        spread = np.zeros((count, 32), np.uint8)
        ones = np.unpackbits(packed[start * width // 8 :], count=count * width)
        spread[:, 32 - width :] = ones.reshape(count, width)
        words = np.packbits(spread, axis=1).view(">u4")[:, 0].astype(np.uint32)
        codes[start : start + count, 0] = words >> bits[1]
        codes[start : start + count, 1] = words & ((1 << bits[1]) - 1)
    return codes


def _read_bytes(file: BinaryIO, count: int) -> bytes:
    """Read `count` bytes, or what there is."""
    data = bytearray()
    while len(data) < count and (part := file.read(min(count - len(data), _READ_BYTES))):
        data += part
    return bytes(data)


def _read_payload(file: BinaryIO, count: int, positions: int) -> bytes:
    """Read the `count` bytes of `positions` positions, after which the file must end."""
    payload = _read_bytes(file, count + 1)
    if len(payload) < count:
        raise TokensError(
            f"a token file cut short: {len(payload)} bytes of codes",
            f"{count} bytes for the {positions} positions of its header",
            _DAMAGED,
        )
    if len(payload) > count:
        raise TokensError(
            "a token file with trailing bytes",
            f"its end after the {count} bytes of {positions} positions",
            _DAMAGED,
        )
    return payload


def _read_container(start: bytes, file: BinaryIO) -> Tokens:
    """Read a container of which `start` has been read already. Raises `TokensError`."""
    header = start + _read_bytes(file, HEADER_BYTES - len(start))
    if len(header) < HEADER_BYTES:
        raise TokensError(f"a token file cut short: {len(header)} bytes", f"a header of {HEADER_BYTES} bytes", _DAMAGED)
    _, version, tps, semantic, acoustic, positions, samples = _FIELDS.unpack_from(header)
    if version > VERSION:
        remedy = "it was written by a newer version: upgrade sc-runtime"
        raise TokensError(f"a token file of version {version}", f"version {VERSION}", remedy)
    if version < VERSION:
        raise TokensError(f"a token file of version {version}", f"version {VERSION}", _DAMAGED)
    if tps not in TOKEN_RATES:
        raise TokensError(f"a token file of {tps} tps", "25, 50 or 100 tps", _DAMAGED)
    if positions < 1:
        raise TokensError("a token file of no positions", "at least one", _DAMAGED)
    config = SemantiCodecConfig(tps, semantic + 1, acoustic + 1)
    _check_information(config)

    size = positions * sum(config.bits)
    payload = _read_payload(file, (size + 7) // 8, positions)
    if payload[-1] & ((1 << (-size % 8)) - 1):
        raise TokensError("a token file whose last byte is not filled with zeros", "zeros", _DAMAGED)
    expected = _checksum(header[: _FIELDS.size], payload)
    if header[_FIELDS.size :] != expected:
        given = f"a token file of checksum {header[_FIELDS.size :].hex()}"
        raise TokensError(given, f"{expected.hex()}, the checksum of its bytes", _DAMAGED)
    return Tokens(_unpack(payload, positions, config.bits), config, samples or None)


def _read_npy(file: BinaryIO, config: SemantiCodecConfig | None) -> tuple[NDArray[Any], SemantiCodecConfig]:
    """Read an .npy after its magic: its array, and the `config` that it cannot do without.

    By the parts of numpy's reader and not by `np.load`, which allocates what the header claims, or, when it
    maps the file, answers a false header with any of four exceptions. Raises `TokensError`.
    """
    if config is None:
        raise TokensError(
            "tokens in an .npy file", "to be told their rate and vocabulary", "name the bundle, or use .sct"
        )
    version = _read_bytes(file, 2)
    if version not in (b"\1\0", b"\2\0"):
        given = f"an .npy file of version {list(version)}"
        raise TokensError(given, "version [1, 0] or [2, 0]", "save integers with numpy.save")
    length = _read_bytes(file, 2 if version == b"\1\0" else 4)
    size = int.from_bytes(length, "little")
    if size > _MAX_NPY_HEADER:
        raise TokensError(f"an .npy header of {size} bytes", f"at most {_MAX_NPY_HEADER}", _DAMAGED)
    read_header = npy.read_array_header_1_0 if version == b"\1\0" else npy.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read_header(BytesIO(length + _read_bytes(file, size)))
    except Exception as error:  # a Python literal: its parser may raise nearly anything
        raise TokensError("an .npy file whose header cannot be read", "a numpy header", _DAMAGED) from error
    _check_layout(shape, dtype)
    payload = _read_payload(file, prod(shape) * dtype.itemsize, shape[-2])
    array = np.frombuffer(payload, dtype).reshape(shape, order="F" if fortran_order else "C")
    return array, config
