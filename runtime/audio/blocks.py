"""The steps from the samples of a source to those of a codec, a block at a time: mix, check, resample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import AudioError
from sc_runtime.spec import Mono

Samples = npt.NDArray[np.float32]

BLOCK_VALUES = 1 << 16  #: samples, over all channels, that are read or written at a time
SOURCE_RATES = range(1000, 1_000_001)  #: Hz; another rate is a damaged header, and blocks would have no bound
LARGEST_SAMPLE = 2.0**31  #: full scale of a float file that holds unscaled 32-bit integers; beyond it lies damage


def check_rate(name: str, rate: int) -> int:
    """`rate` in Hz. Raises AudioError, which names the source `name`, for another type or a value out of range."""
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or int(rate) not in SOURCE_RATES:
        expected = f"whole numbers of Hz from {SOURCE_RATES[0]} to {SOURCE_RATES[-1]}"
        raise AudioError(f"{name}: sample rate {rate}", expected)
    return int(rate)


def mix(block: Samples, mono: Mono) -> Samples:
    """[n, channels] -> [n]: the first channel, or the mean, summed channel after channel as torch's `wav.mean(0)`."""
    mixed = np.ascontiguousarray(block[:, 0])
    if mono == "first" or block.shape[1] == 1:
        return mixed
    with np.errstate(over="ignore", invalid="ignore"):  # `check_samples` reports infinity and NaN
        for channel in block.T[1:]:
            mixed = mixed + channel
        return mixed / np.float32(block.shape[1])


def check_samples(blocks: Iterable[Samples], name: str, rate: int) -> Iterator[Samples]:
    """`blocks` at `rate` Hz, unchanged. Raises AudioError if a sample is not finite, too large, or there is none."""
    seen = 0
    for block in blocks:
        valid = np.abs(block) <= LARGEST_SAMPLE  # false for NaN
        if not valid.all():
            first = int(valid.argmin())
            given = f"{name}: a sample of {block[first]} at {(seen + first) / rate:.3f} s"
            raise AudioError(given, "finite samples, full scale at 1")
        seen += len(block)
        yield block
    if seen == 0:
        raise AudioError(f"{name}: no samples", "audio")


def resample(blocks: Iterable[Samples], given: int, rate: int) -> Iterator[Samples]:
    """`blocks` at `given` Hz resampled to `rate`: n samples become ceil(n · rate / given), as in torchaudio.

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
    yield stream.resample_chunk(silence, last=True)[: -(-read * rate // given) - made]
