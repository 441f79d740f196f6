"""Audio files as a source of samples, by libsndfile."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sc_runtime.errors import AudioError
from sc_runtime.spec import Mono

from .blocks import Samples, check_rate, mix
from .folders import AUDIO_SUFFIXES

if TYPE_CHECKING:
    from soundfile import SoundFile

PIPED_SIZE = 0x7F00_0000  #: bytes: a program that writes to a pipe does not know the size, and declares this or more

#: libsndfile's log on a file that holds less than its header declares (WAV, W64, RF64, AIFF, AU, CAF).
CUT_SHORT = re.compile(r"^ *(?:data|Data Size|riff|Riff size|SSND) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
CUT_PAGE = "Junk after the last page"  #: libsndfile's log on an Ogg file that does not end with a whole page


def inspect_file(path: Path, name: str) -> int:
    """The sample rate in Hz of the file at `path`. Raises AudioError if it is not audio or was cut short."""
    if path.stat().st_size == 0:
        raise AudioError(f"{name}: empty file", "audio")
    if path.suffix.lower() == ".raw":
        raise AudioError(f"{name}: samples without a header", "an audio file", "convert it to WAV")
    with open_file(path, name) as file:
        rate, frames, log = file.samplerate, file.frames, file.extra_info
    if frames == 0:
        raise AudioError(f"{name}: no samples", "audio")
    remedy = "get the whole file, or rewrite this one with an audio editor to accept what is left"
    for declared, held in CUT_SHORT.findall(log):
        if int(declared) < PIPED_SIZE:
            raise AudioError(f"{name}: truncated, {held} bytes of {declared}", "a whole file", remedy)
    if CUT_PAGE in log:
        raise AudioError(f"{name}: truncated, its last Ogg page is not whole", "a whole file", remedy)
    return check_rate(name, rate)


def read_file(path: Path, name: str, mono: Mono, values: int) -> Iterator[Samples]:
    """Mono blocks of the file at `path`, at its own rate, `values` samples over all channels at a time."""
    with open_file(path, name) as file:
        frames = max(1, values // file.channels)
        while len(block := file.read(frames, dtype="float32", always_2d=True)):
            yield mix(block, mono)


@contextmanager
def open_file(path: Path, name: str) -> Iterator[SoundFile]:
    """Yield `path` opened by libsndfile. Its errors, in the whole block, become AudioError."""
    import soundfile

    try:
        with soundfile.SoundFile(native_path(path)) as file:
            yield file
    except soundfile.LibsndfileError as error:
        formats = " ".join(sorted(set(AUDIO_SUFFIXES.values())))
        remedy = "the file is damaged, cut short, or not audio"
        raise AudioError(f"{name}: {error.error_string.strip('. ')}", f"a whole file in {formats}", remedy) from error


def native_path(path: Path) -> str | bytes:
    """`path` in the form that soundfile accepts whatever bytes the name holds."""
    return str(path) if os.name == "nt" else os.fsencode(path)
