"""Writing samples to audio files and streams."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import AudioError, OutputError
from sc_runtime.files import replacing

from .blocks import BLOCK_VALUES, check_rate
from .files import native_path

if TYPE_CHECKING:
    from soundfile import SoundFile

OUTPUT_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
CHECK_SPACE = "check the free space"


class AudioWriter:
    """An open audio file to which blocks are appended. `audio_writer` opens it.

    name, remedy: of the OutputError when writing fails.
    samples: the number of samples written so far.
    """

    def __init__(self, file: SoundFile, name: str, remedy: str = CHECK_SPACE) -> None:
        self._file, self._name, self._remedy = file, name, remedy
        self.samples = 0

    def write(self, block: npt.NDArray[np.floating[Any]]) -> None:
        """Append `block`, floats [n] with full scale at 1, clipped to [-1, 1].

        Raises AudioError for another shape or dtype and for samples that are not finite, OutputError when writing
        fails.
        """
        import soundfile

        if block.ndim != 1 or block.dtype.kind != "f":
            raise AudioError(f"block of {block.dtype} {list(block.shape)}", "floats [samples]")
        if not np.isfinite(block).all():
            raise AudioError(f"{self._name}: a sample to be written is NaN or infinite", "finite samples")
        for start in range(0, len(block), BLOCK_VALUES):  # a long block exhausts libsndfile's stack in Vorbis
            part = np.clip(block[start : start + BLOCK_VALUES], -1, 1).astype(np.float32)
            try:
                self._file.write(part)
            except (soundfile.LibsndfileError, AssertionError) as error:  # soundfile asserts that all was written
                raise output_error(self._name, error, self._remedy) from error
            self.samples += len(part)


@contextmanager
def audio_writer(target: str | os.PathLike[str] | BinaryIO, sample_rate: int) -> Iterator[AudioWriter]:
    """Open `target` for mono samples at `sample_rate` Hz. If the block raises, `target` stays untouched.

    target: a path that ends in .wav or .flac (16 bits) or .ogg (Vorbis), or a binary stream (standard output), to which
        a complete WAV is copied at the end.

    Raises OutputError for another suffix and for what cannot be written, AudioError for a rate out of range.
    """
    import soundfile

    check_rate("output", sample_rate)
    if isinstance(target, (str, os.PathLike)):
        name, suffix = os.fspath(target), Path(target).suffix.lower()
        opening, remedy = replacing(Path(target)), CHECK_SPACE
    else:
        name, suffix = str(getattr(target, "name", "output stream")), ".wav"
        opening, remedy = copying(target, name), f"{CHECK_SPACE} in {tempfile.gettempdir()}"
    container, encoding = OUTPUT_FORMATS.get(suffix, ("", ""))
    if not soundfile.check_format(container, encoding):
        raise OutputError(f"{name}: suffix {suffix!r}", "one of " + " ".join(OUTPUT_FORMATS))
    with opening as path:
        try:
            with soundfile.SoundFile(native_path(path), "w", sample_rate, 1, encoding, format=container) as file:
                yield (writer := AudioWriter(file, name, remedy))
            written = soundfile.info(native_path(path)).frames
        except soundfile.LibsndfileError as error:
            raise output_error(name, error, remedy) from error
        if written != writer.samples:
            given = f"{name}: {written} samples of {writer.samples} written"
            raise OutputError(given, "all of them", remedy)


def save_audio(
    target: str | os.PathLike[str] | BinaryIO,
    samples: npt.NDArray[np.floating[Any]],
    sample_rate: int,
) -> None:
    """Write `samples`, floats [n] with full scale at 1, at `sample_rate` Hz to `target`, as `audio_writer` does."""
    with audio_writer(target, sample_rate) as writer:
        writer.write(samples)


@contextmanager
def copying(stream: BinaryIO, name: str) -> Iterator[Path]:
    """Yield the path of a temporary file, and copy that file to `stream` if the block succeeds."""
    with tempfile.TemporaryDirectory(prefix="sc-runtime-") as folder:
        path = Path(folder, "audio.wav")
        yield path
        try:
            with path.open("rb") as file:
                shutil.copyfileobj(file, stream)
            stream.flush()
        except OSError as error:
            raise OutputError(f"{name}: {error.strerror}", "an output that takes the audio") from error


def output_error(name: str, error: Exception, remedy: str) -> OutputError:
    reason = str(error).strip(". ") or "not everything was written"
    return OutputError(f"{name}: {reason}", "an output that takes the audio", remedy)
