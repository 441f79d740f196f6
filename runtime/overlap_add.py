"""Windows of sound joined by a linear cross-fade, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


def overlap_add(windows: Iterable[np.ndarray], samples: int, overlap: int) -> Iterator[np.ndarray]:
    """Waveforms [n] -> pieces that together hold `samples` samples, float32.

    Each window enters over the last `overlap` samples of the one before, with weights that add up to one, from 0 to 1
    and from 1 to 0, both ends included. The last window may end where `samples` does.
    """
    rise = np.linspace(0.0, 1.0, overlap, dtype=np.float32)  # weight of the entering window
    fall = rise[::-1]  # of the leaving one
    tail: np.ndarray | None = None
    remaining = samples
    for window in windows:
        if tail is not None:
            piece = window.copy()
            piece[:overlap] = tail * fall + piece[:overlap] * rise
        else:
            piece = window
        body, tail = piece[:-overlap][:remaining], piece[-overlap:]
        remaining -= len(body)
        if len(body):
            yield body
    if tail is not None and remaining > 0:
        yield tail[:remaining]
