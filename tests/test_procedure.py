"""The runtime against the published procedure in PyTorch eager (`bench/reference/semanticodec.py`), on tiny networks.

It adds lengths and settings that the golden cases lack. The procedure shares no code with the runtime.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.reference.semanticodec import PublishedCodec
from sc_runtime import Codec
from sc_runtime.accuracy import relative_error
from sc_runtime.export.seeded import SeededWeights
from sc_runtime.export.semanticodec.networks.sizes import choose_sizes
from tests.conftest import build_test_bundle

VOCAB = 4096


class Pair:
    """The runtime and the published procedure on the same weights."""

    def __init__(self, tps: int, seed: int) -> None:
        vocabularies = (VOCAB, 32768) if (tps, seed) == (50, 1) else (VOCAB,)
        self.codec = Codec.load(build_test_bundle(tps, vocabularies, "tiny", seed), backend="onnxruntime")
        self.published = PublishedCodec(choose_sizes("tiny", tps, VOCAB), SeededWeights(seed))


#: (tps, seed of the weights)
PAIRS = [(50, 1), pytest.param((100, 2), marks=pytest.mark.slow), pytest.param((25, 3), marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=PAIRS, ids=lambda p: f"{p[0]}tps-weights{p[1]}")
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(*request.param)


def make_sound(seconds: float, seed: int) -> np.ndarray:
    """Chirps under noise whose level wanders, with a silence near the end, float32 at 16 kHz."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16000)) / 16000
    level = np.interp(time, np.arange(0, seconds + 2), generator.uniform(0, 0.5, len(np.arange(0, seconds + 2))))
    sound = level * np.sin(2 * np.pi * (200 + 300 * np.sin(time)) * time) + 0.05 * level * generator.standard_normal(
        len(time)
    )
    sound[int(len(sound) * 0.9) :] = 0
    return sound.astype(np.float32)


def draw_noise(window: int, draw: int) -> np.ndarray:
    return np.random.default_rng([window, draw]).standard_normal((8, 256, 16), np.float32)


SECONDS = (0.3, 4.0, 10.24, 10.3, 25.7)


@pytest.mark.parametrize("seconds", SECONDS)
def test_tokens_are_equal(pair: Pair, seconds: float) -> None:
    sound = make_sound(seconds, seed=round(100 * seconds))
    tokens = pair.codec.encode(sound, vocab=VOCAB)
    np.testing.assert_array_equal(tokens.codes, pair.published.encode(sound))
    assert len(np.unique(tokens.codes[:, 0])) > 2


@pytest.mark.parametrize("samples", [1, 2560, 81920, 163839, 163840, 163841, 327680, 7 * 163840 - 1])
def test_token_count_and_content_at_awkward_lengths(pair: Pair, samples: int) -> None:
    sound = make_sound(samples / 16000 + 0.01, seed=samples)[:samples]
    np.testing.assert_array_equal(pair.codec.encode(sound, vocab=VOCAB).codes, pair.published.encode(sound))


def test_silence(pair: Pair) -> None:
    silence = np.zeros(20000, np.float32)
    np.testing.assert_array_equal(pair.codec.encode(silence, vocab=VOCAB).codes, pair.published.encode(silence))


#: (seconds, steps, guidance, eta)
SETTINGS = {
    "published": (4.0, 4, 2.0, 1.0),
    "exactly one window": (10.24, 2, 2.0, 1.0),
    "three windows": (25.7, 1, 2.0, 1.0),
    "steps that do not divide 1000": (4.0, 7, 2.0, 1.0),
    "one step": (4.0, 1, 2.0, 1.0),
    "another guidance": (4.0, 2, 3.5, 1.0),
    "a single branch": (4.0, 2, 1.0, 1.0),
    "no guidance": (4.0, 2, 0.0, 1.0),
    "deterministic": (4.0, 2, 2.0, 0.0),
    "half the noise": (10.3, 2, 2.0, 0.5),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_waveforms_are_equal(pair: Pair, settings: tuple[float, int, float, float]) -> None:
    seconds, steps, guidance, eta = settings
    config = pair.codec.bundle.choose_config(VOCAB)
    positions = config.count_positions(round(seconds * 16000))
    generator = np.random.default_rng(positions)
    codes = generator.integers(0, [VOCAB, config.acoustic_vocab], (positions, 2))
    found = pair.codec.decode(codes, steps=steps, guidance=guidance, eta=eta, noise=draw_noise, vocab=VOCAB)
    truth = pair.published.decode(codes, steps=steps, guidance=guidance, eta=eta, noise=draw_noise)
    assert found.shape == truth.shape
    assert relative_error(found, truth) < 1e-3
    # The stand-in vocoder has a large constant part: what varies must agree too.
    assert relative_error(found - found.mean(), truth - truth.mean()) < 1e-3
