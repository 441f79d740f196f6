"""A file with some bytes left out and some replaced, as a decoder reads it."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

Pieces = tuple[bytes | range, ...]  #: given bytes, and ranges of the offsets of a file


class View(io.RawIOBase):
    """`pieces` of the file at `path`, one after the other, as a file that can be read.

    libsndfile trusts headers. So it reads a file with a wrong header through a view with the right one.
    """

    def __init__(self, path: Path, pieces: Pieces) -> None:
        self._pieces = [piece for piece in pieces if len(piece)]
        self._starts = [0, *accumulate(map(len, self._pieces))]  #: of each piece in the view, and the end
        self._position = 0
        self._file = path.open("rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        done = 0
        while done < len(target) and self._position < self._starts[-1]:
            number = bisect_right(self._starts, self._position) - 1
            piece, skip = self._pieces[number], self._position - self._starts[number]
            count = min(len(target) - done, len(piece) - skip)
            if isinstance(piece, range):
                self._file.seek(piece.start + skip)
                count = self._file.readinto(target[done : done + count])
                if not count:  # the file has become shorter
                    break
            else:
                target[done : done + count] = piece[skip : skip + count]
            done += count
            self._position += count
        return done

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def replace(pieces: Pieces, offset: int, data: bytes) -> Pieces:
    """`pieces`, which are ranges of a file, with the bytes of the file at `offset` replaced by `data`."""
    changed: list[bytes | range] = []
    for piece in pieces:
        if isinstance(piece, range) and piece.start <= offset and offset + len(data) <= piece.stop:
            changed += [range(piece.start, offset), data, range(offset + len(data), piece.stop)]
        else:
            changed.append(piece)
    return tuple(changed)
