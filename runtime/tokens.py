"""Tokens, and the two files that hold them.

`.npy` is the published packages' file: an int64 array [1, T, C] and nothing else. `.sct` is the packed
container, which also knows its codec, its rate, its vocabularies and the length of the original, all little-endian:

| byte | field        | type    | holds                                                                     |
|------|--------------|---------|---------------------------------------------------------------------------|
| 0    | magic        | 4 s     | `SCTK`                                                                    |
| 4    | version      | u8      | 2                                                                         |
| 5    | codec        | u8      | 0 SemantiCodec, 1 UniCodec                                                |
| 6    | rate         | u8      | tokens per second                                                         |
| 7    | codebooks    | u8      | C, at least 1                                                             |
| 8    | positions    | u32     | T, at least 1                                                             |
| 12   | samples      | u64     | samples of the original at the codec's rate; 0: not known                 |
| 20   | CRC          | u32     | CRC-32 (zlib's) of every other byte of the file, in order                 |
| 24   | vocabularies | C × u16 | entries of each codebook, less one                                        |
|      | codes        | bits    | position by position, codebook by codebook, each token at the bits its    |
|      |              |         | vocabulary needs, most significant bit first; zeros fill the last byte    |

So 10.24 s at 25 tokens per second and 4096 centroids are 400 bytes of codes, the paper's 0.31 kbps. A file
has one spelling only: whatever decodes encodes to the same bytes again.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from .codecs import MODELS, find_model
from .config import CodecConfig
from .errors import SettingsError, TokensError
from .files import write_atomically

MAGIC = b"SCTK"
VERSION = 2
_FIELDS = struct.Struct("<4sBBBBIQ")  #: the header up to its CRC
_FIXED_BYTES = _FIELDS.size + 4  #: the header up to its vocabularies

_MAX_VOCABULARY = 2**16
_MAX_POSITIONS = 2**32 - 1
_MAX_SAMPLES = 2**64 - 1
_MAX_NPY_HEADER = 10_000  #: bytes; numpy's own limit
_MAX_RATE = _MAX_CODEBOOKS = 2**8 - 1
_PACK_POSITIONS = 2**16  #: packed at a time; a multiple of 8, so that a chunk begins with a byte
_READ_BYTES = 2**20  #: asked of a stream at a time, so that a false length in a header allocates nothing

_DAMAGED = "the file is damaged; copy or encode it again"


@dataclass(frozen=True, eq=False)
class Tokens:
    """What one recording became: a token from each codebook a position, and what is needed to decode them.

    `codes` int32 [T, C], read-only: of SemantiCodec (semantic, acoustic) of each position; a copy of whatever
    integer array [T, C] or [1, T, C] is given. `config` says the codec, the rate and the vocabularies; the sizes of
    its networks are no matter of tokens, so that neither files nor `==` know of them. `samples` is the original's
    length at the codec's rate, None if not known.

    Raises `TokensError` for a wrong shape or dtype, no position, a token outside its vocabulary, or a number
    of samples that makes another number of positions.
    """

    codes: NDArray[np.int32]
    config: CodecConfig
    samples: int | None = None

    def __post_init__(self) -> None:
        codes = _check_codes(self.codes, self.config)
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "samples", _check_samples(self.samples, len(codes), self.config))

    @classmethod
    def from_array(cls, array: ArrayLike, config: CodecConfig, samples: int | None = None) -> Tokens:
        """Take tokens from an array [T, C] or [1, T, C] of any integer dtype, which is copied.

        Raises `TokensError`, as the class does.
        """
        return cls(_as_array(array), config, samples)

    def __len__(self) -> int:
        """T: positions, of C tokens each."""
        return len(self.codes)

    def __eq__(self, other: object) -> bool:
        """Compare codes, codec, rate, vocabularies and samples."""
        if not isinstance(other, Tokens):
            return NotImplemented
        return (
            self.config.identity == other.config.identity
            and self.samples == other.samples
            and np.array_equal(self.codes, other.codes)
        )

    @property
    def seconds(self) -> float:
        """Length of the original if known, else of the audio that the tokens decode to."""
        samples = self.config.count_samples(len(self)) if self.samples is None else self.samples
        return samples / self.config.sample_rate

    @property
    def bitrate(self) -> float:
        """Bits per second of the packed codes, as in the paper's Table I; a file's header is extra."""
        return self.config.bitrate

    def require(self, config: CodecConfig) -> Tokens:
        """Return these tokens as tokens of `config`. Raises `TokensError` if codec, rate or vocabularies differ."""
        mine, wanted = self.config, config
        again = "encode the audio again with this bundle"
        if mine.codec != wanted.codec:
            raise TokensError(
                f"tokens of {mine.codec}",
                f"tokens of {wanted.codec}, the codec of the bundle",
                f"decode them with a bundle of {mine.codec}, or {again}",
            )
        if mine.tps != wanted.tps:
            raise TokensError(
                f"tokens at {mine.tps} tps",
                f"{wanted.tps} tps, the rate of the bundle",
                f"decode them with a bundle of {mine.tps} tps, or {again}",
            )
        for name, given in mine.books.items():
            expected = wanted.books[name]
            if given != expected:
                raise TokensError(
                    f"tokens whose {name} vocabulary is {given}",
                    f"{expected}, the {name} vocabulary of the bundle",
                    f"choose the vocabulary of {given}, or {again}",
                )
        return dataclasses.replace(self, config=config)

    def to_bytes(self) -> bytes:
        """Return the container (`.sct`). Raises `TokensError` if a number is too large for it."""
        config, samples = self.config, self.samples or 0
        for name, value, limit in (
            *((f"{name} vocabulary", entries, _MAX_VOCABULARY) for name, entries in config.books.items()),
            ("number of codebooks", len(config.books), _MAX_CODEBOOKS),
            ("tokens per second", config.tps, _MAX_RATE),
            ("number of positions", len(self), _MAX_POSITIONS),
        ):
            if value > limit:
                raise TokensError(f"{name} {value}", f"at most {limit} in an .sct file", "save it as .npy")
        _check_information(config)
        number, entries = find_model(config.codec).number, tuple(config.books.values())
        fields = _FIELDS.pack(MAGIC, VERSION, number, config.tps, len(entries), len(self), samples)
        vocabularies, payload = _pack_vocabularies(entries), _pack(self.codes, config.bits)
        return fields + _checksum(fields, vocabularies, payload) + vocabularies + payload

    @classmethod
    def from_bytes(cls, data: bytes, config: CodecConfig | None = None) -> Tokens:
        """Take tokens from the bytes of a file; see `read`."""
        return cls.read(BytesIO(data), config)

    @classmethod
    def read(cls, file: BinaryIO, config: CodecConfig | None = None) -> Tokens:
        """Take tokens from an open file or pipe of either kind, told apart by their first bytes.

        `config` is what the tokens must be of. Without it a container is what it says; an .npy needs it. At
        most one byte more is read than the header says there are, and no more is allocated than arrives.

        Raises `TokensError` for whatever is wrong with the file, and if it is not of `config`.
        """
        start = _read_bytes(file, len(npy.MAGIC_PREFIX))
        if start == npy.MAGIC_PREFIX:
            if config is None:
                raise TokensError(
                    "tokens in an .npy file", "to be told their rate and vocabulary", "name the bundle, or use .sct"
                )
            return cls.from_array(_read_npy(file, tuple(config.books)), config)
        if not MAGIC.startswith(start[: len(MAGIC)]):
            raise TokensError(
                f"a file that begins with {start!r}", "tokens in an .sct or .npy file", "encode audio first"
            )
        tokens = _read_container(start, file)
        return tokens if config is None else tokens.require(config)

    @classmethod
    def load(cls, path: str | os.PathLike[str], config: CodecConfig | None = None) -> Tokens:
        """Take tokens from the file at `path`; see `read`. A `TokensError` names the path."""
        with _open_file(path) as file:
            return cls.read(file, config)

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


def read_array(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read codes [T, C] of an .npy file, whichever codec they are of. A `TokensError` names the path."""
    with _open_file(path) as file:
        if _read_bytes(file, len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
            raise TokensError("a file that is no .npy", "an array of integers", _DAMAGED)
        array = _read_npy(file)
        codes = array.reshape(array.shape[-2:])
        if codes.min() < 0:
            position, column = np.argwhere(codes < 0)[0]
            raise TokensError(f"token {codes[position, column]} at position {position}", "0 or more")
        return codes


def count_bytes(positions: int, config: CodecConfig) -> int:
    """Bytes of an .sct file, its header included."""
    return _FIXED_BYTES + 2 * len(config.books) + -(-positions * sum(config.bits) // 8)


def _as_array(array: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(array)
    except (TypeError, ValueError) as error:
        given = f"a {type(array).__name__} that makes no array ({error})"
        raise TokensError(given, "integers [T, C] or [1, T, C]") from error


def _check_layout(shape: tuple[int, ...], dtype: np.dtype[Any], books: tuple[str, ...] | None) -> None:
    """`books` are the names of the codebooks, or None for any number of them."""
    if dtype.hasobject:
        remedy = "pickled files are never opened; save int64"
        raise TokensError("an array of Python objects", "integers", remedy)
    if dtype.kind not in "iu":
        raise TokensError(f"an array of dtype {dtype}", "integers", "convert it if its values are tokens")
    fits = len(shape) in (2, 3) and min(shape) >= 1 and (len(shape) == 2 or shape[0] == 1)
    if not fits or (books and shape[-1] != len(books)):
        columns, names = (len(books), " and ".join(books) + " ") if books else ("C", "")
        raise TokensError(
            f"an array of shape {list(map(int, shape))}",
            f"[T, {columns}] or [1, T, {columns}] with T at least 1",
            f"give the {names}tokens of one recording at a time",
        )


def _check_codes(array: ArrayLike, config: CodecConfig) -> NDArray[np.int32]:
    """Return a read-only int32 copy [T, C] of `array`. Raises `TokensError`."""
    given = _as_array(array)
    _check_layout(given.shape, given.dtype, tuple(config.books))
    given = given.reshape(given.shape[-2:])
    for tokens, (name, size) in zip(given.T, config.books.items(), strict=True):
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


def _check_samples(samples: int | None, positions: int, config: CodecConfig) -> int | None:
    if samples is None:
        return None
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer):
        raise TokensError(f"samples {samples!r}", f"a whole number of samples at {config.sample_rate} Hz, or None")
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


def _check_information(config: CodecConfig) -> None:
    """Refuse tokens of no bits, of which a file of no bytes could claim any number."""
    if not any(config.bits):
        raise TokensError("vocabularies of one token each", "at least two tokens in one of them")


def _checksum(*parts: bytes) -> bytes:
    return zlib.crc32(b"".join(parts)).to_bytes(4, "little")


def _pack_vocabularies(entries: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(entries)}H", *(count - 1 for count in entries))


def _pack(codes: NDArray[np.int32], bits: tuple[int, ...]) -> bytes:
    """Pack codes [T, C], column c at `bits[c]` bits, which add up to at least 1."""
    places = [(column, shift) for column, count in enumerate(bits) for shift in reversed(range(count))]
    chunks = []
    for start in range(0, len(codes), _PACK_POSITIONS):
        chunk = codes[start : start + _PACK_POSITIONS]
        ones = np.empty((len(chunk), len(places)), np.uint8)
        for place, (column, shift) in enumerate(places):
            ones[:, place] = chunk[:, column] >> shift & 1
        chunks.append(np.packbits(ones).tobytes())
    return b"".join(chunks)


def _unpack(payload: bytes, positions: int, bits: tuple[int, ...]) -> NDArray[np.int32]:
    """Unpack `positions` codes; the inverse of `_pack`. Returns int32 [T, C]."""
    width, ends = sum(bits), np.cumsum(bits)
    packed = np.frombuffer(payload, np.uint8)
    codes = np.empty((positions, len(bits)), np.int32)
    for start in range(0, positions, _PACK_POSITIONS):
        count = min(_PACK_POSITIONS, positions - start)
        ones = np.unpackbits(packed[start * width // 8 :], count=count * width).reshape(count, width)
        for column, (size, end) in enumerate(zip(bits, ends, strict=True)):
            values = 1 << np.arange(size - 1, -1, -1, dtype=np.int32)
            codes[start : start + count, column] = ones[:, end - size : end] @ values
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
    """Read the rest of a container of which `start` was read. Raises `TokensError`."""
    fixed = start + _read_bytes(file, _FIXED_BYTES - len(start))
    if len(fixed) < _FIXED_BYTES:
        raise TokensError(f"a token file cut short: {len(fixed)} bytes", "a whole header", _DAMAGED)
    _, version, number, tps, books, positions, samples = _FIELDS.unpack_from(fixed)
    if version > VERSION:
        remedy = "it was written by a newer version: upgrade sc-runtime"
        raise TokensError(f"a token file of version {version}", f"version {VERSION}", remedy)
    if version < VERSION:
        raise TokensError(f"a token file of version {version}", f"version {VERSION}", "encode the audio again")
    vocabularies = _read_bytes(file, 2 * books)
    if len(vocabularies) < 2 * books:
        raise TokensError("a token file cut short in its header", f"{books} vocabularies", _DAMAGED)
    config = _find_config(number, tps, tuple(entries + 1 for entries in struct.unpack(f"<{books}H", vocabularies)))
    if positions < 1:
        raise TokensError("a token file of no positions", "at least one", _DAMAGED)
    _check_information(config)

    size = positions * sum(config.bits)
    payload = _read_payload(file, (size + 7) // 8, positions)
    if payload[-1] & ((1 << (-size % 8)) - 1):
        raise TokensError("a token file whose last byte is not filled with zeros", "zeros", _DAMAGED)
    fields, given = fixed[: _FIELDS.size], fixed[_FIELDS.size :]
    expected = _checksum(fields, vocabularies, payload)
    if given != expected:
        raise TokensError(
            f"a token file of checksum {given.hex()}", f"{expected.hex()}, the checksum of its bytes", _DAMAGED
        )
    return Tokens(_unpack(payload, positions, config.bits), config, samples or None)


def _find_config(number: int, tps: int, entries: tuple[int, ...]) -> CodecConfig:
    """The codec that a header names. Raises `TokensError`."""
    for model in MODELS:
        if model.number == number:
            try:
                return model.config.from_books(tps, entries)
            except SettingsError as error:
                raise TokensError(f"a token file of {error.given}", error.expected, _DAMAGED) from error
    known = ", ".join(f"{model.number} {model.config.codec}" for model in MODELS)
    raise TokensError(f"a token file of codec {number}", f"one of {known}", "upgrade sc-runtime if it is newer")


@contextmanager
def _open_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The file at `path`, which every error in the block names. Raises `TokensError`."""
    try:
        with Path(path).open("rb") as file:
            yield file
    except TokensError as error:
        raise TokensError(f"{os.fspath(path)}: {error.given}", error.expected, error.remedy) from error
    except OSError as error:
        given = f"{os.fspath(path)}: {error.strerror or error}"
        raise TokensError(given, "a token file", "check its name and permissions") from error


def _read_npy(file: BinaryIO, books: tuple[str, ...] | None = None) -> NDArray[Any]:
    """Read an .npy after its magic: an array of codes of `books`, or of any codec's.

    By the parts of numpy's reader and not by `np.load`, which allocates what the header claims, or, when it
    maps the file, answers a false header with any of four exceptions. Raises `TokensError`.
    """
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
    _check_layout(shape, dtype, books)
    payload = _read_payload(file, prod(shape) * dtype.itemsize, shape[-2])
    return np.frombuffer(payload, dtype).reshape(shape, order="F" if fortran_order else "C")
