"""A recording as a codec takes it: mono float32 at the codec's rate.

`soundfile` and `soxr` are imported where they are used: arrays at the codec's rate need neither.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import AudioError
from sc_runtime.spec import Mono

from .arrays import check_array, read_array
from .blocks import BLOCK_VALUES, Samples, check_rate, check_samples, resample
from .files import inspect_file, read_file


class Audio:
    """A recording, mono float32 at `rate` Hz, that can be read several times.

    Memory does not grow with its length.

    Arguments:
        source: the path of a file that libsndfile reads; the bytes of one; a binary stream (standard input); or a NumPy
            array [n] or [n, channels] of int16, int32 (full scale becomes 1) or floats. An array is not copied. A
            stream is copied to a temporary file. `close`, or the end of a `with` block, removes it.
        sample_rate: of an array, in Hz. None is `rate`.
        rate: the codec's sample rate in Hz.
        mono: how several channels become one: "first" or "mean".

    Attributes: `sample_rate`, that of the source in Hz; `rate`; `name`, what errors call the source.

    Raises AudioError: here for a source that is missing, empty, not audio or cut short; in `blocks` for data that is
    damaged and for samples that are NaN, infinite or above 2³¹. Whether a file was cut short follows from the size in
    its header (WAV, W64, RF64, AIFF, AU, CAF; not if it declares 2 GB or more, as files written to a pipe do), from a
    decoding error (FLAC), or from a last page that is not whole (Ogg). A cut MP3 looks like a shorter MP3.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | BinaryIO | npt.NDArray[Any],
        sample_rate: int | None = None,
        *,
        rate: int,
        mono: Mono = "first",
    ) -> None:
        self.rate = rate
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._read: Callable[[int], Iterator[Samples]]  #: (samples over all channels in a block) -> blocks
        if isinstance(source, np.ndarray):
            self.name = "array"
            self.sample_rate = check_rate(self.name, rate if sample_rate is None else sample_rate)
            self._read = partial(read_array, check_array(source), mono)
            return
        if isinstance(source, (str, os.PathLike)):
            self.name, path = os.fspath(source), Path(source)
            try:
                with path.open("rb") as stream:
                    if not path.is_file():  # a named pipe, say: it can be read only once
                        path = self._spool(stream)
            except OSError as error:
                raise AudioError(f"{self.name}: {error.strerror}", "a file that can be read") from error
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
            self.sample_rate = inspect_file(path, self.name)
        except AudioError:
            self.close()
            raise
        self._read = partial(read_file, path, self.name, mono)

    def blocks(self, values: int = BLOCK_VALUES) -> Iterator[Samples]:
        """The recording from its start, as mono blocks float32 [n] at `rate` Hz.

        values: the number of samples of the source, over all channels, that are read at a time. The samples returned
            do not depend on it.
        """
        blocks = check_samples(self._read(values), self.name, self.sample_rate)
        return blocks if self.sample_rate == self.rate else resample(blocks, self.sample_rate, self.rate)

    def close(self) -> None:
        """Remove the temporary file of a stream. Other sources have none."""
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Audio:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spool(self, stream: BinaryIO) -> Path:
        """Copy `stream` to a temporary file. Returns its path."""
        self._folder = tempfile.TemporaryDirectory(prefix="sc-runtime-")
        path = Path(self._folder.name, "audio")
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file)
        except (OSError, TypeError) as error:  # TypeError: a text stream
            self.close()
            remedy = f"room for a copy in {tempfile.gettempdir()} is needed"
            raise AudioError(f"{self.name}: {error}", "a binary stream that can be read", remedy) from error
        return path


def measure(audio: Audio) -> tuple[int, float]:
    """(samples at the codec's rate, their sum in float64). All of `audio` is read once."""
    samples, total = 0, 0.0
    for block in audio.blocks():
        samples += len(block)
        total += float(block.sum(dtype=np.float64))
    return samples, total
