"""Tokens of a window to the features that the T-UNet attends to."""

from __future__ import annotations

import numpy as np

from .config import SemantiCodecConfig

FILL = -1.0  #: the value of every position that a short window lacks


class Codebooks:
    """Both codebooks of one codec: `semantic` [vocab, D] and `acoustic` [acoustic_vocab, D], float32."""

    def __init__(self, semantic: np.ndarray, acoustic: np.ndarray) -> None:
        self.semantic, self.acoustic = semantic, acoustic

    def embed(self, codes: np.ndarray) -> np.ndarray:
        """codes [T, 2] -> E = [Es, Ea], float32 [T, 2D] (paper, eq. 5: semantic first)."""
        return np.concatenate([self.semantic[codes[:, 0]], self.acoustic[codes[:, 1]]], axis=1)

    def condition(self, codes: np.ndarray, config: SemantiCodecConfig) -> np.ndarray:
        """codes [T <= L, 2] -> the conditioning of one window, float32 [L, 2D]: acoustic first, missing positions -1.

        The published weights need the two halves in this order, which is the reverse of eq. 5.
        """
        features = np.full((config.positions, 2 * config.feature_width), FILL, np.float32)
        features[: len(codes), : config.feature_width] = self.acoustic[codes[:, 1]]
        features[: len(codes), config.feature_width :] = self.semantic[codes[:, 0]]
        return features
