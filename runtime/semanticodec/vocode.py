"""Latent to log-mel to waveform: the VAE decoder and HiFi-GAN."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sc_runtime.networks import Graph

from .config import FRAME_SHIFT, SEGMENT_FRAMES
from .spec import FRAME_STEP

REACH = 24  #: a sample depends on at most this many frames on either side (kernels, dilations and strides added up)
#: A window of at least this many frames runs in two halves. In a shorter one the frames that both need cost too much.
LEAST_HALVED = 512


def vocode(vae_decoder: Graph, hifigan: Graph, latent: np.ndarray, samples: int) -> Iterator[np.ndarray]:
    """latent [B, 8, 256, 16] -> log-mel [B, 64, 1024] -> pieces [B, n] of waveforms, of which `samples` are needed.

    The vocoder is convolutional, so it runs on the frames that the first `samples` samples depend on. The first half
    of a window is ready before the second is made. The pieces of a whole window have 163 872 samples in all.
    """
    mel = vae_decoder.run({"latent": latent})["mel"]
    for span, kept in plan_runs(len(latent), samples):
        yield hifigan.run({"mel": np.ascontiguousarray(mel[:, :, span])})["waveform"][:, kept]


def choose_frames(samples: int) -> int:
    """Number of frames that the first `samples` samples of a window depend on, as a multiple of `FRAME_STEP`.

    It is at least `FRAME_STEP`, also for `samples` below 1. The distance between windows is 32 samples longer than
    their tokens stand for, so that after an hour the last window may begin after the last sample.
    """
    frames = -(-samples // FRAME_SHIFT) + REACH
    return min(max(-(-frames // FRAME_STEP), 1) * FRAME_STEP, SEGMENT_FRAMES)


def plan_runs(batch: int, samples: int) -> list[tuple[slice, slice]]:
    """The vocoder's runs for the first `samples` samples of `batch` windows: (frames to run, samples to keep).

    A single window runs in two halves, each with `REACH` frames of the other. Several windows, and a short one, run as
    a whole. All runs have the same number of frames.
    """
    frames = choose_frames(samples)
    half = frames // 2
    if batch > 1 or frames < LEAST_HALVED:
        return [(slice(0, frames), slice(None))]
    return [
        (slice(0, half + REACH), slice(0, half * FRAME_SHIFT)),
        (slice(half - REACH, frames), slice(REACH * FRAME_SHIFT, None)),
    ]
