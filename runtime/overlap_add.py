"""Windows of sound joined by a linear cross-fade, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .semanticodec.config import OVERLAP_SAMPLES

WINDOW_SAMPLES = 163_872  #: of the vocoder's output for 1024 frames
STRIDE = WINDOW_SAMPLES - OVERLAP_SAMPLES  #: samples between the starts of two windows
RISE = np.linspace(0.0, 1.0, OVERLAP_SAMPLES, dtype=np.float32)  #: weight of the entering window
FALL = RISE[::-1]  #: of the leaving one


def overlap_add(windows: Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """Waveforms [n] -> pieces that together hold `samples` samples, float32.

    Each window enters over the last 10 240 samples of the one before, with weights that add up to one. A window is
    the vocoder's whole output, 163 872 samples: 32 more than its 1024 frames stand for, so that windows lie 153 632
    samples apart and not 153 600. The published decoder does so, and the golden waveforms show it. The last window may
    end where `samples` does.
    """
    tail: np.ndarray | None = None
    remaining = samples
    for window in windows:
        if tail is not None:
            piece = window.copy()
            piece[:OVERLAP_SAMPLES] = tail * FALL + piece[:OVERLAP_SAMPLES] * RISE
        else:
            piece = window
        body, tail = piece[:-OVERLAP_SAMPLES][:remaining], piece[-OVERLAP_SAMPLES:]
        remaining -= len(body)
        if len(body):
            yield body
    if tail is not None and remaining > 0:
        yield tail[:remaining]
