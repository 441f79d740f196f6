"""Windows of UniCodec: a recording of up to 30 s is one window, a longer one is several.

The published code runs any length at once. Every position attends to every other, so that memory grows with the square
of the length, and the network was trained on ten seconds. So there are as few windows as possible, of at most 30 s and
of equal length. Two neighbours share 2 s: in their middle the codes are joined, and over them the sound is cross-faded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from .config import HOP, TPS

LENGTH = 30 * TPS  #: the largest number of positions of a window
OVERLAP = 2 * TPS  #: positions that two windows share


def split_positions(positions: int) -> list[slice]:
    """The windows of `positions` positions; their lengths differ by at most one."""
    if positions <= LENGTH:
        return [slice(0, positions)]
    count = -(-(positions - OVERLAP) // (LENGTH - OVERLAP))
    starts = [number * (positions - OVERLAP) // count for number in range(count + 1)]
    return [slice(start, after + OVERLAP) for start, after in itertools.pairwise(starts)]


def cut_samples(blocks: Iterable[np.ndarray], windows: list[slice]) -> Iterator[np.ndarray]:
    """Blocks float32 [any length] of a recording -> the samples of each of its `windows`.

    One window and one block are held at a time.
    """
    held, first = np.empty(0, np.float32), 0  # samples from position `first` on
    stream = iter(blocks)
    for window in windows:
        while len(held) < HOP * (window.stop - first) and (block := next(stream, None)) is not None:
            held = np.concatenate([held, block])
        held, first = held[HOP * (window.start - first) :], window.start
        yield held[: HOP * (window.stop - first)]


def join_codes(windows: list[slice], codes: list[np.ndarray]) -> np.ndarray:
    """Codes of each window -> codes [T]. Two windows meet in the middle of the positions that they share."""
    cuts = [window.start + OVERLAP // 2 for window in windows[1:]]
    pieces = zip(windows, codes, [0, *cuts], [*cuts, windows[-1].stop], strict=True)
    return np.concatenate([found[cut - window.start : end - window.start] for window, found, cut, end in pieces])
