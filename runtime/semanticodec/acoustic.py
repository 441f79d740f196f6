"""The input of the acoustic encoder: features beside their centroids, with padding overwritten."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .config import SEGMENT_FRAMES

PADDING = -1.0  #: the value of every position after the last frame that is not empty


def join_features(features: np.ndarray, centroids: np.ndarray, frames: Sequence[int]) -> np.ndarray:
    """[Y, Es] of eq. 2, float32 [B, L, 2D], from features and centroids [B, L, D].

    `frames`: for each window, the number of frames up to the last one that is not empty, 0 to 1024. Positions from
    ceil(L * frames / 1024) on are overwritten with -1: the published weights require it.
    """
    joined = np.concatenate([features, centroids], axis=2)
    for window, count in zip(joined, frames, strict=True):
        window[count_filled(len(window), count) :] = PADDING
    return joined


def count_filled(positions: int, frames: int) -> int:
    """The positions of a window that are not padding, from its `frames` up to the last one that is not empty."""
    return math.ceil(positions * frames / SEGMENT_FRAMES)
