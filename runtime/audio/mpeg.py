"""MPEG audio (MP3): the number of samples follows from the number of frames, which are counted.

The first frame may state that number, in a header by Xing or by Fraunhofer ("VBRI", which libmpg123 does not read).
Without it, libsndfile guesses from the size of the first frame, and reads no further than its guess.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass, field
from functools import lru_cache

from .layout import Layout, Part

MPEG1, LAYER1, LAYER3, MONO = 3, 3, 1, 3  #: values of the fields version, layer and channel mode
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  #: version -> Hz
#: (is MPEG 1, layer) -> kbit/s by index; layer 3 is I, 2 is II, 1 is III.
BITRATES = {
    (True, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SEARCHED = 1 << 16  #: bytes that are searched for the next frame, after bytes that are no frame
VBRI = b"VBRI"


@dataclass(frozen=True)
class Header:
    """The header of a frame. `length` is that of the frame in bytes, `samples` its samples for each channel."""

    version: int
    layer: int
    rate: int
    is_mono: bool
    length: int
    samples: int

    @property
    def format(self) -> tuple[int, int, int, bool]:
        """What the frames of one stream have in common."""
        return self.version, self.layer, self.rate, self.is_mono

    @property
    def side(self) -> int:
        """Bytes of side information, which stand between the header of a frame and a Xing header."""
        if self.version == MPEG1:
            return 17 if self.is_mono else 32
        return 9 if self.is_mono else 17


@dataclass(frozen=True)
class Tag:
    """A first frame that holds no sound but, perhaps, the number of frames.

    name: "Xing", "Info" (Xing's for a constant bitrate) or "VBRI".
    start: its offset.
    length: in bytes.
    frames: the declared number of the other frames. None if it is not stated.
    position: the offset of that number.
    """

    name: bytes
    start: int
    length: int
    frames: int | None
    position: int


@dataclass
class Stream:
    """Frames of one format that follow one another.

    header: the header of the first frame.
    tag: a frame before the first frame, which is not counted.
    frames: the number of frames.
    pieces: the offsets of their bytes.
    smallest: the offset of the smallest frame, and `least` its length in bytes.
    """

    header: Header
    tag: Tag | None
    frames: int = 0
    pieces: list[range] = field(default_factory=list)
    smallest: int = 0
    least: int = sys.maxsize

    def add(self, start: int, length: int) -> None:
        """Add the frame at the offset `start`."""
        self.frames += 1
        if length < self.least:
            self.smallest, self.least = start, length
        first = self.pieces.pop().start if self.pieces and self.pieces[-1].stop == start else start
        self.pieces.append(range(first, start + length))


def examine_mpeg(data: memoryview) -> Layout | None:
    """The layout of MPEG audio of any layer. None if there are no frames."""
    streams, is_partial = read_streams(data)
    if not streams:
        return None
    cut = "its last MPEG frame is not whole" if is_partial else ""
    for stream in streams:
        declared = stream.tag.frames if stream.tag else None
        if declared is not None and declared > stream.frames + 1:  # some programs count the frame of the header
            cut = cut or f"{stream.frames} MPEG frames of {declared}"
    is_plain = len(streams) == 1 and not cut and states_length(streams[0])
    return Layout(() if is_plain else tuple(make_part(data, stream) for stream in streams), cut)


def states_length(stream: Stream) -> bool:
    """Whether libsndfile finds the true number of frames in the file, and reads them."""
    tag = stream.tag
    return bool(
        tag and tag.name != VBRI and tag.frames in (stream.frames, stream.frames + 1) and len(stream.pieces) == 1
    )


def make_part(data: memoryview, stream: Stream) -> Part:
    """`stream` in a form that libsndfile reads to its end."""
    tag = stream.tag
    if tag and tag.frames is not None and tag.name != VBRI:
        ranges = range(tag.start, tag.position), range(tag.position + 4, tag.start + tag.length)
        return Part((ranges[0], struct.pack(">I", stream.frames), ranges[1], *stream.pieces))
    # libsndfile divides the size of the file by that of the first frame. So a frame of silence, as small as the
    # smallest, is put first. (With a Xing header that states the number, libmpg123 would cut off 529 samples.)
    first, second, third = data[stream.smallest + 1 : stream.smallest + 4]
    silence = bytes([0xFF, first | 1, second, third]).ljust(stream.least, b"\0")
    samples = stream.header.samples
    least = (stream.frames - 2) * samples  # the first frames cannot be decoded if those before them were cut off
    return Part((silence, *stream.pieces), skip=samples, samples=least)


def read_streams(data: memoryview) -> tuple[list[Stream], bool]:
    """The streams of `data`, one after the other, and whether the last frame is partial.

    A stream begins where the format changes, and with each frame that holds a Xing or VBRI header. Files that were
    joined have several streams.
    """
    streams: list[Stream] = []
    position = 0
    while position + 4 <= len(data):
        header = parse_header(*data[position + 1 : position + 4]) if data[position] == 0xFF else None
        is_next = bool(streams and header and header.format == streams[-1].header.format)
        if header is None or not (is_next or is_confirmed(data, position, header)):
            position = find_frame(data, position)
            continue
        if position + header.length > len(data):
            return [stream for stream in streams if stream.frames], True
        tag = find_tag(data, position, header)
        if tag or not is_next:
            streams.append(Stream(header, tag))
        if not tag:
            streams[-1].add(position, header.length)
        position += header.length
    return [stream for stream in streams if stream.frames], False


@lru_cache(maxsize=4096)
def parse_header(first: int, second: int, third: int) -> Header | None:
    """The header of a frame, from its bytes after the 0xFF. None if it is no header, or one of a free format."""
    version, layer = first >> 3 & 3, first >> 1 & 3
    bitrate, rate, padding = second >> 4, second >> 2 & 3, second >> 1 & 1
    if first & 0xE0 != 0xE0 or version == 1 or layer == 0 or bitrate in (0, 15) or rate == 3 or third & 3 == 2:
        return None
    hertz, bits = RATES[version][rate], BITRATES[version == MPEG1, layer][bitrate] * 1000
    if layer == LAYER1:
        length, samples = (12 * bits // hertz + padding) * 4, 384
    else:
        samples = 576 if layer == LAYER3 and version != MPEG1 else 1152
        length = samples // 8 * bits // hertz + padding
    return Header(version, layer, hertz, third >> 6 == MONO, length, samples)


def is_confirmed(data: memoryview, position: int, header: Header) -> bool:
    """Whether the frame at `position` is followed by another of its format, or by the end."""
    after = position + header.length
    if after + 4 > len(data):
        return after == len(data)
    following = parse_header(*data[after + 1 : after + 4]) if data[after] == 0xFF else None
    return bool(following and following.format == header.format) or bytes(data[after : after + 3]) in (b"TAG", b"ID3")


def find_tag(data: memoryview, position: int, header: Header) -> Tag | None:
    """The Xing or VBRI header in the frame at `position`."""
    if header.layer != LAYER3:
        return None
    for offset in (header.side, header.side + 2, 32):  # a CRC of 2 bytes may precede the side information
        start = position + 4 + offset
        name = bytes(data[start : start + 4])
        if name in (b"Xing", b"Info") and start + 12 <= len(data):
            flags, frames = struct.unpack_from(">II", data, start + 4)
            return Tag(name, position, header.length, frames if flags & 1 else None, start + 8)
        if name == VBRI and start + 18 <= len(data):
            return Tag(name, position, header.length, struct.unpack_from(">I", data, start + 14)[0], start + 14)
    return None


def skip_tags(data: memoryview, position: int = 0) -> int:
    """The offset after the ID3 and APE tags at `position`."""
    while True:
        head = bytes(data[position : position + 32])
        if head.startswith(b"ID3") and len(head) >= 10:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            position += 10 + size + (10 if head[5] & 0x10 else 0)
        elif head.startswith(b"TAG"):
            position += 128
        elif head.startswith(b"APETAGEX") and len(head) == 32:
            position += 32 + struct.unpack_from("<I", head, 12)[0]
        else:
            return position


def find_frame(data: memoryview, position: int) -> int:
    """The offset after the tags at `position`; without tags, that of the next frame nearby, or else the end."""
    if (after := skip_tags(data, position)) > position:
        return after
    nearby = bytes(data[position : position + SEARCHED])
    found = 0
    while (found := nearby.find(b"\xff", found + 1)) > 0:
        start = position + found
        header = parse_header(*data[start + 1 : start + 4]) if start + 4 <= len(data) else None
        if header and is_confirmed(data, start, header):
            return start
    return len(data)
