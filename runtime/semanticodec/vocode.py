"""Latent to log-mel to waveform: the VAE decoder and HiFi-GAN."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sc_runtime.networks import Graph

from .config import FRAME_SHIFT, SEGMENT_FRAMES
from .spec import FRAME_STEP

REACH = 24  #: a sample depends on at most this many frames on either side (kernels, dilations and strides added up)
#: Least frames of a run. The first sound is ready after one run, but neighbours need `REACH` frames of one another.
LEAST_RUN = 256


def vocode(vae_decoder: Graph, hifigan: Graph, latent: np.ndarray, samples: int) -> Iterator[np.ndarray]:
    """latent [B, 8, 256, 16] -> log-mel [B, 64, 1024] -> pieces [B, n] of waveforms, of which `samples` are needed.

    The vocoder is convolutional, so it runs on the frames that the first `samples` samples depend on. Of one window
    each piece is ready before the next is made. The pieces of a whole window have 163 872 samples in all.
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

    A single window runs in up to four parts, each with `REACH` frames of its neighbours. Several windows, and a short
    one, run as a whole. All runs have the same number of frames, so that the vocoder is compiled once.

    frames  |------ run 0 ------|                        kept: 0 to run - REACH
                          |------ run 1 ------|          kept: what follows, to REACH before its end
                                      |------ run 2 ------|    it ends with the frames; kept: what is left
    """
    frames = choose_frames(samples)
    count = max(1, frames // LEAST_RUN) if batch == 1 else 1
    run = -(-(frames + 2 * REACH * (count - 1)) // count)
    plan, kept = [], 0  # frames whose samples are kept so far
    for part in range(count):
        last = part == count - 1
        start = frames - run if last else max(0, kept - REACH)
        end = None if last else (run - REACH) * FRAME_SHIFT
        plan.append((slice(start, start + run), slice((kept - start) * FRAME_SHIFT, end)))
        kept = start + run - REACH
    return plan
