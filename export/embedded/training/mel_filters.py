"""The triangles of mel spectrograms, without librosa: the machine with the GPU has none."""

from __future__ import annotations

from functools import cache

import numpy as np

from sc_runtime.semanticodec.config import SAMPLE_RATE


@cache
def mel_filters(window: int, bins: int) -> np.ndarray:
    """Triangles from 0 Hz to 8 kHz, even on Slaney's mel scale and of equal area, float64 [bins, window / 2 + 1].

    librosa.filters.mel's defaults, which DAC and AudioLDM use.
    """
    edges = mel_to_hertz(np.linspace(0, hertz_to_mel(SAMPLE_RATE / 2), bins + 2))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequencies = np.linspace(0, SAMPLE_RATE / 2, window // 2 + 1)
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


def hertz_to_mel(hertz: float) -> float:
    """Slaney's scale for 1 kHz and above, where 27 mels make a factor of 6.4; 1 kHz is 15 mels."""
    return 15 + 27 * float(np.log(hertz / 1000) / np.log(6.4))


def mel_to_hertz(mels: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear below 1 kHz, logarithmic above."""
    return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
