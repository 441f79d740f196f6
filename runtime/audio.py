"""Any file or array → mono float32 at the codec's rate; float32 → file.

`soundfile` and `soxr` are imported where they are used: arrays at the codec's rate need neither.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from .errors import AudioError, OutputError
from .files import replacing

if TYPE_CHECKING:
    from soundfile import SoundFile

Samples = npt.NDArray[np.float32]
Mono = Literal["first", "mean"]  #: what is taken of several channels: the first, or their mean

#: What a folder scan takes for audio, with libsndfile's name of the format.
AUDIO_SUFFIXES = {
    ".aif": "AIFF",
    ".aifc": "AIFF",
    ".aiff": "AIFF",
    ".au": "AU",
    ".caf": "CAF",
    ".flac": "FLAC",
    ".mp3": "MP3",
    ".oga": "OGG",
    ".ogg": "OGG",
    ".opus": "OGG",
    ".rf64": "RF64",
    ".snd": "AU",
    ".sph": "NIST",
    ".w64": "W64",
    ".wav": "WAV",
    ".wave": "WAV",
}
OUTPUT_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
BLOCK_VALUES = 1 << 16  #: samples, over all channels, that are read or written at a time
SOURCE_RATES = range(1000, 1_000_001)  #: Hz; another rate is a damaged header, and would unbound a block
ARRAY_CHANNELS = 64  #: an array with more columns has its axes the wrong way round
LARGEST_SAMPLE = 2.0**31  #: full scale of a float file that holds unscaled 32-bit integers; beyond lies damage
PIPED_SIZE = 0x7F00_0000  #: bytes: a program that writes to a pipe declares this much or more, not knowing better

#: libsndfile's log on a file that holds less than its header declares (WAV, W64, RF64, AIFF, AU, CAF).
CUT_SHORT = re.compile(r"^ *(?:data|Data Size|riff|Riff size|SSND) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
CUT_PAGE = "Junk after the last page"  #: the same for Ogg: something that is not a whole page stands at its end


class Audio:
    """A recording as a codec takes it: mono float32 at `rate` Hz, read as often as needed.

    Memory does not grow with the recording.

    `source`: the path of a file that libsndfile reads; its bytes; a binary stream (standard input), spooled
    to a temporary file that `close`, or leaving a `with` block, removes; or a NumPy array [samples] or
    [samples, channels] of int16, int32 (full scale becomes 1) or floats, at `sample_rate` Hz (by default
    `rate`), not copied. `rate` and `mono` are the codec's: its sample rate, and what it takes of several
    channels. `sample_rate` becomes the rate of the source in Hz, and `name` what errors call it.

    Raises `AudioError`: here, for a source that is not there, is empty or is not audio; in `blocks`, for data
    that is damaged and samples that are NaN, infinite or above 2³¹. A file that was cut short is known by the
    size in its header (WAV, W64, RF64, AIFF, AU, CAF; not if it declares 2 GB or more, as files written to a
    pipe do), by a decoding error (FLAC), or by a last page that is not whole (Ogg). A cut MP3 looks like a
    shorter MP3.
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
        self._read: Callable[[], Iterator[Samples]]
        if isinstance(source, np.ndarray):
            self.name = "array"
            self.sample_rate = _check_rate(self.name, rate if sample_rate is None else sample_rate)
            self._read = partial(_read_array, _check_array(source), mono)
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
            self.sample_rate = _inspect_file(path, self.name)
        except AudioError:
            self.close()
            raise
        self._read = partial(_read_file, path, self.name, mono)

    def blocks(self) -> Iterator[Samples]:
        """The recording from its start as blocks float32 [up to 65 536, more if upsampled], mono, at `rate` Hz."""
        blocks = _check_samples(self._read(), self.name, self.sample_rate)
        return blocks if self.sample_rate == self.rate else _resample(blocks, self.sample_rate, self.rate)

    def close(self) -> None:
        """Remove the temporary file of a stream; nothing to do for other sources."""
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Audio:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spool(self, stream: BinaryIO) -> Path:
        """Copy `stream` to a temporary file, which is returned."""
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
    """(samples at the codec's rate, their sum in float64), by reading all of `audio` once."""
    samples, total = 0, 0.0
    for block in audio.blocks():
        samples += len(block)
        total += float(block.sum(dtype=np.float64))
    return samples, total


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """Audio files in `folder` and the folders in it, by their suffix, sorted; hidden files are left out.

    Raises `AudioError` if there are none.
    """
    import soundfile

    formats = soundfile.available_formats()
    suffixes = {suffix for suffix, name in AUDIO_SUFFIXES.items() if name in formats}
    found = sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise AudioError(f"{folder}: no audio in this folder", "files in " + " ".join(sorted(suffixes)))
    return found


class AudioWriter:
    """An open audio file that takes blocks; made by `audio_writer`."""

    def __init__(self, file: SoundFile, name: str) -> None:
        self._file, self._name = file, name
        self.samples = 0  #: written so far

    def write(self, block: npt.NDArray[np.floating[Any]]) -> None:
        """Append `block` [any length], floats with full scale at 1, clipped to [-1, 1].

        Raises `AudioError` for another shape or dtype and samples that are not finite, `OutputError` when
        writing fails.
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
            except (soundfile.LibsndfileError, AssertionError) as error:  # it asserts that all was written
                raise _output_error(self._name, error) from error
            self.samples += len(part)


@contextmanager
def audio_writer(target: str | os.PathLike[str] | BinaryIO, sample_rate: int) -> Iterator[AudioWriter]:
    """Open `target` for mono samples at `sample_rate` Hz: whole on success, untouched if the block raises.

    A path ending in .wav or .flac (16 bits) or .ogg (Vorbis), or a binary stream (standard output), which is
    given a complete WAV at the end. Raises `OutputError` for another suffix and for what cannot be written.
    """
    import soundfile

    _check_rate("output", sample_rate)
    if isinstance(target, (str, os.PathLike)):
        name, suffix = os.fspath(target), Path(target).suffix.lower()
        opening = replacing(Path(target))
    else:
        name, suffix = str(getattr(target, "name", "output stream")), ".wav"
        opening = _then_copying(target, name)
    container, encoding = OUTPUT_FORMATS.get(suffix, ("", ""))
    if not soundfile.check_format(container, encoding):
        raise OutputError(f"{name}: suffix {suffix!r}", "one of " + " ".join(OUTPUT_FORMATS))
    with opening as path:
        try:
            with soundfile.SoundFile(_native(path), "w", sample_rate, 1, encoding, format=container) as file:
                yield (writer := AudioWriter(file, name))
            written = soundfile.info(_native(path)).frames
        except soundfile.LibsndfileError as error:
            raise _output_error(name, error) from error
        if written != writer.samples:
            given = f"{name}: {written} samples of {writer.samples} written"
            raise OutputError(given, "all of them", "check the free space")


def save_audio(
    target: str | os.PathLike[str] | BinaryIO,
    samples: npt.NDArray[np.floating[Any]],
    sample_rate: int,
) -> None:
    """Write `samples` [n], full scale at 1, at `sample_rate` Hz to `target`, as `audio_writer` does."""
    with audio_writer(target, sample_rate) as writer:
        writer.write(samples)


def _check_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`array` [n] or [n, channels] as [n, channels], checked."""
    if array.dtype.kind != "f" and array.dtype not in (np.int16, np.int32):
        raise AudioError(f"array of {array.dtype}", "int16, int32 or floats", "scale other integers yourself")
    if array.ndim not in (1, 2) or array.size == 0 or array.shape[1:] > (ARRAY_CHANNELS,):
        shape = list(array.shape)
        raise AudioError(f"array of shape {shape}", f"[samples] or [samples, channels ≤ {ARRAY_CHANNELS}], not empty")
    return array[:, np.newaxis] if array.ndim == 1 else array


def _check_rate(name: str, rate: int) -> int:
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or int(rate) not in SOURCE_RATES:
        expected = f"whole numbers of Hz from {SOURCE_RATES[0]} to {SOURCE_RATES[-1]}"
        raise AudioError(f"{name}: sample rate {rate}", expected)
    return int(rate)


def _read_array(array: npt.NDArray[Any], mono: Mono) -> Iterator[Samples]:
    """Blocks float32, mono, of `array` [n, channels], integers scaled to [-1, 1)."""
    array = array[:, :1] if mono == "first" else array
    scale = 1 if array.dtype.kind == "f" else -float(np.iinfo(array.dtype).min)
    frames = max(1, BLOCK_VALUES // array.shape[1])
    for start in range(0, len(array), frames):
        with np.errstate(over="ignore"):  # float64 above float32's range: infinite, which is reported
            block = array[start : start + frames].astype(np.float32)
        yield _mix(block / np.float32(scale), mono)


def _mix(block: Samples, mono: Mono) -> Samples:
    """Mono [n] of `block` [n, channels]; the mean channel after channel in float32, as torch's `wav.mean(0)`."""
    mixed = np.ascontiguousarray(block[:, 0])
    if mono == "first" or block.shape[1] == 1:
        return mixed
    with np.errstate(over="ignore", invalid="ignore"):  # infinite or NaN, which is reported
        for channel in block.T[1:]:
            mixed = mixed + channel
        return mixed / np.float32(block.shape[1])


def _inspect_file(path: Path, name: str) -> int:
    """The sample rate in Hz of the file at `path`. Raises `AudioError` if it is not audio or cut short."""
    if path.stat().st_size == 0:
        raise AudioError(f"{name}: empty file", "audio")
    if path.suffix.lower() == ".raw":
        raise AudioError(f"{name}: samples without a header", "an audio file", "convert it to WAV")
    with _open_file(path, name) as file:
        rate, frames, log = file.samplerate, file.frames, file.extra_info
    if frames == 0:
        raise AudioError(f"{name}: no samples", "audio")
    remedy = "get the whole file, or rewrite this one with an audio editor to accept what is left"
    for declared, held in CUT_SHORT.findall(log):
        if int(declared) < PIPED_SIZE:
            raise AudioError(f"{name}: truncated, {held} bytes of {declared}", "a whole file", remedy)
    if CUT_PAGE in log:
        raise AudioError(f"{name}: truncated, its last Ogg page is not whole", "a whole file", remedy)
    return _check_rate(name, rate)


@contextmanager
def _open_file(path: Path, name: str) -> Iterator[SoundFile]:
    """`path` opened by libsndfile, whose errors become `AudioError` in the whole block."""
    import soundfile

    try:
        with soundfile.SoundFile(_native(path)) as file:
            yield file
    except soundfile.LibsndfileError as error:
        formats = " ".join(sorted(set(AUDIO_SUFFIXES.values())))
        remedy = "the file is damaged, cut short, or not audio"
        raise AudioError(f"{name}: {error.error_string.strip('. ')}", f"a whole file in {formats}", remedy) from error


def _native(path: Path) -> str | bytes:
    """`path` as soundfile takes it whatever characters its name holds."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def _read_file(path: Path, name: str, mono: Mono) -> Iterator[Samples]:
    """Blocks float32, mono, of the file at `path`, at its own rate."""
    with _open_file(path, name) as file:
        frames = max(1, BLOCK_VALUES // file.channels)
        while len(block := file.read(frames, dtype="float32", always_2d=True)):
            yield _mix(block, mono)


def _check_samples(blocks: Iterable[Samples], name: str, rate: int) -> Iterator[Samples]:
    """`blocks` at `rate` Hz, unchanged. Raises `AudioError` if a sample is not finite or there are none."""
    seen = 0
    for block in blocks:
        sound = np.abs(block) <= LARGEST_SAMPLE  # false for NaN
        if not sound.all():
            first = int(sound.argmin())
            given = f"{name}: a sample of {block[first]} at {(seen + first) / rate:.3f} s"
            raise AudioError(given, "finite samples, full scale at 1")
        seen += len(block)
        yield block
    if seen == 0:
        raise AudioError(f"{name}: no samples", "audio")


def _resample(blocks: Iterable[Samples], given: int, rate: int) -> Iterator[Samples]:
    """`blocks` at `given` Hz resampled to `rate`: n samples become ceil(n · rate / given), as in torchaudio.

    soxr rounds the length instead, so it is given some silence, and what is too much is cut.
    """
    import soxr

    stream = soxr.ResampleStream(given, rate, 1, "float32", "VHQ")
    read = made = 0
    for block in blocks:
        read += len(block)
        resampled = stream.resample_chunk(block)
        made += len(resampled)
        if len(resampled):
            yield resampled
    silence = np.zeros(-(-given // rate), np.float32)
    yield stream.resample_chunk(silence, last=True)[: -(-read * rate // given) - made]


@contextmanager
def _then_copying(stream: BinaryIO, name: str) -> Iterator[Path]:
    """Yield a temporary file, and copy it to `stream` if the block succeeds."""
    with tempfile.TemporaryDirectory(prefix="sc-runtime-") as folder:
        path = Path(folder, "audio.wav")
        yield path
        try:
            with path.open("rb") as file:
                shutil.copyfileobj(file, stream)
            stream.flush()
        except OSError as error:
            raise OutputError(f"{name}: {error.strerror}", "an output that takes the audio") from error


def _output_error(name: str, error: Exception) -> OutputError:
    reason = str(error).strip(". ") or "not everything was written"
    return OutputError(f"{name}: {reason}", "an output that takes the audio", "check the free space")
