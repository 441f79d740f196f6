"""Ogg: its pages, and the streams made of them (RFC 3533).

libsndfile reads only the first of several chained streams. It does not read FLAC in Ogg (version 1.2.2: "unknown error
in flac decoder"). So each stream is read by itself, and FLAC is taken out of its pages (RFC 9639, section 10.1).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from .flac import INFO_SIZE, LARGEST_FRAME, MAGIC, START, find_length, state_samples
from .layout import Layout, LayoutError, Part
from .view import Pieces

PAGE = b"OggS"
HEADER = 27  #: bytes of a page before its table of segments
BEGINNING, END = 2, 4  #: flags of a page: the first or the last one of its stream
CHECKSUM = slice(22, 26)  #: of a page
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  #: each byte with its bits in reverse order
FLAC_PACKET = b"\x7fFLAC"  #: begins the first packet of FLAC; after 4 more bytes come the magic and STREAMINFO


@dataclass(frozen=True)
class Page:
    """A page.

    start: its offset.
    body: the offsets of its contents.
    flags: BEGINNING, END.
    has_samples: whether a sample ends in it. Headers have none.
    serial: number of its stream.
    number: of the page in its stream.
    """

    start: int
    body: range
    flags: int
    has_samples: bool
    serial: bytes
    number: int


@dataclass
class Link:
    """A link of a chain: the pages of one stream, or of several multiplexed streams that begin together."""

    pages: list[Page] = field(default_factory=list)

    @property
    def span(self) -> range:
        return range(self.pages[0].start, self.pages[-1].body.stop)

    @property
    def is_multiplexed(self) -> bool:
        return len({page.serial for page in self.pages}) > 1

    def find_first(self) -> int | None:
        """The place of the first page in which a sample ends. None without one, or if several streams are mixed."""
        if self.is_multiplexed:
            return None
        return next((place for place, page in enumerate(self.pages) if page.has_samples), None)


def examine_ogg(data: memoryview) -> Layout | None:
    """The layout of an Ogg file. None if there is no page. Raises LayoutError."""
    links: list[Link] = []
    for page in read_pages(data):
        begins = bool(page.flags & BEGINNING)
        if not links or (begins and not links[-1].pages[-1].flags & BEGINNING):
            links.append(Link())
        links[-1].pages.append(page)
    if not links:
        return None
    parts: list[Part] = []
    end = links[-1].span.stop
    note = ""
    cut = "its last Ogg page is not whole" if PAGE.startswith(bytes(data[end : end + 4])) and end < len(data) else ""
    for link in links:
        if bytes(data[link.pages[0].body.start :][: len(FLAC_PACKET)]) == FLAC_PACKET:
            pieces, reason = unpack_flac(data, link)
            parts.append(Part(pieces))
            cut = cut or reason
        else:
            parts.append(Part((link.span,)))
            cut = cut or find_damage(data, link)
            note = note or find_gap(link)
    if not note and not cut and not links[-1].is_multiplexed and not links[-1].pages[-1].flags & END:
        note = "its last Ogg page is not marked as the last: it may have been cut short"
    return Layout(() if parts == [Part((range(len(data)),))] else tuple(parts), cut, note=note)


def read_pages(data: memoryview) -> Iterator[Page]:
    """The whole pages of `data`. Other bytes between them are skipped."""
    position = 0
    while position + HEADER <= len(data):
        if bytes(data[position : position + 4]) != PAGE:
            position = find_page(data, position)
            continue
        table = data[position + HEADER : position + HEADER + data[position + 26]]
        body = range(position + HEADER + len(table), position + HEADER + len(table) + sum(table))
        if len(table) < data[position + 26] or body.stop > len(data):
            return
        header = bytes(data[position : position + HEADER])
        serial, number = header[14:18], int.from_bytes(header[18:22], "little")
        yield Page(position, body, header[5], any(header[6:14]), serial, number)
        position = body.stop


def find_damage(data: memoryview, link: Link) -> str:
    """Why the link's beginning or end is lost. "" if it is not.

    libsndfile leaves a damaged page out. It then takes the next page of samples for the first, or the page before for
    the last, so that the length that it states is too small. Damage between them leaves fewer samples than it states.
    """
    first = link.find_first()
    for page in () if first is None else (link.pages[first], link.pages[-1]):
        if not is_intact(data, page):
            return f"its Ogg page at byte {page.start} is damaged"
    return ""


def find_gap(link: Link) -> str:
    """Why the link may lack its beginning. "" if it does not. A stream that was recorded from a radio lacks it too."""
    first = link.find_first()
    if not first or link.pages[first].number == link.pages[first - 1].number + 1:
        return ""
    return f"Ogg pages before byte {link.pages[first].start} are missing: it may lack its beginning"


def is_intact(data: memoryview, page: Page) -> bool:
    """Whether the checksum of a page is that of its contents (RFC 3533, section 6).

    Ogg's CRC-32 takes the bits of a byte from the highest, zlib's from the lowest, and zlib's inverts them twice.
    """
    content = bytearray(data[page.start : page.body.stop])
    stated = int.from_bytes(content[CHECKSUM], "little")
    content[CHECKSUM] = bytes(4)
    mirrored = zlib.crc32(content.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2) == stated


def find_page(data: memoryview, position: int) -> int:
    """The offset of the next page after `position`. The end if there is none."""
    for start in range(position, len(data), 1 << 20):
        found = bytes(data[start : start + (1 << 20) + len(PAGE)]).find(PAGE)
        if found >= 0:
            return start + found
    return len(data)


def unpack_flac(data: memoryview, link: Link) -> tuple[Pieces, str]:
    """(the pieces of a FLAC file with the true number of samples, why it was cut short). Raises LayoutError."""
    first, *others = (page.body for page in link.pages)
    head = bytes(data[first.start : first.stop])[len(FLAC_PACKET) + 4 :]
    start = len(MAGIC) + 4
    last: list[bytes] = []  # bodies, from the last back
    held = 0
    for body in reversed(others):
        last.append(bytes(data[body.start : body.stop]))
        held += len(last[-1])
        if held >= LARGEST_FRAME:
            break
    info = head[start : start + INFO_SIZE]
    if not START.match(head) or len(info) < INFO_SIZE:
        raise LayoutError("its first page of FLAC is damaged", "get the file again")
    length = find_length(info, b"".join(reversed(last)))
    if length.samples is not None:
        head = head[:start] + state_samples(info, length.samples) + head[start + INFO_SIZE :]
    return (head, *others), length.cut
