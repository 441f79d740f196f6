"""Metrics: the distance of a decoded waveform from its original, and the use of a codebook. Pure functions on arrays.

Waveforms are float32 [n], mono, 16 kHz, full scale 1. The two distances are those of the Descript Audio Codec (DAC;
Kumar et al. 2023, arXiv:2306.06546, and `MelSpectrogramLoss`, `MultiScaleSTFTLoss` and `conf/final/*.yml`
of its published code), which the SemantiCodec paper calls MEL and STFT (section IV-C). At 16 kHz they follow DAC's own
16 kHz model: window lengths in samples and numbers of bins stay the same, so that windows last 2 to 128 ms instead of
0.7 to 46 ms, and the highest mel bin ends at 8 kHz instead of 22.05 kHz. DAC's evaluation first resamples both
waveforms to 22.05 and 44.1 kHz. Here nothing is resampled, so that no further filter takes part. Levels are not
matched, because a codec should keep them. Absolute figures are therefore comparable only with others at 16 kHz; ratios
of rows always are.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.training.mel_filters import mel_filters
from sc_runtime.semanticodec.config import SAMPLE_RATE

from . import words

MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))  #: (window, mel bins)
STFT_WINDOWS = (2048, 512)
CLAMP = 1e-5  #: least magnitude; smaller ones are raised to it
OVERLAP = 4  #: a window's length over the distance between two windows
MAX_DELAY = 960  #: samples in either direction, 60 ms
ENVELOPE_WINDOW, ENVELOPE_HOP = 128, 8  #: samples, of the envelopes that show a delay; the hop is its precision
#: Metric that needs packages of its own -> the modules, and what to install.
PACKAGES = {
    "stoi": (("pystoi",), "pystoi"),
    "pesq": (("pesq",), "pesq"),
    "visqol": (("visqol", "ai_edge_litert"), "'visqol-python[lattice]'"),
    "visqol_audio": (("visqol",), "visqol-python"),
    "dnsmos": (("speechmos", "librosa", "requests", "onnxruntime"), "speechmos librosa requests onnxruntime"),
    "plcmos": (("speechmos", "onnxruntime"), "speechmos onnxruntime"),
}


def mel_distance(original: np.ndarray, decoded: np.ndarray) -> float:
    """Multi-scale mel distance of two waveforms float32 [n], 0 for equal ones.

    The sum over the scales (windows of 32 samples with 5 bins to 2048 with 320) of the mean over bins and frames of
    |log10 max(M, 1e-5) - log10 max(M', 1e-5)|, where M are mel-weighted magnitudes: power 1, log weight 1, no weight on
    M itself. Raises SettingsError for lengths that differ.
    """
    check_lengths(original, decoded)
    total = 0.0
    for window, bins in MEL_SCALES:
        filters = mel_filters(window, bins).T
        here, there = (log_magnitude(compute_spectrum(x, window) @ filters) for x in (original, decoded))
        total += float(np.abs(here - there).mean())
    return total


def stft_distance(original: np.ndarray, decoded: np.ndarray) -> float:
    """Multi-scale STFT distance of two waveforms float32 [n], 0 for equal ones.

    The sum over windows of 2048 and 512 samples of the mean over bins and frames of |log10 max(S, 1e-5)² -
    log10 max(S', 1e-5)²| + |S - S'|, where S are magnitudes: power 2, both weights 1. The second term grows with the
    level. Raises SettingsError for lengths that differ.
    """
    check_lengths(original, decoded)
    total = 0.0
    for window in STFT_WINDOWS:
        here, there = (compute_spectrum(x, window) for x in (original, decoded))
        total += 2 * float(np.abs(log_magnitude(here) - log_magnitude(there)).mean())
        total += float(np.abs(here - there).mean())
    return total


def compute_spectrum(samples: np.ndarray, window: int) -> np.ndarray:
    """Magnitudes of the short-time Fourier transform of [n], float64 [1 + n // (window / 4), window / 2 + 1].

    A periodic Hann window, frames centred a quarter of it apart, ends mirrored, nothing normalised, as torch.stft does.
    """
    padded = np.pad(samples.astype(np.float64), window // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[:: window // OVERLAP]
    return np.abs(np.fft.rfft(frames * hann(window), axis=1))


def hann(window: int) -> np.ndarray:
    """The periodic Hann window, float64 [window]."""
    return np.hanning(window + 1)[:-1]


def log_magnitude(magnitude: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(magnitude, CLAMP))


def speech_stoi(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """Short-time objective intelligibility (Taal et al. 2011) of two waveforms float32 [n], at most 1, by `pystoi`.

    None if the original holds less than 0.4 s of speech, which is too little. Raises SettingsError for lengths that
    differ and ImportError without the package.
    """
    check_lengths(original, decoded)
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames")
        try:
            return float(stoi(original, decoded, SAMPLE_RATE))
        except RuntimeWarning:
            return None


def speech_pesq(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """Wide-band PESQ (ITU-T P.862.2) of two waveforms float32 [n], about 1 to 4.64, by `pesq`.

    None where it is not defined: one of the sounds is silent, or too short. Raises SettingsError for lengths that
    differ and ImportError without the package.
    """
    check_lengths(original, decoded)
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    if not original.any() or not decoded.any():
        return None
    try:
        return float(pesq(SAMPLE_RATE, original, decoded, "wb"))
    except (BufferTooShortError, NoUtterancesError):
        return None


def explain_absence(metric: str) -> str | None:
    """Why `metric` ("mel", "stft", "stoi", ...) cannot be computed here, or None."""
    if metric == "wer":
        return words.explain_absence()
    modules, install = PACKAGES.get(metric, ((), ""))
    if all(importlib.util.find_spec(module) is not None for module in modules):
        return None
    return f"not installed: pip install {install}"


@dataclass(frozen=True)
class CodebookUse:
    """How much of a codebook some tokens use.

    tokens: their number.
    entries: of the codebook.
    used: number of entries that occur at least once; `share` is used / entries.
    bits: entropy of the tokens' frequencies, in bits a token.
    perplexity: 2^bits, the number of evenly used entries that would carry as much.

    N tokens show at most N entries and log2 N bits, so all are lower bounds where tokens are few.
    """

    tokens: int
    entries: int
    used: int
    share: float
    bits: float
    perplexity: float


def measure_use(tokens: np.ndarray, entries: int) -> CodebookUse:
    """Codebook use of integer tokens of any shape, 0 to `entries` - 1.

    Raises SettingsError for none and for tokens out of range.
    """
    flat = np.asarray(tokens).ravel()
    if not flat.size or flat.min() < 0 or flat.max() >= entries:
        given = f"tokens {flat.min()} to {flat.max()}" if flat.size else "no tokens"
        raise SettingsError(given, f"tokens 0 to {entries - 1}")
    counts = np.unique(flat, return_counts=True)[1]
    shares = counts / flat.size
    bits = max(0.0, float(-(shares * np.log2(shares)).sum()))  # one entry alone would give -0
    return CodebookUse(flat.size, entries, len(counts), len(counts) / entries, bits, 2.0**bits)


def find_delay(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
    """The delay of one system's output in samples, a multiple of 8 from -960 to 960 (60 ms): one figure for all pairs.

    It is the peak of the cross-correlation of the spectral envelopes, summed over the pairs at equal loudness.
    Waveforms would not do, because vocoders do not keep phases: for Codec2 their peak lies at one pitch period or
    another. One clip would not do either, because its peak may be chance.

    pairs: (original [n], decoded [n']), each at least a tenth of a second.
    """
    lags = range(-MAX_DELAY // ENVELOPE_HOP, MAX_DELAY // ENVELOPE_HOP + 1)
    scores = np.zeros(len(lags))
    for original, decoded in pairs:
        n = min(len(original), len(decoded))
        here, there = compute_envelope(original[:n]), compute_envelope(decoded[:n])
        energy = float(np.sqrt((here**2).sum() * (there**2).sum()))
        here, there = here - here.mean(axis=0), there - there.mean(axis=0)  # what is steady has no delay
        if energy > 0:
            frames = len(here)
            for i, lag in enumerate(lags):
                early = here[max(0, -lag) : frames - max(0, lag)]
                late = there[max(0, lag) : frames - max(0, -lag)]
                scores[i] += float(np.vdot(early, late)) / energy
    best = max(range(len(lags)), key=lambda i: (scores[i], -abs(lags[i])))
    return lags[best] * ENVELOPE_HOP


def compute_envelope(samples: np.ndarray) -> np.ndarray:
    """Square roots of the magnitudes in 65 bands, every 8 samples, float32 [frames, 65]. Nothing is padded."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, ENVELOPE_WINDOW)[::ENVELOPE_HOP]
    return np.sqrt(np.abs(np.fft.rfft(frames * hann(ENVELOPE_WINDOW), axis=1))).astype(np.float32)


def undo_delay(decoded: np.ndarray, delay: int, samples: int) -> np.ndarray:
    """`decoded` [n'], shifted `delay` samples earlier (later, if negative), cut or zero-padded to `samples`."""
    moved = decoded[delay:] if delay >= 0 else np.pad(decoded, (-delay, 0))
    return np.pad(moved[:samples], (0, max(0, samples - len(moved))))


def check_lengths(original: np.ndarray, decoded: np.ndarray) -> None:
    if original.shape != decoded.shape or original.ndim != 1:
        given = f"waveforms {list(original.shape)} and {list(decoded.shape)}"
        raise SettingsError(given, "two waveforms [n] of the same length", "use undo_delay first")
