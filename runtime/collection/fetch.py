"""From an item to its sound: a file is read where it lies, all else is copied to a temporary file first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from sc_runtime.audio import Audio
from sc_runtime.audio.blocks import BLOCK_VALUES, Samples, mix
from sc_runtime.audio.files import AudioFile, inspect_file, native_path
from sc_runtime.errors import AudioError, OutputError
from sc_runtime.files import FULL
from sc_runtime.spec import Mono

from .containers import ParquetAudio
from .files import copy_file, copy_range, explaining, is_remote
from .items import Item

#: Formats of libsndfile in which a seek is exact. A decoder of another needs what stands before the place.
SEEKABLE = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC")
READABLE = "a recording that can be read"
SYSTEM_ERROR = 2  #: libsndfile's code of a file that the system does not write


class Fetcher:
    """Opens recordings, from several threads at once.

    rate: the codec's sample rate in Hz.
    mono: how several channels become one.
    """

    def __init__(self, rate: int, mono: Mono) -> None:
        self.rate, self.mono = rate, mono
        self._parquet, self._lock = ParquetAudio(), Lock()

    @contextmanager
    def open(self, item: Item) -> Iterator[Audio]:
        """Yield the sound of `item`. An AudioError of the block says why, without naming a file.

        Raises OutputError if this machine has no room for a copy: then the recording is not at fault.
        """
        with self.fetched(item) as path, Audio(path, rate=self.rate, mono=self.mono) as audio:
            yield audio

    @contextmanager
    def fetched(self, item: Item) -> Iterator[Path]:
        """Yield a file of this machine that holds `item`, and nothing else. Errors are those of `open`."""
        if item.problem:
            raise AudioError(item.problem, READABLE)
        names = [item.source, item.uri]
        try:
            if item.is_file and not is_remote(item.uri):
                yield Path(item.uri)
                return
            with temporary_folder() as folder:
                path = folder / "audio"
                names.append(str(path))
                with explaining(item.source, AudioError, READABLE), finding_room(folder):
                    path = self.fetch(item, path)
                    names.append(str(path))
                    if item.start is not None or item.duration is not None:
                        path = cut(path, folder / "part.wav", item.start or 0.0, item.duration, self.mono)
                        names.append(str(path))
                yield path
        except AudioError as error:
            raise AudioError(drop_name(error.given, names), error.expected, error.remedy) from error

    def fetch(self, item: Item, target: Path) -> Path:
        """The file that holds the bytes of `item`: its own if that is local, else `target`, which is written."""
        if item.row is not None:
            with self._lock:
                data, path = self._parquet.read(item.uri, item.row)
            if data is not None:
                target.write_bytes(data)
                return target
            if not path:
                raise AudioError("neither bytes nor a path in this row", READABLE)
            other = path if is_remote(path) or Path(path).is_absolute() else f"{item.uri.rpartition('/')[0]}/{path}"
            return self.fetch(Item(item.id, other), target)
        if item.offset is not None and item.size is not None:
            if copy_range(item.uri, item.offset, item.size, target) < item.size:
                raise AudioError("the tar is cut short", READABLE)
            return target
        if is_remote(item.uri):
            copy_file(item.uri, target)
            return target
        return Path(item.uri)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for copies. Raises OutputError if it cannot be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="sc-runtime-")
    except OSError as error:
        raise refuse_copy(Path(tempfile.tempdir or "$TMPDIR"), error.strerror or str(error)) from error
    with folder as name:
        yield Path(name)


@contextmanager
def finding_room(folder: Path) -> Iterator[None]:
    """Raise OutputError if the block finds no room for what it writes to `folder`."""
    import soundfile

    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise refuse_copy(folder, os.strerror(error.errno)) from error
    except soundfile.LibsndfileError as error:
        if error.code != SYSTEM_ERROR:
            raise
        raise refuse_copy(folder, error.error_string.strip(". ")) from error


def refuse_copy(folder: Path, reason: str) -> OutputError:
    remedy = "make room there, or name another folder in $TMPDIR; then the same command goes on"
    return OutputError(f"{folder}: {reason}", "room for copies of recordings", remedy)


def cut(source: Path, target: Path, start: float, duration: float | None, mono: Mono) -> Path:
    """Write a part of `source` to `target`: from `start` on, `duration` seconds or less, at its rate, as mono floats.

    Raises AudioError for a part without a sample.
    """
    import soundfile

    file = inspect_file(source, str(source))
    first = round(start * file.sample_rate)
    left = None if duration is None else round((start + duration) * file.sample_rate) - first
    with soundfile.SoundFile(native_path(target), "w", file.sample_rate, 1, "FLOAT", format="WAV") as part:
        for block in read_from(file, first, mono):
            part.write(block[:left])
            left = None if left is None else left - len(block)
            if left is not None and left <= 0:
                break
        if part.frames == 0:
            given = f"a part of {duration} s from {start} s on" if duration else f"a part from {start} s on"
            raise AudioError(f"{given} that holds no sample", "a part within the recording")
    return target


def read_from(file: AudioFile, first: int, mono: Mono) -> Iterator[Samples]:
    """Mono blocks float32 [n] of `file`, at its rate, from sample `first` on. Raises AudioError."""
    import soundfile

    if file.parts == (None,):
        try:
            with soundfile.SoundFile(native_path(file.path)) as sound:
                if sound.format in SEEKABLE:
                    sound.seek(min(first, sound.frames))
                    frames = max(1, BLOCK_VALUES // sound.channels)
                    while len(block := sound.read(frames, dtype="float32", always_2d=True)):
                        yield mix(block, mono)
                    return
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{file.name}: {error.error_string.strip('. ')}", READABLE) from error
    for block in file.read(mono, BLOCK_VALUES):
        if first < len(block):
            yield block[max(first, 0) :]
        first -= len(block)


def drop_name(text: str, names: list[str]) -> str:
    """`text` without the name of a file that begins it."""
    for name in sorted(names, key=len, reverse=True):
        text = text.removeprefix(f"{name}: ")
    return text.replace(tempfile.gettempdir(), "")
