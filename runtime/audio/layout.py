"""Where the samples of a file lie, and whether the file is whole.

A header may state a wrong length, because it was written before the length was known. libsndfile trusts it or guesses.
So the length is found from the contents of the file: `chunks` examines WAV, RF64, W64, AIFF, AU, CAF and NIST, `mpeg`
MP3, `ogg` Ogg, `flac` FLAC. These modules decode nothing.
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

    pieces: the bytes that libsndfile reads.
    skip: samples per channel that it decodes first and that do not belong to the recording.
    samples: samples per channel that must follow, at least.
    """

    pieces: Pieces
    skip: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Layout:
    """The sound of one file.

    parts: the recordings in it, which follow one another. Empty: libsndfile reads the file as it is.
    cut: why the file is known to have been cut short; the parts hold what is left. "" if it is whole.
    is_certain: False if the end may be bytes that are no audio, after a whole file. Then the file counts as cut only if
        its last sample cannot be decoded.
    note: what the user should know about a file that can be read. "" if there is nothing.
    """

    parts: tuple[Part, ...] = ()
    cut: str = ""
    is_certain: bool = True
    note: str = ""
