"""Containers whose headers state the number of bytes of samples: WAV, RF64, W64, AIFF, CAF, AU and NIST."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .layout import Layout, LayoutError, Part
from .view import Pieces, replace

PIPED_SIZE = 0x7F00_0000  #: bytes; a program that writes to a pipe declares this or more in place of the size
PIPED_SIZE_64 = 1 << 48  #: the same where sizes have 64 bits
LARGEST_TAIL = 4096  #: bytes of an unknown kind after the samples; if there are more, they may be samples too

W64_CHUNK = bytes.fromhex("f3acd3118cd100c04f8edb8a")  #: the end of the name of every chunk of W64
W64_FILE = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")

#: First bytes of files that may have been appended to another file.
FILES = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b".snd", b"dns.", b"NIST_1A", b"fLaC", b"OggS", W64_FILE)
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")  #: metadata that programs append to any file


@dataclass(frozen=True)
class SampleData:
    """The samples of a container.

    start: the offset of the first sample.
    size: the declared number of bytes. None if the header does not state it.
    patches: (offset, bytes) that change the header, so that the samples extend to the end of the file.
    chunks: the format of the chunks that may follow. None if the container has no chunks.
    whole: the declared size of the file in bytes, which is used if `size` is None.
    """

    start: int
    size: int | None
    patches: tuple[tuple[int, bytes], ...] = ()
    chunks: Chunks | None = None
    whole: int = 0


@dataclass(frozen=True)
class Chunks:
    """The format of the chunks of a container: a name, a size, the contents.

    first: the offset of the first chunk.
    name: the length of a name in bytes.
    size: the struct format of a size.
    counts_header: whether a size includes the name and the size.
    align: chunks begin at multiples of this offset.
    trusted: whether libsndfile stops at the end of the samples.
    """

    first: int
    name: int
    size: str
    counts_header: bool = False
    align: int = 2
    trusted: bool = True

    @property
    def header(self) -> int:
        """Bytes of a name and a size."""
        return self.name + struct.calcsize(self.size)

    def walk(self, data: memoryview, start: int) -> Iterator[tuple[bytes, int, int]]:
        """(name, offset of the contents, bytes of the contents as declared) of the chunks from `start` on."""
        while start + self.header <= len(data):
            name = bytes(data[start : start + self.name])
            (size,) = struct.unpack_from(self.size, data, start + self.name)
            contents = start + self.header
            size -= self.header if self.counts_header else 0
            yield name, contents, size
            if size < 0:
                return
            start = contents + size + -(contents + size) % self.align

    def find(self, data: memoryview, name: bytes) -> tuple[int, int] | None:
        """(offset, declared bytes) of the contents of the first chunk whose name begins with `name`."""
        return next((found[1:] for found in self.walk(data, self.first) if found[0].startswith(name)), None)

    def follow(self, data: memoryview, start: int) -> bool:
        """Whether whole chunks, and nothing else, lie between `start` and the end."""
        start += -start % self.align
        end = start
        for name, contents, size in self.walk(data, start):
            is_named = name.endswith(W64_CHUNK) if self.name == 16 else all(32 <= letter < 127 for letter in name)
            end = contents + size
            if not is_named or size < 0 or end > len(data):
                return False
        return end > start or start >= len(data)


RIFF, RIFX, AIFF = Chunks(12, 4, "<I"), Chunks(12, 4, ">I"), Chunks(12, 4, ">I")
W64 = Chunks(40, 16, "<q", counts_header=True, align=8, trusted=False)
CAF = Chunks(8, 4, ">q", align=1)


def examine_chunks(data: memoryview) -> Layout | None:
    """The layout of `data`. None if it is none of these containers, or has no samples.

    Raises LayoutError if there are bytes after the samples that may be samples too.
    """
    samples = find_samples(data)
    if samples is None or samples.start >= len(data):
        return None
    to_the_end, held = (patch(data, samples),), len(data) - samples.start
    is_cut = len(data) + 8 < samples.whole < (PIPED_SIZE_64 if samples.chunks is W64 else PIPED_SIZE)
    open_end = Layout(to_the_end, cut=f"{len(data)} bytes of {samples.whole}" if is_cut else "")
    if samples.size is None:
        return open_end
    if samples.size > held:
        is_padding = samples.chunks and samples.size - held < samples.chunks.align and held % 2 == 0
        return Layout(to_the_end, cut="" if is_padding else f"{held} bytes of {samples.size}")
    end = samples.start + samples.size
    rest = bytes(data[end : end + (1 << 20)])
    if rest.lstrip(b"\0").startswith(FILES):
        second = end + len(rest) - len(rest.lstrip(b"\0"))
        raise LayoutError(f"another file is appended to it at byte {second}", "split it into its files")
    is_explained = not rest or rest.startswith(TAGS) or (samples.chunks and samples.chunks.follow(data, end))
    if samples.size == 0:
        return None if is_explained else open_end
    if not is_explained and len(rest) > LARGEST_TAIL and rest.strip(b"\0"):
        given = f"its header declares {samples.size} bytes of samples, but {len(data) - end} more follow"
        raise LayoutError(given, "repair its header, or convert it with `sox --ignore-length IN OUT`")
    if not rest or (is_explained and samples.chunks and samples.chunks.trusted):
        return Layout()
    return Layout((Part((range(end),)),))


def patch(data: memoryview, samples: SampleData) -> Part:
    """The file with a changed header, by which the samples extend to the end of the file."""
    pieces: Pieces = (range(len(data)),)
    for offset, field in samples.patches:
        pieces = replace(pieces, offset, field)
    return Part(pieces)


def find_samples(data: memoryview) -> SampleData | None:
    """The samples of `data`, by its first bytes. None if it is none of these containers, or has no samples."""
    magic, kind = bytes(data[:4]), bytes(data[8:12])
    if magic in (b"RIFF", b"RIFX", b"RF64") and kind == b"WAVE":
        return find_wav(data, RIFX if magic == b"RIFX" else RIFF)
    if bytes(data[:16]) == W64_FILE:
        return find_w64(data)
    if magic == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return find_aiff(data)
    if magic == b"caff":
        return find_caf(data)
    if magic in (b".snd", b"dns."):
        return find_au(data)
    return find_nist(data) if magic == b"NIST" else None


def find_wav(data: memoryview, chunks: Chunks) -> SampleData | None:
    """WAV in either byte order, and RF64 (EBU Tech 3306), whose chunk `ds64` holds sizes of 64 bits."""
    found = chunks.find(data, b"data")
    if found is None:
        return None
    start, size = found
    largest = 0xFFFF_FFFF  # libsndfile reads a WAV that declares it to the end
    patches = tuple(
        (at, struct.pack(chunks.size, min(len(data) - after, largest))) for at, after in ((4, 8), (start - 4, start))
    )
    is_open, whole = size >= PIPED_SIZE, 8 + struct.unpack_from(chunks.size, data, 4)[0]
    if bytes(data[:4]) == b"RF64":
        patches = (0, b"RIFF"), *patches
        wide = chunks.find(data, b"ds64")
        if wide and size == 0xFFFF_FFFF and wide[0] + 16 <= len(data):
            patches = *patches, (wide[0] - 8, b"JUNK")
            whole, size = struct.unpack_from("<qq", data, wide[0])
            is_open = size <= 0 or size >= PIPED_SIZE_64
    return SampleData(start, None if is_open else size, patches, chunks, whole)


def find_w64(data: memoryview) -> SampleData | None:
    found = W64.find(data, b"data")
    if found is None:
        return None
    start, size = found
    sizes = (16, struct.pack("<q", len(data))), (start - 8, struct.pack("<q", len(data) - start + W64.header))
    (whole,) = struct.unpack_from("<q", data, 16)
    return SampleData(start, None if size >= PIPED_SIZE_64 else max(size, 0), sizes, W64, whole)


def find_aiff(data: memoryview) -> SampleData | None:
    """AIFF and AIFF-C. The contents of the chunk SSND begin with an offset and a block size, of 4 bytes each."""
    found = AIFF.find(data, b"SSND")
    if found is None or found[0] + 8 > len(data):
        return None
    contents, size = found
    start = contents + 8 + struct.unpack_from(">I", data, contents)[0]
    largest = 0x7FFF_FFFF
    patches = (
        (4, struct.pack(">I", min(len(data) - 8, largest))),
        (contents - 4, struct.pack(">I", min(len(data) - contents, largest))),
    )
    left = None if size >= PIPED_SIZE else max(size - (start - contents), 0)
    return SampleData(start, left, patches, AIFF, whole=8 + struct.unpack_from(">I", data, 4)[0])


def find_caf(data: memoryview) -> SampleData | None:
    """The contents of the chunk `data` begin with an edit count of 4 bytes. A size of -1 means to the end."""
    found = CAF.find(data, b"data")
    if found is None:
        return None
    contents, size = found
    patches = ((contents - 8, struct.pack(">q", len(data) - contents)),)
    return SampleData(contents + 4, None if size < 0 or size >= PIPED_SIZE_64 else max(size - 4, 0), patches, CAF)


def find_au(data: memoryview) -> SampleData | None:
    """A size of 2³² - 1 means that the size is not stated."""
    if len(data) < 24:
        return None
    order = ">" if bytes(data[:4]) == b".snd" else "<"
    start, size = struct.unpack_from(f"{order}II", data, 4)
    return SampleData(start, None if size >= PIPED_SIZE else size, ((8, b"\xff\xff\xff\xff"),))


def find_nist(data: memoryview) -> SampleData | None:
    """NIST SPHERE: a header of text states samples, channels and bytes of a sample."""
    header = bytes(data[:1024]).decode("latin-1")
    found = {name: int(number) for name, number in re.findall(r"^(\w+) -i (\d+)", header, re.MULTILINE)}
    length = re.match(r"NIST_1A\s+(\d+)", header)
    factors = [found.get(name, 0) for name in ("sample_count", "channel_count", "sample_n_bytes")]
    if length is None or not all(factors):
        return None
    return SampleData(int(length[1]), factors[0] * factors[1] * factors[2])
