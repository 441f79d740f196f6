"""The losses that train the vocoder, against the metric that they follow and against sounds whose distance is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bench.quality.metrics import mel_distance  # noqa: E402
from sc_runtime.export.embedded.training import vocoder  # noqa: E402
from sc_runtime.export.embedded.training.sizes import TRAINED  # noqa: E402
from sc_runtime.semanticodec.config import SAMPLE_RATE  # noqa: E402

WEIGHTS = ("MEL_WEIGHT", "MAGNITUDE_WEIGHT", "CONVERGENCE_WEIGHT", "LEVEL_WEIGHT")
SAMPLES = 2 * SAMPLE_RATE // 512 * 512  #: a whole number of hops of every resolution


@pytest.fixture(scope="module")
def stage() -> vocoder.VocoderStage:
    return vocoder.VocoderStage(TRAINED, np.zeros((1, 163840), np.int16), None, None, torch.device("cpu"))


@pytest.fixture(scope="module")
def sounds() -> np.ndarray:
    """A tune of three partials that fades, and noise: float32 [2, SAMPLES]."""
    seconds = np.arange(SAMPLES) / SAMPLE_RATE
    tune = sum(np.sin(2 * np.pi * 220 * k * seconds + k) / k for k in (1, 2, 3)) * np.exp(-seconds) * 0.2
    noise = np.random.default_rng(0).normal(0, 0.05, SAMPLES)
    return np.stack([tune, noise]).astype(np.float32)


def weigh(monkeypatch: pytest.MonkeyPatch, **weights: float) -> None:
    for name in WEIGHTS:
        monkeypatch.setattr(vocoder, name, weights.get(name, 0.0))


@pytest.mark.parametrize("name", WEIGHTS)
def test_equal_sounds_are_at_no_distance(
    stage: vocoder.VocoderStage, sounds: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weigh(monkeypatch, **{name: 1.0})
    same, other = torch.from_numpy(sounds), torch.from_numpy(sounds[::-1].copy())
    assert float(stage.compare_spectra(same, same)) == 0
    assert float(stage.compare_spectra(same, other)) > 0.3


def test_log_mels_are_those_of_the_mel_distance(
    stage: vocoder.VocoderStage, sounds: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric adds the scales and counts in log10; its frames lie half a hop beside those of the loss."""
    weigh(monkeypatch, MEL_WEIGHT=len(vocoder.RESOLUTIONS) / math.log(10))
    tune, noise = sounds
    for decoded in (tune + 0.01 * noise, 0.5 * tune, noise):
        loss = float(stage.compare_spectra(torch.from_numpy(tune[None]), torch.from_numpy(decoded[None])))
        assert loss == pytest.approx(mel_distance(tune, decoded), rel=0.02)


@pytest.mark.parametrize("gain", [0.5, 0.9, 2.0])
def test_levels_count_as_the_logarithm_of_a_gain(
    stage: vocoder.VocoderStage, sounds: np.ndarray, gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weigh(monkeypatch, LEVEL_WEIGHT=0.5)  # those of bands and that of the whole
    noise = torch.from_numpy(sounds[1:])
    assert float(stage.compare_spectra(noise, gain * noise)) == pytest.approx(abs(math.log(gain)), rel=0.01)


def test_a_level_does_not_depend_on_where_its_power_lies() -> None:
    """All power of an area in one bin and frame is as loud as the same power spread over the area."""
    bins, frames = vocoder.LEVEL_BINS, vocoder.LEVEL_FRAMES
    spread = torch.ones(1, 2 * bins, 3 * frames)
    heaped = torch.zeros_like(spread)
    heaped[:, ::bins, ::frames] = bins * frames
    assert float(vocoder.compare_levels(spread, heaped, bins)) == pytest.approx(0, abs=1e-6)
    assert float(vocoder.compare_levels(spread, spread / 4, bins)) == pytest.approx(math.log(2))
