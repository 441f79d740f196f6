"""Where the sound of a file lies, and whether it is all there.

Headers state lengths that a recorder or a pipe did not know, and libsndfile believes them or guesses. So the length is
decided here from what the file holds: `chunks` reads WAV, RF64, W64, AIFF, AU, CAF and NIST, `mpeg` MP3, `ogg` Ogg,
`flac` FLAC. They decode nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from .view import Pieces


class LayoutError(Exception):
    """The length of a file cannot be found. `given` is the reason, `remedy` what to do."""

    def __init__(self, given: str, remedy: str) -> None:
        super().__init__(given, remedy)
        self.given, self.remedy = given, remedy


@dataclass(frozen=True)
class Part:
    """A recording in a file.

    pieces: what libsndfile reads.
    skip: the number of samples, for each channel, that it decodes first and that are not of the file.
    samples: the least number of samples, for each channel, that follow them.
    """

    pieces: Pieces
    skip: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Layout:
    """The sound of one file.

    parts: the recordings in it, which follow one another. Empty: libsndfile reads the file as it is.
    cut: why the file is known to have been cut short; the parts hold what is left. "" if it is whole.
    is_certain: False if bytes that are no sound may follow a whole file. Then it was cut if its last sample cannot be
        decoded.
    note: what the user should know about a file that can be read. "" if there is nothing.
    """

    parts: tuple[Part, ...] = ()
    cut: str = ""
    is_certain: bool = True
    note: str = ""
