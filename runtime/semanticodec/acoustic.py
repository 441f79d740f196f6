"""What the acoustic encoder reads: features beside their centroids, padding overwritten."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .config import SEGMENT_FRAMES

PADDING = -1.0  #: of every position past the last frame that is not empty


def join_features(features: np.ndarray, centroids: np.ndarray, frames: Sequence[int]) -> np.ndarray:
    """[Y, Es] of eq. 2, float32 [B, L, 2D], from features and centroids [B, L, D].

    `frames` counts, for each window, the frames up to the last that is not empty (0 to 1024); positions from
    ceil(L * frames / 1024) on are overwritten with -1, as the published weights expect.
    """
    joined = np.concatenate([features, centroids], axis=2)
    for window, count in zip(joined, frames, strict=True):
        window[math.ceil(len(window) * count / SEGMENT_FRAMES) :] = PADDING
    return joined
