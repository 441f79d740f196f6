"""The noise of decoding, as a function of a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Philox  # here: imported within a decoding, numpy.random would swallow a KeyboardInterrupt

from sc_runtime.errors import SettingsError, check_whole
from sc_runtime.spec import Noise

from .config import LATENT_SHAPE

PHILOX_DOMAIN = 0x5C0DEC  #: second word of the key, so that no other use of the same seed gets these numbers


@dataclass(frozen=True)
class SeededNoise:
    """Counter-based noise: a pure function of (seed, window, draw), the same on every backend and batch size.

    Philox 4x64-10 with key (seed, domain) and counter (0, draw, window, 0), then Box-Muller in float64. On a GPU
    kernels/solver.cu computes the same. Raises SettingsError for a seed outside 0 ... 2^64 - 1.
    """

    seed: int

    def __post_init__(self) -> None:
        expected = "a whole number from 0 to 2^64 - 1"
        if not 0 <= check_whole("seed", self.seed, expected) < 2**64:
            raise SettingsError(f"seed {self.seed}", expected)

    def __call__(self, window: int, draw: int) -> np.ndarray:
        """Standard normal float32 [8, 256, 16]."""
        count = int(np.prod(LATENT_SHAPE))
        key = np.array([self.seed, PHILOX_DOMAIN], np.uint64)
        counter = np.array([0, draw, window, 0], np.uint64)
        bits = Philox(key=key, counter=counter).random_raw(count)
        unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log1p(-unit[: count // 2]))
        angle = 2.0 * np.pi * unit[count // 2 :]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return normal.astype(np.float32).reshape(LATENT_SHAPE)


@dataclass(frozen=True)
class WindowNoise:
    """The noise of one window: `source` is that of its recording, and `window` its number there."""

    source: Noise
    window: int

    def __call__(self, draw: int) -> np.ndarray:
        """Standard normal float32 [8, 256, 16]. Raises SettingsError if the source gives anything else."""
        array = np.asarray(self.source(self.window, draw))
        if array.shape != LATENT_SHAPE or array.dtype != np.float32:
            raise SettingsError(f"noise {array.dtype} {list(array.shape)}", f"float32 {list(LATENT_SHAPE)}")
        return array
