"""A recording as a codec reads it: mono float32 at the codec's rate.

`soundfile` and `soxr` are imported where they are used: arrays at the codec's rate need neither.
"""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sc_runtime.errors import MAKE_ROOM, AudioError, AudioWarning, choose_remedy, first_line
from sc_runtime.spec import Mono

from .arrays import SupportsArray, check_array, convert_array, read_array
from .blocks import BLOCK_VALUES, Samples, check_length, check_rate, check_samples, limit_length, resample
from .files import inspect_file

AudioSource = SupportsArray | str | os.PathLike[str] | bytes | BinaryIO | np.ndarray
PART_BYTES = 1 << 20  #: of a stream that are copied at a time
UNKNOWN = 1 << 48  #: samples: libsndfile states more than these where a file does not state its length


class Audio:
    """A recording, mono float32 at `rate` Hz, that can be read several times.

    Memory does not grow with its length.

    Arguments:
        source: the path of a file that libsndfile reads; the bytes of one; a binary stream (standard input); or a NumPy
            array, or a tensor of another library in the CPU's memory, [n] or [n, channels] of int16,
            int32 (full scale becomes 1) or floats. An array is not copied. A stream is copied to a temporary file,
            which `close`, or the end of a `with` block, removes.
        sample_rate: in Hz. For an array, None means `rate`. For a file, it must equal the rate that the file states.
        rate: the codec's sample rate in Hz.
        mono: how several channels become one: "first" or "mean".
        allow_truncated: whether a file that was cut short is read as far as it goes, with an AudioWarning.
        max_seconds: the longest recording that is read. A longer one is refused before it is decoded where its length
            is stated, and while it is read where it is not. None is no limit.

    Attributes: `sample_rate`, that of the source in Hz; `rate`; `name`, the source's name in errors.

    Raises AudioError: here for a source that is missing, empty, not audio or cut short; in `blocks` for data that is
    damaged and for samples that are NaN, infinite or above 2³¹. The length of a file follows from what it holds (see
    `layout`), not from what its header declares. If the system refused, for want of room for the copy of a stream for
    example, its OSError is the cause of the AudioError.
    """

    def __init__(
        self,
        source: AudioSource,
        sample_rate: float | None = None,
        *,
        rate: int,
        mono: Mono = "first",
        allow_truncated: bool = False,
        max_seconds: float | None = None,
    ) -> None:
        self.rate, self.max_seconds = rate, max_seconds
        self._notes: set[str] = set()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._read: Callable[[int], Iterator[Samples]]  #: (samples over all channels in a block) -> blocks
        source = convert_array(source)
        if isinstance(source, np.ndarray):
            self.name = "array"
            self.sample_rate = check_rate(self.name, rate if sample_rate is None else sample_rate)
            array = check_array(source)
            check_length(self.name, len(array), self.sample_rate, max_seconds)
            self._read = partial(read_array, array, mono)
            return
        if isinstance(source, (str, os.PathLike)):
            self.name, path = os.fspath(source), Path(source)
            try:
                with path.open("rb") as stream:
                    if not path.is_file():  # a named pipe, say: it can be read only once
                        path = self._spool(stream)
            except OSError as error:
                raise unreadable(self.name, error) from error
        elif isinstance(source, bytes):
            self.name = "audio data"
            path = self._spool(io.BytesIO(source))
        elif hasattr(source, "read"):
            self.name = str(getattr(source, "name", "audio stream"))
            path = self._spool(source)
        else:
            kind = type(source).__name__
            raise AudioError(f"audio of type {kind}", "a path, bytes, a binary stream or a NumPy array")
        try:
            file = inspect_file(path, self.name, allow_truncated)
            if sample_rate is not None and check_rate(self.name, sample_rate) != file.sample_rate:
                given = f"{self.name}: sample rate {sample_rate} for a file at {file.sample_rate} Hz"
                raise AudioError(given, "the rate that the file states", "leave it out")
            if file.frames < UNKNOWN:
                check_length(self.name, file.frames, file.sample_rate, max_seconds)
        except OSError as error:
            self.close()
            raise unreadable(self.name, error) from error
        except AudioError:
            self.close()
            raise
        for text in file.notes:
            self._note(text)
        self.sample_rate = file.sample_rate
        self._read = partial(file.read, mono)

    def blocks(self, values: int = BLOCK_VALUES) -> Iterator[Samples]:
        """The recording from its start, as mono blocks float32 [n] at `rate` Hz.

        values: the number of samples of the source, over all channels, that are read at a time. The samples returned
            do not depend on it.
        """
        blocks = self._check(values)
        return blocks if self.sample_rate == self.rate else resample(blocks, self.sample_rate, self.rate)

    def count(self) -> int:
        """The number of samples of the source, at its own rate. All of it is read once. Raises AudioError."""
        return sum(map(len, self._check(BLOCK_VALUES)))

    def close(self) -> None:
        """Remove the temporary file of a stream. Other sources have none."""
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Audio:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, values: int) -> Iterator[Samples]:
        """The blocks of the source, at its own rate."""
        blocks = limit_length(self._read(values), self.name, self.sample_rate, self.max_seconds)
        return check_samples(blocks, self.name, self.sample_rate, self._note)

    def _note(self, text: str) -> None:
        """Give an AudioWarning with `text`, once for all readings of the recording."""
        if text not in self._notes:
            self._notes.add(text)
            warnings.warn(text, AudioWarning, stacklevel=2)

    def _spool(self, stream: Any) -> Path:
        """Copy `stream` to a temporary file. Returns its path. Raises AudioError."""
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="sc-runtime-")
            path = Path(self._folder.name, "audio")
            with path.open("wb") as file:
                for part in read_parts(stream, self.name):
                    file.write(part)
        except AudioError:
            self.close()
            raise
        except OSError as error:
            self.close()
            given = f"{self.name}: no copy in {tempfile.tempdir or '$TMPDIR'} ({error.strerror or error})"
            raise AudioError(given, "room for a temporary file", MAKE_ROOM) from error
        return path


def read_parts(stream: Any, name: str) -> Iterator[bytes | bytearray | memoryview]:
    """The bytes of `stream`. Raises AudioError if it cannot be read, or is no binary stream."""
    while True:
        try:
            part = stream.read(PART_BYTES)
        except (OSError, TypeError, ValueError) as error:  # ValueError: it is closed, or text that is not UTF-8
            raise AudioError(f"{name}: {first_line(error)}", "a binary stream that can be read") from error
        if not part:
            return
        if not isinstance(part, (bytes, bytearray, memoryview)):
            raise AudioError(f"{name}: a stream of {type(part).__name__}", "a binary stream")
        yield part


def unreadable(name: str, error: OSError) -> AudioError:
    return AudioError(f"{name}: {error.strerror}", "a file that can be read", choose_remedy(error))


def measure(audio: Audio) -> tuple[int, float]:
    """(samples at the codec's rate, their sum in float64). All of `audio` is read once."""
    samples, total = 0, 0.0
    for block in audio.blocks():
        samples += len(block)
        total += float(block.sum(dtype=np.float64))
    return samples, total
