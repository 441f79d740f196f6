"""A window's beginning is the same whether the vocoder computes the whole window or only the needed part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sc_runtime.backends.onnxruntime import OnnxRuntimeBackend
from sc_runtime.bundle.store import Bundle
from sc_runtime.semanticodec.config import WINDOW_STRIDE, SemantiCodecConfig
from sc_runtime.semanticodec.spec import FRAME_STEP
from sc_runtime.semanticodec.vocode import REACH, choose_frames, plan_runs, vocode
from sc_runtime.semanticodec.windows import split_windows

RUNS = {1: 1, 10_240: 1, 39_000: 1, 81_920: 2, 119_000: 3, 130_000: 3, 163_840: 4, 163_872: 4}  #: samples -> runs


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("samples", RUNS)
def test_a_short_window_is_the_beginning_of_the_whole(tiny_bundle: Path, samples: int, batch: int) -> None:
    bundle, backend = Bundle.load(tiny_bundle), OnnxRuntimeBackend()
    graphs = [backend.open(bundle, name) for name in ("vae_decoder", "hifigan")]
    latent = np.random.default_rng(0).standard_normal((batch, 8, 256, 16), np.float32)
    mel = graphs[0].run({"latent": latent})["mel"]
    whole = graphs[1].run({"mel": mel})["waveform"]  # in one run
    pieces = list(vocode(*graphs, latent, samples))
    assert len(pieces) == len(plan_runs(batch, samples)) == (RUNS[samples] if batch == 1 else 1)
    short = np.concatenate(pieces, axis=1)
    assert whole.shape == (batch, 163_872)
    assert samples <= short.shape[1] <= samples + 160 * (REACH + 64) + 32
    varying = np.abs(whole - whole.mean()).max()
    assert np.abs(short[:, :samples] - whole[:, :samples]).max() < 1e-5 * varying


def test_a_last_window_after_the_last_sample_is_still_vocoded() -> None:
    """Windows are 32 samples further apart than their tokens say: after an hour that is more than a cross-fade."""
    config = SemantiCodecConfig(25, 4096)
    positions = config.count_positions(int(68.49 * 60 * 16_000))
    windows = len(split_windows(positions, config))
    needed = config.count_samples(positions) - WINDOW_STRIDE * (windows - 1)
    assert needed < -FRAME_STEP * 16
    assert choose_frames(needed) == choose_frames(-100_000) == FRAME_STEP


def test_the_reach_of_a_sample_is_less_than_assumed(tiny_bundle: Path) -> None:
    """If one frame changes, samples at least `REACH` frames away do not change, and some nearer ones do."""
    hifigan = OnnxRuntimeBackend().open(Bundle.load(tiny_bundle), "hifigan")
    mel = np.random.default_rng(1).standard_normal((1, 64, 200), np.float32)
    changed = mel.copy()
    changed[:, :, 100] += 3
    moved = np.nonzero(hifigan.run({"mel": mel})["waveform"] != hifigan.run({"mel": changed})["waveform"])[1] / 160
    assert 100 - REACH < moved.min() < 100 < moved.max() < 101 + REACH
