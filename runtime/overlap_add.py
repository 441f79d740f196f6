"""Windows of sound joined by a linear cross-fade, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


def overlap_add(windows: Iterable[Iterable[np.ndarray]], samples: int, overlap: int) -> Iterator[np.ndarray]:
    """Windows, each the pieces [n] of one waveform -> pieces that together hold `samples` samples, float32.

    Each window enters over the last `overlap` samples of the one before, with weights that add up to one, from 0 to 1
    and from 1 to 0, both ends included. Its first piece is at least that long. The last window may end where `samples`
    does.
    """
    rise = np.linspace(0.0, 1.0, overlap, dtype=np.float32)  # weight of the entering window
    fall = rise[::-1]  # of the leaving one
    held: np.ndarray | None = None  # the last samples, which the next window may enter over
    remaining = samples
    for window in windows:
        leaving, held = held, None
        for piece in window:
            if held is not None:
                piece = np.concatenate([held, piece])
            elif leaving is not None:
                piece = np.concatenate([leaving * fall + piece[:overlap] * rise, piece[overlap:]])
            body, held = piece[:-overlap][:remaining], piece[-overlap:]
            remaining -= len(body)
            if len(body):
                yield body
    if held is not None and remaining > 0:
        yield held[:remaining]
