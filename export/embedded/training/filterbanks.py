"""The filterbanks that AudioMAE is trained on. No torch here: many processes compute them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from sc_runtime.semanticodec.config import MEL_BINS, SEGMENT_FRAMES, SEGMENT_SAMPLES
from sc_runtime.semanticodec.fbank import fbank_segments

SHORT_EVERY = 6  #: one clip in this many is cut short, so that training sees padding


def choose_lengths(clips: int) -> np.ndarray:
    """Samples that are kept of each clip, int64 [N]: every sixth clip ends after 1 to 10 s, the others are whole."""
    lengths = np.full(clips, SEGMENT_SAMPLES)
    short = np.arange(0, clips, SHORT_EVERY)
    lengths[short] = np.random.default_rng(0).integers(16_000, SEGMENT_SAMPLES - 1600, len(short))
    return lengths


def compute_fbank(clip: np.ndarray, samples: int) -> npt.NDArray[np.float16]:
    """The codec's own filterbank of the first `samples` of an int16 clip, float16 [1024, 128]."""
    cut = (clip[:samples] / 32768).astype(np.float32)
    return next(fbank_segments([cut], len(cut), float(cut.sum(dtype=np.float64)))).astype(np.float16)


def compute_fbanks(clips: np.ndarray, path: Path) -> None:
    """Clips -> their filterbanks, float16 [N, 1024, 128]."""
    fbanks = open_memmap(path, mode="w+", dtype=np.float16, shape=(len(clips), SEGMENT_FRAMES, MEL_BINS))
    for row, samples in enumerate(choose_lengths(len(clips))):
        fbanks[row] = compute_fbank(clips[row], samples)
    fbanks.flush()
