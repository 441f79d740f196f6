"""A recording whole, up to 30 s, and longer ones in windows: the published code runs any length at once.

Every position attends to every other, so that memory would grow with the square of the length, and ten seconds are what
the network was trained on. Windows are 30 s long and 28 s apart; the last one reaches back so that it is whole too. Of
the 2 s that two windows share each gives the half that lies deeper in it (codes), or they cross-fade (sound).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .config import HOP, TPS

LENGTH = 30 * TPS  #: positions of a window
OVERLAP = 2 * TPS  #: positions that two windows share, the last two excepted, which may share more
STRIDE = LENGTH - OVERLAP  #: positions between the starts of two windows


def split_positions(positions: int) -> list[slice]:
    """The windows of `positions` positions."""
    starts = [*range(0, positions - LENGTH, STRIDE), max(positions - LENGTH, 0)]
    return [slice(start, min(start + LENGTH, positions)) for start in starts]


def split_samples(blocks: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks float32 [any length] of a recording -> the first position and the samples of each of its windows.

    The windows of `split_positions`, for a length that shows only when the blocks end; holds two windows at most.
    """
    held = np.empty(0, np.float32)  # from `first` on
    first, given = 0, 0  # given: how far the next window begins behind `first`, which was a window's start
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > HOP * (given + LENGTH):
            held, first = held[HOP * given :], first + given
            yield first, held[: HOP * LENGTH]
            given = STRIDE
    behind = max(-(-len(held) // HOP) - LENGTH, 0)
    yield first + behind, held[HOP * behind :]


def join_codes(starts: list[int], codes: list[np.ndarray]) -> np.ndarray:
    """Codes [<= LENGTH] of windows that start at `starts` -> codes [T]: each up to the middle of what it shares."""
    cuts = [STRIDE * number + OVERLAP // 2 for number in range(1, len(codes))]
    ends = [*cuts, starts[-1] + len(codes[-1])]
    pieces = zip(codes, starts, [0, *cuts], ends, strict=True)
    return np.concatenate([window[cut - start : end - start] for window, start, cut, end in pieces])


def trim_overlap(waveform: np.ndarray, window: slice, number: int) -> np.ndarray:
    """Window `number`'s samples from where it would start if it did not reach back."""
    return waveform[HOP * (STRIDE * number - window.start) :]
