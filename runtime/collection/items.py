"""One recording of a collection: its name, and where its bytes are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A recording, or a part of one.

    id: unique in the collection.
    uri: of the file or object that holds it: a local path, or a URI that fsspec opens.
    member, offset, size: of a tar: the member's name, and its bytes in the tar.
    row: of a Parquet file with audio bytes.
    start, duration: the part that is meant, in seconds. None: from the beginning; to the end.
    seconds: the length, if it is known. It serves the cutting of shards and the progress.
    problem: why the recording cannot be read, if planning found that out.
    """

    id: str
    uri: str
    member: str | None = None
    offset: int | None = None
    size: int | None = None
    row: int | None = None
    start: float | None = None
    duration: float | None = None
    seconds: float | None = None
    problem: str | None = None

    @property
    def source(self) -> str:
        """What reports call it: URI, `#` member or row, `#t=` start and end in seconds."""
        place = self.member if self.row is None else str(self.row)
        name = self.uri if place is None else f"{self.uri}#{place}"
        if self.start is None and self.duration is None:
            return name
        start = self.start or 0.0
        return f"{name}#t={start}," if self.duration is None else f"{name}#t={start},{round(start + self.duration, 6)}"

    @property
    def is_file(self) -> bool:
        """Whether the recording is a whole file or object."""
        return self.member is None and self.row is None and self.start is None and self.duration is None
