"""Latent to log-mel to waveform."""

from __future__ import annotations

import numpy as np

from ..backends.base import Graph
from .config import FRAME_SHIFT, SEGMENT_FRAMES

REACH = 32  #: frames on either side that a sample depends on are at most 24 (kernels, dilations and strides added up)
FRAME_STEP = 64  #: frame counts are multiples of it, so that a backend meets few different shapes


def vocode(vae_decoder: Graph, hifigan: Graph, latent: np.ndarray, samples: int) -> np.ndarray:
    """latent [B, 8, 256, 16] -> log-mel [B, 64, 1024] -> waveforms [B, n], of which the first `samples` are wanted.

    The vocoder is convolutional: what a window's end needs is all that is made of it, and a whole window, at most,
    gives n = 163 872.
    """
    mel = vae_decoder.run({"latent": latent})["mel"]
    frames = choose_frames(samples)
    return hifigan.run({"mel": np.ascontiguousarray(mel[:, :, :frames])})["waveform"]


def choose_frames(samples: int) -> int:
    """Frames of a window that its first `samples` samples depend on, few different counts of them."""
    frames = -(-samples // FRAME_SHIFT) + REACH
    return min(-(-frames // FRAME_STEP) * FRAME_STEP, SEGMENT_FRAMES)
