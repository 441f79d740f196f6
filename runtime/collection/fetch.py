"""From an item to its sound: a file is read where it lies, all else is copied to a temporary file first."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from sc_runtime.audio import Audio
from sc_runtime.audio.blocks import BLOCK_VALUES
from sc_runtime.audio.files import native_path, open_file
from sc_runtime.errors import AudioError
from sc_runtime.spec import Mono

from .containers import ParquetAudio
from .files import copy_file, copy_range, explaining, is_remote
from .items import Item

READABLE = "a recording that can be read"


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
        """Yield the sound of `item`. An AudioError of the block says why, without naming a file."""
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
            with tempfile.TemporaryDirectory(prefix="sc-runtime-") as folder:
                path = Path(folder, "audio")
                names.append(str(path))
                with explaining(item.source, AudioError, READABLE):
                    path = self.fetch(item, path)
                if item.start is not None or item.duration is not None:
                    names.append(str(path))
                    path = cut(path, Path(folder, "part.wav"), item.start or 0.0, item.duration)
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


def cut(source: Path, target: Path, start: float, duration: float | None) -> Path:
    """Write a part of `source` to `target`: from `start` on, `duration` seconds or less, at the same rate, as floats.

    Raises AudioError if it begins after the end.
    """
    import soundfile

    Audio(source, rate=16000).close()  # raises AudioError for a file that was cut short
    with open_file(source, str(source)) as file:
        first = round(start * file.samplerate)
        if first >= file.frames:
            given = f"a part that begins at {start} s of {file.frames / file.samplerate:.3f} s"
            raise AudioError(given, "a part within the recording")
        stop = file.frames if duration is None else min(file.frames, round((start + duration) * file.samplerate))
        left = stop - first
        if left < 1:
            raise AudioError(f"a part of {duration} s", "a sample or more")
        file.seek(first)
        frames = max(1, BLOCK_VALUES // file.channels)
        with soundfile.SoundFile(native_path(target), "w", file.samplerate, file.channels, "FLOAT") as part:
            while left > 0 and len(block := file.read(min(frames, left), dtype="float32", always_2d=True)):
                part.write(block)
                left -= len(block)
    return target


def drop_name(text: str, names: list[str]) -> str:
    """`text` without the name of a file that begins it."""
    for name in sorted(names, key=len, reverse=True):
        text = text.removeprefix(f"{name}: ")
    return text.replace(tempfile.gettempdir(), "")
