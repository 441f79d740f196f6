"""Ogg: its pages, and the streams made of them (RFC 3533).

libsndfile reads only the first of several chained streams. It does not read FLAC in Ogg (version 1.2.2: "unknown error
in flac decoder"). So each stream is read by itself, and FLAC is taken out of its pages (RFC 9639, section 10.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .flac import INFO_SIZE, LARGEST_FRAME, MAGIC, START, find_length, state_samples
from .layout import Layout, LayoutError, Part
from .view import Pieces

PAGE = b"OggS"
HEADER = 27  #: bytes of a page before its table of segments
BEGINNING, END = 2, 4  #: flags of a page: the first or the last one of its stream
FLAC_PACKET = b"\x7fFLAC"  #: begins the first packet of FLAC; after 4 more bytes come the magic and STREAMINFO


@dataclass(frozen=True)
class Page:
    """A page: its offset, the offsets of its contents, its flags, and the serial number of its stream."""

    start: int
    body: range
    flags: int
    serial: bytes


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
    cut = "its last Ogg page is not whole" if PAGE.startswith(bytes(data[end : end + 4])) and end < len(data) else ""
    for link in links:
        if bytes(data[link.pages[0].body.start :][: len(FLAC_PACKET)]) == FLAC_PACKET:
            pieces, reason = unpack_flac(data, link)
            parts.append(Part(pieces))
            cut = cut or reason
        else:
            parts.append(Part((link.span,)))
    note = ""
    if not cut and not links[-1].is_multiplexed and not links[-1].pages[-1].flags & END:
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
        yield Page(position, body, data[position + 5], bytes(data[position + 14 : position + 18]))
        position = body.stop


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
