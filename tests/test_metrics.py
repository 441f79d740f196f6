"""Metrics against float64 loops, other libraries and values that can be worked out by hand."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bench.quality import metrics
from bench.quality.metrics import (
    MEL_SCALES,
    compute_spectrum,
    explain_absence,
    find_delay,
    measure_use,
    mel_distance,
    speech_pesq,
    speech_stoi,
    stft_distance,
    undo_delay,
)
from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.training.mel_filters import mel_filters

Distance = Callable[[np.ndarray, np.ndarray], float]
DISTANCES = [mel_distance, stft_distance]


@pytest.fixture(scope="module")
def speech(golden: Path) -> np.ndarray:
    """Four seconds, float32."""
    samples, rate = soundfile.read(golden / "speech_12s.wav", dtype="float32", frames=64_000)
    assert rate == 16_000
    return samples


def make_noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def transform_by_loops(samples: np.ndarray, window: int) -> np.ndarray:
    """Magnitudes [frames, bins], a frame at a time, by the definition of the discrete Fourier transform."""
    mirrored = [*samples[window // 2 : 0 : -1], *samples, *samples[-2 : -window // 2 - 2 : -1]]
    padded = np.array(mirrored, np.float64)
    weights = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    waves = np.exp(-2j * np.pi * np.outer(np.arange(window // 2 + 1), np.arange(window)) / window)
    frames = []
    for start in range(0, len(samples) + 1, window // 4):
        frames.append(np.abs(waves @ (padded[start : start + window] * weights)))
    return np.array(frames)


def slaney_to_hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def filter_by_loops(window: int, bins: int) -> np.ndarray:
    """Slaney's triangles [bins, window / 2 + 1], one weight at a time."""
    top = 15 + math.log(8) / (math.log(6.4) / 27)  # of 8 kHz
    edges = [slaney_to_hertz(top * i / (bins + 1)) for i in range(bins + 2)]
    filters = np.zeros((bins, window // 2 + 1))
    for i in range(bins):
        low, centre, high = edges[i : i + 3]
        for k in range(window // 2 + 1):
            hertz = 16_000 * k / window
            if low < hertz <= centre:
                filters[i, k] = (hertz - low) / (centre - low)
            elif centre < hertz < high:
                filters[i, k] = (high - hertz) / (high - centre)
        filters[i] *= 2 / (high - low)
    return filters


def compare_by_loops(here: np.ndarray, there: np.ndarray, power: int) -> float:
    total = 0.0
    for a, b in zip(here.ravel(), there.ravel(), strict=True):
        total += abs(math.log10(max(a, 1e-5) ** power) - math.log10(max(b, 1e-5) ** power))
    return total / here.size


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two short sounds with a quiet half, where the clamp acts."""
    noise, other = make_noise(4000, 1) * 0.1, make_noise(4000, 2) * 0.1
    noise[2000:] *= 1e-4
    other[:1000] = 0
    return noise, other


def test_mel_distance_by_loops(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = 0.0
    for window, bins in ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320)):
        here, there = (transform_by_loops(x, window) @ filter_by_loops(window, bins).T for x in pair)
        expected += compare_by_loops(here, there, 1)
    assert mel_distance(*pair) == pytest.approx(expected, rel=1e-9)


def test_stft_distance_by_loops(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = 0.0
    for window in (2048, 512):
        here, there = (transform_by_loops(x, window) for x in pair)
        expected += compare_by_loops(here, there, 2) + sum(np.abs(here - there).ravel()) / here.size
    assert stft_distance(*pair) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("window", "bins"), MEL_SCALES)
def test_filters_are_librosas_and_none_is_empty(window: int, bins: int) -> None:
    filters = mel_filters(window, bins)
    assert filters.max(axis=1).min() > 0
    librosa = pytest.importorskip("librosa")
    expected = librosa.filters.mel(sr=16_000, n_fft=window, n_mels=bins)
    np.testing.assert_allclose(filters, expected, atol=1e-6 * expected.max())


@pytest.mark.parametrize("samples", [4000, 4001])
@pytest.mark.parametrize("window", [32, 2048])
def test_spectrum_is_torchs(samples: int, window: int) -> None:
    torch = pytest.importorskip("torch")
    noise = make_noise(samples)
    weights = torch.hann_window(window, periodic=True, dtype=torch.float64)
    wave = torch.from_numpy(noise).double()
    expected = torch.stft(wave, window, window // 4, window=weights, return_complex=True).abs().T.numpy()
    np.testing.assert_allclose(compute_spectrum(noise, window), expected, atol=1e-10)


def test_ten_times_louder_is_a_known_distance() -> None:
    noise = make_noise(16_000)
    assert mel_distance(noise, 10 * noise) == pytest.approx(7, abs=1e-5)  # seven scales, log10 of 10 in each
    linear = sum(9 * compute_spectrum(noise, window).mean() for window in (2048, 512))
    assert stft_distance(noise, 10 * noise) == pytest.approx(2 * 2 + linear, rel=1e-6)


def test_what_is_below_the_clamp_is_silence() -> None:
    faint = 1e-9 * make_noise(16_000)
    assert mel_distance(np.zeros_like(faint), faint) == 0
    assert stft_distance(np.zeros_like(faint), faint) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distance_is_zero_to_itself_and_symmetric(distance: Distance, speech: np.ndarray) -> None:
    other = make_noise(len(speech))
    assert distance(speech, speech.copy()) == 0
    assert distance(speech, other) == pytest.approx(distance(other, speech), rel=1e-12)
    assert distance(speech, other) > 1


@pytest.mark.parametrize("distance", DISTANCES)
def test_distance_grows_with_noise(distance: Distance, speech: np.ndarray) -> None:
    noise = make_noise(len(speech))
    distances = [distance(speech, speech + level * noise) for level in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert distances == sorted(distances)
    assert distances[-1] > 2 * distances[0] > 0


def test_stoi_and_pesq_fall_with_noise(speech: np.ndarray) -> None:
    pytest.importorskip("pystoi")
    noise = make_noise(len(speech))
    levels = (0.0, 1e-2, 5e-2, 3e-1)
    clarity = [speech_stoi(speech, speech + level * noise) for level in levels]
    assert all(value is not None for value in clarity)
    assert clarity == sorted(clarity, reverse=True)
    assert clarity[0] == pytest.approx(1, abs=1e-6)
    assert clarity[-1] < 0.8
    pytest.importorskip("pesq")
    quality = [speech_pesq(speech, speech + level * noise) for level in levels[:3]]
    assert quality == sorted(quality, reverse=True)
    assert quality[0] == pytest.approx(4.644, abs=1e-3)  # the top of P.862.2's scale


def test_stoi_of_too_little_speech_is_none(speech: np.ndarray) -> None:
    pytest.importorskip("pystoi")
    assert speech_stoi(speech[:4000], speech[:4000]) is None


def test_pesq_of_silence_is_none(speech: np.ndarray) -> None:
    pytest.importorskip("pesq")
    silence = np.zeros_like(speech)
    assert speech_pesq(silence, speech) is None
    assert speech_pesq(speech, silence) is None
    assert speech_pesq(speech[:2000], speech[:2000]) is None


@pytest.mark.parametrize("metric", [*DISTANCES, speech_stoi, speech_pesq])
def test_lengths_must_agree(metric: Distance) -> None:
    with pytest.raises(SettingsError, match=r"\[100\] and \[99\].*same length"):
        metric(np.ones(100, np.float32), np.ones(99, np.float32))


def test_absent_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain_absence("mel") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert explain_absence("mel") is None
    assert explain_absence("pesq") == "not installed: pip install pesq"


def test_even_use_of_a_codebook() -> None:
    use = measure_use(np.arange(64).reshape(8, 8) % 16, 32)
    assert (use.tokens, use.entries, use.used, use.share) == (64, 32, 16, 0.5)
    assert use.bits == pytest.approx(4)
    assert use.perplexity == pytest.approx(16)


def test_uneven_use_of_a_codebook() -> None:
    use = measure_use(np.array([3] * 8 + [1] * 4 + [0] * 2 + [7] * 2), 8)  # 1/2, 1/4, 1/8, 1/8: 1.75 bits by hand
    assert use.used == 4
    assert use.bits == pytest.approx(1.75)
    assert use.perplexity == pytest.approx(2**1.75)
    single = measure_use(np.full(9, 5), 4096)
    assert (single.used, single.bits, single.perplexity) == (1, 0, 1)
    assert math.copysign(1, single.bits) == 1


def test_entropy_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    tokens = (np.random.default_rng(0).standard_exponential(5000) * 40).astype(np.int32)
    expected = stats.entropy(np.bincount(tokens), base=2)
    assert measure_use(tokens, 4096).bits == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tokens", [[], [-1, 3], [4, 8]])
def test_tokens_outside_the_codebook_are_refused(tokens: list[int]) -> None:
    with pytest.raises(SettingsError, match="tokens 0 to 7"):
        measure_use(np.array(tokens, np.int64), 8)


@pytest.mark.parametrize("delay", [0, 304, 800, -160])
def test_delay_is_found_and_undone(speech: np.ndarray, delay: int) -> None:
    late = np.concatenate([np.zeros(max(0, delay), np.float32), speech[max(0, -delay) :]])
    disturbed = -0.3 * late + 0.005 * make_noise(len(late))  # turned over: its waveform correlates nowhere
    assert find_delay([(speech, disturbed)]) == delay
    aligned = undo_delay(late, delay, len(speech))
    inside = slice(max(0, -delay), len(speech) - max(0, delay))
    np.testing.assert_array_equal(aligned[inside], speech[inside])
    assert len(aligned) == len(speech)


def test_delay_does_not_need_phases(speech: np.ndarray) -> None:
    """A vocoder's output: the spectrum of each band kept, its phases drawn anew."""
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(0)
    _, _, bands = signal.stft(speech, nperseg=256)
    _, sound = signal.istft(np.abs(bands) * np.exp(2j * np.pi * rng.random(bands.shape)), nperseg=256)
    late = np.concatenate([np.zeros(480), sound]).astype(np.float32)
    assert abs(find_delay([(speech, late)]) - 480) <= 16


def test_delay_is_one_for_all_pairs(speech: np.ndarray) -> None:
    late = np.concatenate([np.zeros(240, np.float32), speech])
    steady = np.ones(64_000, np.float32)
    silent = np.zeros_like(speech)
    assert find_delay([(speech, late), (silent, make_noise(64_000)), (steady, steady)]) == 240
    assert find_delay([(steady, steady), (silent, silent)]) == 0
    assert find_delay([]) == 0


def test_undoing_a_delay_keeps_the_length() -> None:
    sound = np.arange(1, 6, dtype=np.float32)
    np.testing.assert_array_equal(undo_delay(sound, 2, 5), [3, 4, 5, 0, 0])
    np.testing.assert_array_equal(undo_delay(sound, -2, 5), [0, 0, 1, 2, 3])
    np.testing.assert_array_equal(undo_delay(sound, 1, 2), [2, 3])
    assert undo_delay(sound, 0, 5).dtype == np.float32
    assert metrics.MAX_DELAY == 960
