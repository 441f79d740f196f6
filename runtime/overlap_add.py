"""Overlap-add: windows of sound are joined by a linear cross-fade, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


def overlap_add(windows: Iterable[Iterable[np.ndarray]], samples: int, overlap: int) -> Iterator[np.ndarray]:
    r"""Windows, each an iterable of the pieces [n] of one waveform -> pieces float32 [n], `samples` samples in all.

    Two windows share `overlap` samples. Over these the first window's weight falls linearly from 1 to 0 and the
    second's rises from 0 to 1, both ends included. The weights add up to 1. The first piece of a window has at least
    `overlap` samples. The last window is cut at `samples`.

        window 0   ----------------\
        window 1                /----------------\
        window 2                              /------------|
                                <--> overlap               samples
    """
    rise = np.linspace(0.0, 1.0, overlap, dtype=np.float32)  # weight of the second window
    fall = rise[::-1]  # weight of the first
    held: np.ndarray | None = None  # the last samples, which the next window overlaps
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
