"""Tokens to overlapping windows of L positions, as in the published decoder."""

from __future__ import annotations

from .config import SemantiCodecConfig


def split_windows(positions: int, config: SemantiCodecConfig) -> list[slice]:
    """The windows of `positions` positions: L long and 15/16 L apart. The last one holds what remains.

    Another window starts only if the one before ends before the last position: T = L is one window, T = L + 1 is two.
    """
    starts = [0]
    while starts[-1] + config.positions < positions:
        starts.append(starts[-1] + config.hop)
    return [slice(start, min(start + config.positions, positions)) for start in starts]
