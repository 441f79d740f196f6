"""Latent to log-mel to waveform."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sc_runtime.networks import Graph

from .config import FRAME_SHIFT, SEGMENT_FRAMES
from .spec import FRAME_STEP

REACH = 24  #: frames on either side that a sample depends on, at most (kernels, dilations and strides added up)
HALVED = 512  #: frames from which on a window is made in halves: of fewer, those that both need would be too many


def vocode(vae_decoder: Graph, hifigan: Graph, latent: np.ndarray, samples: int) -> Iterator[np.ndarray]:
    """latent [B, 8, 256, 16] -> log-mel [B, 64, 1024] -> pieces [B, n] of waveforms; the first `samples` count.

    The vocoder is convolutional: what a window's end needs is all that is made of it, and the first half can be heard
    before the second is made. The pieces of a whole window have 163 872 samples together.
    """
    mel = vae_decoder.run({"latent": latent})["mel"]
    for span, kept in plan_runs(len(latent), samples):
        yield hifigan.run({"mel": np.ascontiguousarray(mel[:, :, span])})["waveform"][:, kept]


def choose_frames(samples: int) -> int:
    """Frames of a window that its first `samples` samples depend on, few different counts of them.

    At least `FRAME_STEP`: windows lie a little further apart than what their tokens stand for, so that after an hour of
    them the last may begin behind the last sample.
    """
    frames = -(-samples // FRAME_SHIFT) + REACH
    return min(max(-(-frames // FRAME_STEP), 1) * FRAME_STEP, SEGMENT_FRAMES)


def plan_runs(batch: int, samples: int) -> list[tuple[slice, slice]]:
    """The vocoder's runs for the first `samples` samples of `batch` windows: frames to run, samples to keep of them.

    One window in two halves, each with `REACH` frames of the other; several, of which none is heard first, or a short
    one in one run. All runs have as many frames.
    """
    frames = choose_frames(samples)
    half = frames // 2
    if batch > 1 or frames < HALVED:
        return [(slice(0, frames), slice(None))]
    return [
        (slice(0, half + REACH), slice(0, half * FRAME_SHIFT)),
        (slice(half - REACH, frames), slice(REACH * FRAME_SHIFT, None)),
    ]
