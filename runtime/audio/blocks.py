"""The steps from the samples of a source to those of a codec, a block at a time: mix, check, resample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import AudioError, SettingsError, check_finite
from sc_runtime.spec import Mono

Samples = npt.NDArray[np.float32]

BLOCK_VALUES = 1 << 16  #: samples, over all channels, that are read or written at a time
SOURCE_RATES = range(1000, 1_000_001)  #: Hz; any other rate is a damaged header and would make blocks of any size
LOUD_SAMPLE = 16.0  #: floats above it are probably not scaled to [-1, 1]
LARGEST_SAMPLE = 2.0**31  #: full scale of a float file of unscaled 32-bit integers; a larger sample is damage


def check_rate(name: str, rate: float) -> int:
    """`rate` in Hz, a whole number of any numeric type. Raises AudioError, which names the source `name`."""
    is_number = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
    if not is_number or rate not in SOURCE_RATES:  # a range contains 16000.0, but not 16000.5
        expected = f"whole numbers of Hz from {SOURCE_RATES[0]} to {SOURCE_RATES[-1]}"
        raise AudioError(f"{name}: sample rate {rate}", expected)
    return int(rate)


def mix(block: Samples, mono: Mono) -> Samples:
    """[n, channels] -> [n]: the first channel, or the mean, which sums in the order of torch's `wav.mean(0)`."""
    mixed = np.ascontiguousarray(block[:, 0])
    if mono == "first" or block.shape[1] == 1:
        return mixed
    with np.errstate(over="ignore", invalid="ignore"):  # `check_samples` reports infinity and NaN
        for channel in block.T[1:]:
            mixed = mixed + channel
        return mixed / np.float32(block.shape[1])


def check_samples(blocks: Iterable[Samples], name: str, rate: int, note: Callable[[str], None]) -> Iterator[Samples]:
    """`blocks` at `rate` Hz, unchanged. Raises AudioError for a bad sample (not finite, too large), or none at all.

    `note` is called with a text about the first sample that is unusually loud.
    """
    seen, is_loud = 0, False
    for block in blocks:
        valid = np.abs(block) <= LARGEST_SAMPLE  # false for NaN
        if not valid.all():
            first = int(valid.argmin())
            given = f"{name}: a sample of {block[first]} at {(seen + first) / rate:.3f} s"
            raise AudioError(given, "finite samples, full scale at 1")
        if not is_loud and (loud := np.abs(block) > LOUD_SAMPLE).any():
            is_loud, first = True, int(loud.argmax())
            place = f"{name}: a sample of {block[first]:.6g} at {(seen + first) / rate:.3f} s, but full scale is 1"
            note(f"{place}; divide 16-bit values by 32768")
        seen += len(block)
        yield block
    if seen == 0:
        raise AudioError(f"{name}: no samples", "audio")


def check_seconds(max_seconds: float | None) -> None:
    """Raises SettingsError unless `max_seconds` is None or a number above 0."""
    expected = "seconds, more than 0"
    if max_seconds is not None and check_finite("max_seconds", max_seconds, expected) <= 0:
        raise SettingsError(f"max_seconds {max_seconds}", expected)


def check_length(name: str, samples: int, rate: int, max_seconds: float | None) -> None:
    """Raises AudioError if `samples` at `rate` Hz are more than `max_seconds`. None is no limit."""
    if max_seconds is not None and samples > max_seconds * rate:
        given = f"{name}: {samples / rate:.1f} s of audio or more"
        raise AudioError(given, f"at most {max_seconds:g} s", "split it, or raise the limit (max_seconds)")


def limit_length(blocks: Iterable[Samples], name: str, rate: int, max_seconds: float | None) -> Iterator[Samples]:
    """`blocks` at `rate` Hz, unchanged. Raises AudioError as soon as they are more than `max_seconds`."""
    seen = 0
    for block in blocks:
        seen += len(block)
        check_length(name, seen, rate, max_seconds)
        yield block


def count_resampled(samples: int, given: int, rate: int) -> int:
    """The number of samples after resampling `samples` from `given` to `rate` Hz: ceil(samples · rate / given)."""
    return -(-samples * rate // given)


def resample(blocks: Iterable[Samples], given: int, rate: int) -> Iterator[Samples]:
    """`blocks` at `given` Hz resampled to `rate`, as many samples as in torchaudio (`count_resampled`).

    soxr rounds the length to the nearest instead. So some silence follows the last block, and the surplus is cut.
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
    yield stream.resample_chunk(silence, last=True)[: count_resampled(read, given, rate) - made]
