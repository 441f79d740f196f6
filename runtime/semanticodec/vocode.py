"""Latent to log-mel to waveform."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..backends.base import Graph
from .config import FRAME_SHIFT, SEGMENT_FRAMES

REACH = 24  #: frames on either side that a sample depends on, at most (kernels, dilations and strides added up)
FRAME_STEP = 64  #: frame counts are multiples of it, so that a backend meets few different shapes
HALVED = 256  #: frames from which on a window is made in halves: with fewer their common frames would cost too much


def vocode(vae_decoder: Graph, hifigan: Graph, latent: np.ndarray, samples: int) -> Iterator[np.ndarray]:
    """latent [B, 8, 256, 16] -> log-mel [B, 64, 1024] -> pieces [B, n] of waveforms; the first `samples` count.

    The vocoder is convolutional: what a window's end needs is all that is made of it, and the first half can be heard
    before the second is made. The pieces of a whole window have 163 872 samples together.
    """
    mel = vae_decoder.run({"latent": latent})["mel"]
    for span, kept in split_frames(choose_frames(samples)):
        yield hifigan.run({"mel": np.ascontiguousarray(mel[:, :, span])})["waveform"][:, kept]


def choose_frames(samples: int) -> int:
    """Frames of a window that its first `samples` samples depend on, few different counts of them."""
    frames = -(-samples // FRAME_SHIFT) + REACH
    return min(-(-frames // FRAME_STEP) * FRAME_STEP, SEGMENT_FRAMES)


def split_frames(frames: int) -> list[tuple[slice, slice]]:
    """How to make a window of so many frames: the frames to run together, and the samples to keep of each run.

    Two halves, each with `REACH` frames of the other, or one run where that is short.
    """
    half = frames // 2
    if frames < HALVED:
        return [(slice(0, frames), slice(None))]
    return [
        (slice(0, half + REACH), slice(0, half * FRAME_SHIFT)),
        (slice(half - REACH, frames), slice(REACH * FRAME_SHIFT, None)),
    ]
