"""Audio files as a source of samples. libsndfile decodes them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sc_runtime.errors import AudioError
from sc_runtime.spec import Mono

from .blocks import Samples, check_rate, mix
from .chunks import examine_chunks
from .flac import MAGIC, examine_flac
from .folders import AUDIO_SUFFIXES
from .foreign import name_format
from .layout import Layout, LayoutError, Part
from .mpeg import examine_mpeg, skip_tags
from .ogg import PAGE, examine_ogg
from .view import View

if TYPE_CHECKING:
    from .decoder import Decoder


MPEG_SLACK = 3 * 1152  #: samples that a Xing header may count too many: one more frame, and the decoder's delay


@dataclass(frozen=True)
class AudioFile:
    """An audio file that was inspected.

    name: its name in errors.
    sample_rate: in Hz.
    parts: the recordings in it, which follow one another. None stands for the unchanged file.
    notes: what the user should know, a sentence each.
    frames: samples of a channel, as the file states them or libsndfile finds them before it decodes.
    """

    path: Path
    name: str
    sample_rate: int
    parts: tuple[Part | None, ...]
    notes: tuple[str, ...]
    frames: int = 0

    def read(self, mono: Mono, values: int) -> Iterator[Samples]:
        """Mono blocks at `sample_rate`, each from `values` samples over all channels. Raises AudioError."""
        for part in self.parts:
            with open_part(self.path, self.name, part) as file:
                frames, seen = max(1, values // file.channels), 0
                skip = part.skip if part else 0
                if skip:
                    file.read(skip)
                # The end is not passed: libFLAC reports an error for bytes that are no frame.
                while len(block := file.read(min(frames, file.frames - skip - seen), dtype="float32", always_2d=True)):
                    seen += len(block)
                    yield mix(block, mono)
                least = part.samples if part and skip else file.frames - (MPEG_SLACK if file.format == "MP3" else 0)
                if seen < least:
                    given = f"{self.name}: decoding ended after {seen} samples of {least}"
                    raise AudioError(given, "a whole file", "parts of the file are damaged or missing")


def inspect_file(path: Path, name: str, allow_truncated: bool = False) -> AudioFile:
    """Inspect the file at `path`. Raises AudioError if it is no audio, or cut short without `allow_truncated`."""
    if path.stat().st_size == 0:
        raise AudioError(f"{name}: empty file", "audio")
    if path.suffix.lower() == ".raw":
        raise AudioError(f"{name}: samples without a header", "an audio file", "convert it to WAV")
    try:
        known = examine(path)
    except LayoutError as error:
        raise AudioError(f"{name}: {error.given}", "one whole recording", error.remedy) from None
    layout = known or Layout()
    if layout.cut and not layout.is_certain and can_read_end(path):
        layout = Layout(note=layout.note)
    if layout.cut and not allow_truncated:
        remedy = "get the whole file, or accept what is left with --allow-truncated (in Python, allow_truncated=True)"
        raise AudioError(f"{name}: truncated, {layout.cut}", "a whole file", remedy)
    parts: tuple[Part | None, ...] = layout.parts or (None,)
    rates, frames = [], 0
    for part in parts:
        with open_part(path, name, part) as file:
            rates.append(check_rate(name, file.samplerate))
            frames += file.frames
            if file.format == "MP3" and known is None:
                raise decoding_error(path, name, "MPEG frames cannot be found")
    if frames == 0:
        raise AudioError(f"{name}: no samples", "audio")
    if len(set(rates)) > 1:
        given = f"{name}: recordings at {' and '.join(map(str, dict.fromkeys(rates)))} Hz, one after the other"
        raise AudioError(given, "one sample rate", "split the file")
    notes = [f"{name}: truncated, {layout.cut}"] if layout.cut else []
    notes += [f"{name}: {layout.note}"] if layout.note else []
    return AudioFile(path, name, rates[0], parts, tuple(notes), frames)


def examine(path: Path) -> Layout | None:
    """The layout of the file at `path`. None if its format is not examined. Raises LayoutError."""
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if bytes(data[: len(PAGE)]) == PAGE:
        return examine_ogg(data)
    start = skip_tags(data)
    if bytes(data[start : start + len(MAGIC)]) == MAGIC:
        return examine_flac(data, start)
    return examine_chunks(data) or (examine_mpeg(data) if start or data[0] == 0xFF else None)


def can_read_end(path: Path) -> bool:
    """Whether libsndfile decodes the last sample of the file at `path`."""
    import soundfile

    try:
        with soundfile.SoundFile(native_path(path)) as file:
            file.seek(file.frames - 1)
            return len(file.read(1)) == 1
    except soundfile.LibsndfileError:
        return False


@contextmanager
def open_part(path: Path, name: str, part: Part | None) -> Iterator[Decoder]:
    """Yield `part` of the file at `path`, opened by libsndfile. Its errors in the block become AudioError."""
    import soundfile

    from .decoder import Decoder

    with ExitStack() as stack:
        try:
            source = native_path(path) if part is None else stack.enter_context(View(path, part.pieces))
            yield stack.enter_context(Decoder(source))
        except soundfile.LibsndfileError as error:
            raise decoding_error(path, name, error.error_string.strip(". ")) from error


def decoding_error(path: Path, name: str, reason: str) -> AudioError:
    """The error of a file that cannot be decoded. It names a format that libsndfile lacks, or else `reason`."""
    formats = f"a whole file in {' '.join(sorted(set(AUDIO_SUFFIXES.values())))}"
    if foreign := name_format(path):
        return AudioError(f"{name}: {foreign}", formats, "convert it, with `ffmpeg -i IN OUT.flac` for example")
    return AudioError(f"{name}: {reason}", formats, "the file is damaged, cut short, or not audio")


def native_path(path: Path) -> str | bytes:
    """`path` in a form that soundfile accepts even if the name is not valid text."""
    return str(path) if os.name == "nt" else os.fsencode(path)
