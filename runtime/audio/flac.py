"""FLAC: the number of samples follows from the last frame (RFC 9639, sections 8.2 and 9.1)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from .chunks import TAGS
from .layout import Layout, LayoutError, Part
from .view import Pieces, replace

HEADER_BYTES = 16  #: the most that the header of a frame has, with its CRC-8
LARGEST_FRAME = 1 << 21  #: bytes before the end that are searched for the last frame
MOST_HEADERS = 5  #: that are tried for the last frame
MAGIC = b"fLaC"
START = re.compile(rb"fLaC[\0\x80]\0\0\x22")  #: the magic and the head of the first block, STREAMINFO, of 34 bytes
INFO_SIZE = 34
BLOCK_SIZES = {1: 192, **{code: 144 << code for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}


@dataclass(frozen=True)
class Frame:
    """A frame whose header has the right CRC-8.

    first: the number of its first sample.
    samples: the number of its samples, for each channel.
    ends: where its CRC-16 is right, in bytes from its beginning: at its end, and at a few other places by chance.
    is_whole: whether one of them is the end of the file, or what may follow the last frame stands there.
    """

    first: int
    samples: int
    ends: tuple[int, ...]
    is_whole: bool


@dataclass(frozen=True)
class Length:
    """How many samples a stream holds.

    samples: their number. None if STREAMINFO states it.
    cut, is_certain: as in `Layout`.
    """

    samples: int | None = None
    cut: str = ""
    is_certain: bool = True


def examine_flac(data: memoryview, start: int) -> Layout | None:
    """The layout of a FLAC file that begins at `start`, or of several that were joined. Raises LayoutError.

    None if no STREAMINFO begins at `start`.
    """
    starts = [match.start() for match in START.finditer(data) if match.start() + len(MAGIC) + 4 + INFO_SIZE < len(data)]
    if start not in starts:
        return None
    starts = [position for position in starts if position >= start]
    parts: list[Part] = []
    length = Length()
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        offset = start + len(MAGIC) + 4
        info = bytes(data[offset : offset + INFO_SIZE])
        length = find_length(info, data[offset + INFO_SIZE : end])
        if length.cut and end < len(data):
            given = f"another file is appended to it at byte {end}, but {length.cut}"
            raise LayoutError(given, "split it into its files")
        pieces: Pieces = (range(start, end),)
        if length.samples is not None:
            pieces = replace(pieces, offset, state_samples(info, length.samples))
        parts.append(Part(pieces))
    is_one = len(starts) == 1
    is_plain = is_one and length.samples is None
    return Layout(() if is_plain else tuple(parts), length.cut, length.is_certain or not is_one)


def find_length(info: bytes, frames: memoryview | bytes) -> Length:
    """The length of a stream. Raises LayoutError.

    info: the contents of STREAMINFO. frames: the rest of the stream, or its last 2 MB.
    """
    head, tail = struct.unpack_from(">BI", info, 13)
    declared = (head & 0x0F) << 32 | tail  # 36 bits; 0 is unknown
    frame = find_last_frame(frames, block_size=struct.unpack_from(">H", info, 2)[0])
    if frame is None:
        if declared == 0:
            raise LayoutError("there is no FLAC frame in it", "get the whole file")
        return Length()  # decoding reports it
    held = frame.first + frame.samples
    left = held if frame.is_whole else frame.first
    if declared > held:
        return Length(left, f"{left} samples of {declared}")
    if not frame.is_whole:
        return Length(left, "its last FLAC frame is not whole", is_certain=declared != held)
    return Length(None if declared == held else held)


def state_samples(info: bytes, samples: int) -> bytes:
    """STREAMINFO with another number of samples."""
    return info[:13] + struct.pack(">BI", info[13] & 0xF0 | samples >> 32, samples & 0xFFFF_FFFF) + info[18:]


def find_last_frame(data: memoryview | bytes, block_size: int) -> Frame | None:
    """The last frame in `data`. `block_size` is that of the stream.

    In one of a few thousand files the last frame's data look like a header, with the right CRC-8. So if the last header
    has no whole frame, those before it are tried. A whole frame is the last one. A frame that ends where a later header
    begins proves that header.
    """
    tail = bytes(data[max(0, len(data) - LARGEST_FRAME) :])
    position = len(tail)
    found: dict[int, Frame] = {}
    while len(found) < MOST_HEADERS and (position := tail.rfind(b"\xff", 0, position)) >= 0:
        if not read_frame(tail[position : position + HEADER_BYTES], block_size):
            continue
        frame = read_frame(tail[position:], block_size)
        assert frame is not None
        if frame.is_whole:
            return frame
        proven = [position + end for end in frame.ends if position + end in found]
        if proven:
            return found[proven[-1]]
        found[position] = frame
    return next(iter(found.values()), None)


def read_frame(data: bytes, block_size: int) -> Frame | None:
    """The frame that `data` begins with. Zeros or metadata may follow it. None if there is no header.

    block_size: the stream's, which converts the number of a frame to that of a sample.
    """
    if len(data) < 6 or data[0] != 0xFF or data[1] & 0xFE != 0xF8:
        return None
    size_code, rate_code, first = data[2] >> 4, data[2] & 15, data[4]
    extra = 0 if first < 0x80 else 8 - (first ^ 0xFF).bit_length() - 1  # bytes after the first, as in UTF-8
    if size_code == 0 or rate_code == 15 or data[3] & 1 or (first >= 0x80 and not 1 <= extra <= 6):
        return None
    number = first if extra == 0 else first & (0x3F >> extra)
    position = 5
    for byte in data[position : position + extra]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    position += extra
    size_bytes, rate_bytes = {6: 1, 7: 2}.get(size_code, 0), {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    samples = BLOCK_SIZES.get(size_code) or int.from_bytes(data[position : position + size_bytes], "big") + 1
    position += size_bytes + rate_bytes
    if len(data) <= position or list(run_crc(data[:position], 8, 0x07))[-1] != data[position]:
        return None
    ends = tuple(end for end, value in enumerate(run_crc(data, 16, 0x8005), 1) if value == 0 and end > position + 2)
    is_whole = any(not data[end:].strip(b"\0") or data[end:].startswith(TAGS) for end in ends)
    return Frame(number if data[1] & 1 else number * block_size, samples, ends, is_whole)


def run_crc(data: bytes, bits: int, polynomial: int) -> Iterator[int]:
    """The CRC of `data` after each byte, most significant bit first. It is 0 after data that end with their CRC."""
    table = make_table(bits, polynomial)
    mask, value = (1 << bits) - 1, 0
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> bits - 8 ^ byte]
        yield value


@cache
def make_table(bits: int, polynomial: int) -> tuple[int, ...]:
    """The CRC of each byte."""
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value >> bits - 1 else 0)) & (1 << bits) - 1
        table.append(value)
    return tuple(table)
