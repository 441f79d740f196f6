"""The bytes of token files.

`.npy` is the published packages' file: an int64 array [1, T, C] and nothing else. `.sct` is the packed
container. It also states the codec, the rate, the vocabularies and the length of the original, all little-endian:

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
|      | codes        | bits    | position by position, codebook by codebook, each token in as many bits as |
|      |              |         | its vocabulary needs, highest bit first; zeros fill the last byte         |

So 10.24 s at 25 tokens per second and 4096 centroids are 400 bytes of codes, the paper's 0.31 kbps. Tokens have only
one encoding: whoever reads a file and writes its tokens again gets the same bytes.
"""

from __future__ import annotations

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
from numpy.typing import NDArray

from . import registry
from .config import CodecConfig
from .errors import SettingsError, TokensError, choose_remedy

MAGIC = b"SCTK"
VERSION = 2
_FIELDS = struct.Struct("<4sBBBBIQ")  #: the header up to its CRC
_FIXED_BYTES = _FIELDS.size + 4  #: the header up to its vocabularies

_MAX_VOCABULARY = 2**16
_MAX_POSITIONS = 2**32 - 1
MAX_SAMPLES = 2**64 - 1
_MAX_NPY_HEADER = 10_000  #: bytes; numpy's own limit
_MAX_SIZE_BITS = 128  #: of a dimension in an .npy header; Python refuses to print numbers of thousands of digits
_MAX_RATE = _MAX_CODEBOOKS = 2**8 - 1
_PACK_POSITIONS = 2**16  #: packed at a time; a multiple of 8, so that a chunk begins with a byte
_READ_BYTES = 2**20  #: read from a stream at a time, so that a false length in a header allocates nothing

DAMAGED = "the file is damaged; copy or encode it again"


def is_container(start: bytes) -> bool:
    """Whether a file with these first bytes, at least one, is an .sct file, which states its settings, and no .npy."""
    return start[:1] == MAGIC[:1]


def pack_container(codes: NDArray[np.int32], config: CodecConfig, samples: int | None) -> bytes:
    """The bytes of an .sct file. Raises `TokensError` if a number is too large for it."""
    for name, value, limit in (
        *((f"{name} vocabulary", entries, _MAX_VOCABULARY) for name, entries in config.codebook_sizes.items()),
        ("number of codebooks", len(config.codebook_sizes), _MAX_CODEBOOKS),
        ("tokens per second", config.tps, _MAX_RATE),
        ("number of positions", len(codes), _MAX_POSITIONS),
    ):
        if value > limit:
            raise TokensError(f"{name} {value}", f"at most {limit} in an .sct file", "save it as .npy")
    _check_information(config)
    number, entries = registry.find_model(config.codec).spec.number, tuple(config.codebook_sizes.values())
    fields = _FIELDS.pack(MAGIC, VERSION, number, config.tps, len(entries), len(codes), samples or 0)
    vocabularies, payload = _pack_vocabularies(entries), _pack(codes, config.bits)
    return fields + _checksum(fields, vocabularies, payload) + vocabularies + payload


@dataclass(frozen=True)
class Container:
    """An .sct file with a valid checksum, not yet unpacked. `samples`: None if the file does not state it."""

    config: CodecConfig
    positions: int
    samples: int | None
    payload: bytes

    def unpack(self) -> NDArray[np.int32]:
        """Codes int32 [T, C], read-only."""
        codes = _unpack(self.payload, self.positions, self.config.bits)
        codes.flags.writeable = False
        return codes


def read_container(start: bytes, file: BinaryIO) -> Container:
    """Read a container from `file`, whose first bytes, `start`, were read before. Raises `TokensError`."""
    fixed = start + read_bytes(file, _FIXED_BYTES - len(start))
    if len(fixed) < _FIXED_BYTES:
        raise TokensError(f"a token file cut short: {len(fixed)} bytes", "a whole header", DAMAGED)
    _, version, number, tps, books, positions, samples = _FIELDS.unpack_from(fixed)
    if version > VERSION:
        remedy = "it was written by a newer version: upgrade sc-runtime"
        raise TokensError(f"a token file of version {version}", f"version {VERSION}", remedy)
    if version < VERSION:
        raise TokensError(f"a token file of version {version}", f"version {VERSION}", "encode the audio again")
    vocabularies = read_bytes(file, 2 * books)
    if len(vocabularies) < 2 * books:
        raise TokensError("a token file cut short in its header", f"{books} vocabularies", DAMAGED)
    config = _find_config(number, tps, tuple(entries + 1 for entries in struct.unpack(f"<{books}H", vocabularies)))
    if positions < 1:
        raise TokensError("a token file of no positions", "at least one", DAMAGED)
    _check_information(config)

    size = positions * sum(config.bits)
    payload = _read_payload(file, (size + 7) // 8, positions)
    if payload[-1] & ((1 << (-size % 8)) - 1):
        raise TokensError("a token file whose last byte is not filled with zeros", "zeros", DAMAGED)
    fields, given = fixed[: _FIELDS.size], fixed[_FIELDS.size :]
    expected = _checksum(fields, vocabularies, payload)
    if given != expected:
        raise TokensError(
            f"a token file of checksum {given.hex()}", f"{expected.hex()}, the checksum of its bytes", DAMAGED
        )
    return Container(config, positions, samples or None, payload)


def _find_config(number: int, tps: int, entries: tuple[int, ...]) -> CodecConfig:
    """The settings that a header states. Raises `TokensError`."""
    for model in registry.MODELS:
        if model.spec.number == number:
            try:
                return model.spec.config.from_codebook_sizes(tps, entries)
            except SettingsError as error:
                raise TokensError(f"a token file of {error.given}", error.expected, DAMAGED) from error
    known = ", ".join(f"{model.spec.number} {model.spec.name}" for model in registry.MODELS)
    raise TokensError(f"a token file of codec {number}", f"one of {known}", "upgrade sc-runtime if it is newer")


def count_bytes(positions: int, config: CodecConfig) -> int:
    """Number of bytes of an .sct file, header included."""
    return _FIXED_BYTES + 2 * len(config.codebook_sizes) + -(-positions * sum(config.bits) // 8)


def unpack_npy(file: BinaryIO, books: tuple[str, ...] | None = None) -> NDArray[Any]:
    """Read an .npy file after its magic: an array of codes of `books`, or of any codec's.

    `np.load` is not used: it allocates what the header claims, and when it maps the file it raises any of four
    exceptions for a false header. Raises `TokensError`.
    """
    version = read_bytes(file, 2)
    if version not in (b"\1\0", b"\2\0"):
        given = f"an .npy file of version {list(version)}"
        raise TokensError(given, "version [1, 0] or [2, 0]", "save integers with numpy.save")
    length = read_bytes(file, 2 if version == b"\1\0" else 4)
    size = int.from_bytes(length, "little")
    if size > _MAX_NPY_HEADER:
        raise TokensError(f"an .npy header of {size} bytes", f"at most {_MAX_NPY_HEADER}", DAMAGED)
    read_header = npy.read_array_header_1_0 if version == b"\1\0" else npy.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read_header(BytesIO(length + read_bytes(file, size)))
    except Exception as error:  # a Python literal: its parser may raise nearly anything
        raise TokensError("an .npy file whose header cannot be read", "a numpy header", DAMAGED) from error
    check_layout(shape, dtype, books)
    payload = _read_payload(file, prod(shape) * dtype.itemsize, shape[-2])
    return np.frombuffer(payload, dtype).reshape(shape, order="F" if fortran_order else "C")


def pack_npy(codes: NDArray[np.int32]) -> bytes:
    """The bytes of an .npy file of codes [T, C]."""
    file = BytesIO()
    npy.write_array(file, codes[np.newaxis].astype("<i8"), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def check_layout(shape: tuple[int, ...], dtype: np.dtype[Any], books: tuple[str, ...] | None) -> None:
    """Raises `TokensError` unless such an array can be codes. `books`: names of the codebooks; None: any number."""
    if any(isinstance(size, bool) or size.bit_length() > _MAX_SIZE_BITS for size in shape):
        raise TokensError("an array whose shape is no list of sizes", "whole numbers", DAMAGED)
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


@contextmanager
def open_token_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The file at `path`, which every error in the block names. Raises `TokensError`."""
    try:
        with Path(path).open("rb") as file:
            yield file
    except TokensError as error:
        raise TokensError(f"{os.fspath(path)}: {error.given}", error.expected, error.remedy) from error
    except OSError as error:
        given = f"{os.fspath(path)}: {error.strerror or error}"
        raise TokensError(given, "a token file", choose_remedy(error)) from error


def _check_information(config: CodecConfig) -> None:
    """Raises `TokensError` for vocabularies of one entry: their tokens take no bytes, so a file could claim any T."""
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


def read_bytes(file: BinaryIO, count: int) -> bytes:
    """Read `count` bytes, or fewer if the file ends before."""
    data = bytearray()
    while len(data) < count and (part := file.read(min(count - len(data), _READ_BYTES))):
        data += part
    return bytes(data)


def _read_payload(file: BinaryIO, count: int, positions: int) -> bytes:
    """Read the `count` bytes of `positions` positions, after which the file must end."""
    payload = read_bytes(file, count + 1)
    if len(payload) < count:
        raise TokensError(
            f"a token file cut short: {len(payload)} bytes of codes",
            f"{count} bytes for the {positions} positions of its header",
            DAMAGED,
        )
    if len(payload) > count:
        raise TokensError(
            "a token file with trailing bytes",
            f"its end after the {count} bytes of {positions} positions",
            DAMAGED,
        )
    return payload
