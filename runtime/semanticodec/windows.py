"""Tokens to overlapping windows of L positions, as the published decoder cuts them."""

from __future__ import annotations

from .config import SemantiCodecConfig


def split_windows(positions: int, config: SemantiCodecConfig) -> list[slice]:
    """The windows of `positions` token positions: L long, 15/16 L apart, the last one holding what remains.

    A further window starts only while the one before does not reach past the end: T = L is one window; T = L + 1 two.
    """
    starts = [0]
    while starts[-1] + config.positions < positions:
        starts.append(starts[-1] + config.hop)
    return [slice(start, min(start + config.positions, positions)) for start in starts]
