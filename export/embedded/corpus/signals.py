"""Building blocks of environmental sounds: shaped noise, random controls, envelopes, resonances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from sc_runtime.semanticodec.config import SAMPLE_RATE

Signal = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.floating[Any]]
Curve = Callable[[Numbers], Numbers]  #: a gain for each of some frequencies in Hz
NYQUIST = SAMPLE_RATE / 2


def seconds(duration: float) -> int:
    """The number of samples in `duration` seconds, at least one."""
    return max(1, round(duration * SAMPLE_RATE))


def clock(length: int) -> Signal:
    """The time of each of `length` samples, s."""
    return np.arange(length, dtype=np.float32) / np.float32(SAMPLE_RATE)


def sine(frequency: float | Signal, length: int, phase: float = 0.0) -> Signal:
    """A sine of a constant frequency, or of one for every sample, Hz."""
    if isinstance(frequency, np.ndarray):
        cycles: Numbers = np.cumsum(frequency, dtype=np.float64) / SAMPLE_RATE
    else:
        cycles = np.arange(length) * (frequency / SAMPLE_RATE)
    return np.sin(2 * np.pi * (cycles % 1.0).astype(np.float32) + np.float32(phase))


def white(rng: np.random.Generator, length: int) -> Signal:
    return rng.standard_normal(length, dtype=np.float32)


def filter_curve(signal: Signal, gain: Curve) -> Signal:
    """`signal` with its spectrum multiplied by gain(frequencies in Hz): a zero-phase, circular filter."""
    size = fast_size(len(signal))
    spectrum = np.fft.rfft(signal, size)
    spectrum *= gain(np.fft.rfftfreq(size, 1 / SAMPLE_RATE))
    return np.fft.irfft(spectrum, size)[: len(signal)].astype(np.float32)


def fast_size(length: int) -> int:
    """The smallest 2ⁱ, 3 · 2ⁱ or 5 · 2ⁱ that is at least `length`."""
    return min(base << max(0, (-(-length // base) - 1).bit_length()) for base in (1, 3, 5))


def band(low: float, high: float, order: float = 2.0) -> Curve:
    """The magnitude of a Butterworth-like band-pass between two frequencies in Hz; `order` is its steepness."""

    def gain(frequencies: Numbers) -> Numbers:
        low_pass = 1 / np.sqrt(1 + (frequencies / high) ** (2 * order))
        return low_pass / np.sqrt(1 + (low / np.maximum(frequencies, 1.0)) ** (2 * order))

    return gain


def band_noise(rng: np.random.Generator, length: int, low: float, high: float, order: float = 2.0) -> Signal:
    """Noise of a band, RMS 1."""
    return unit(filter_curve(white(rng, length), band(low, high, order)))


def unit(signal: Signal) -> Signal:
    """`signal` scaled to an RMS of 1; silence is unchanged."""
    level = float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))
    return signal / np.float32(level) if level > 1e-9 else signal


def wander(rng: np.random.Generator, length: int, rate: float, low: float = 0.0, high: float = 1.0) -> Signal:
    """A smooth random control between two values, with about `rate` turns a second."""
    knots = max(4, int(length / SAMPLE_RATE * rate) + 4)
    values = rng.uniform(low, high, knots)
    position = np.linspace(0, knots - 1.001, length, dtype=np.float32)
    left = position.astype(np.int32)
    part = position - left
    part = part * part * (3 - 2 * part)
    return (values[left] * (1 - part) + values[left + 1] * part).astype(np.float32)


def decay(length: int, time: float, attack: float = 0.002) -> Signal:
    """An envelope that rises in `attack` seconds and falls by 60 dB in `time` seconds."""
    envelope = np.exp(np.arange(length, dtype=np.float32) * np.float32(-6.91 / (time * SAMPLE_RATE)))
    rise = min(length, seconds(attack))
    envelope[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)
    fall = min(length, seconds(0.01))
    envelope[-fall:] *= np.linspace(1, 0, fall, dtype=np.float32)
    return envelope


def swell(length: int, attack: float, release: float) -> Signal:
    """An envelope that rises in `attack` seconds, stays at 1 and falls in the last `release` seconds, by cosines."""
    envelope = np.ones(length, np.float32)
    rise, fall = min(length, seconds(attack)), min(length, seconds(release))
    envelope[:rise] *= 0.5 - 0.5 * np.cos(np.pi * np.linspace(0, 1, rise, dtype=np.float32))
    envelope[-fall:] *= 0.5 + 0.5 * np.cos(np.pi * np.linspace(0, 1, fall, dtype=np.float32))
    return envelope


def ring(
    frequencies: Iterable[float],
    times: Iterable[float],
    amplitudes: Iterable[float],
    length: int,
    attack: float = 0.001,
) -> Signal:
    """Modes of a struck body: sines of `frequencies` Hz that fall by 60 dB in `times` seconds."""
    total = np.zeros(length, np.float32)
    for frequency, time, amplitude in zip(frequencies, times, amplitudes, strict=True):
        if frequency < NYQUIST * 0.95:
            count = min(length, seconds(time * 1.2))
            total[:count] += np.float32(amplitude) * sine(frequency, count) * decay(count, time, attack)
    return total


def place(track: Signal, sound: Signal, start: float, gain: float = 1.0) -> None:
    """Add `sound` to `track` from `start` seconds on; samples beyond the ends are dropped."""
    first = round(start * SAMPLE_RATE)
    skip = max(0, -first)
    first = max(0, first)
    count = min(len(sound) - skip, len(track) - first)
    if count > 0:
        track[first : first + count] += np.float32(gain) * sound[skip : skip + count]


def scatter(rng: np.random.Generator, rate: float, duration: float) -> npt.NDArray[np.float64]:
    """The times, s, of events that happen independently at `rate` a second; at least one."""
    count = max(1, int(rng.poisson(rate * duration)))
    return np.sort(rng.uniform(0, duration, count))


def convolve(signal: Signal, response: Signal) -> Signal:
    """The first len(signal) samples of the convolution."""
    size = fast_size(len(signal) + len(response))
    spectrum = np.fft.rfft(signal, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(signal)].astype(np.float32)


def sprinkle(rng: np.random.Generator, length: int, rate: float, grain: Signal, spread: float = 1.0) -> Signal:
    """`grain` at random times, `rate` a second, with amplitudes spread log-normally; by one convolution."""
    impulses = np.zeros(length, np.float32)
    places = rng.integers(0, length, max(1, int(rng.poisson(rate * length / SAMPLE_RATE))))
    signs = rng.choice([-1.0, 1.0], len(places))
    np.add.at(impulses, places, (signs * np.exp(spread * rng.standard_normal(len(places)))).astype(np.float32))
    return convolve(impulses, grain)
