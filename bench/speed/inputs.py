"""Inputs to time: sound and codes of any length, the same in every run."""

from __future__ import annotations

import numpy as np

from sc_runtime.config import CodecConfig

PERIOD = 7  #: seconds after which the sound repeats


def make_sound(seconds: float, rate: int = 16_000) -> np.ndarray:
    """A tone of varying pitch and level under noise, float32 [n] at `rate` Hz."""
    moment = np.arange(PERIOD * rate) / rate
    level = 0.3 + 0.2 * np.sin(1.7 * moment)
    noise = np.random.default_rng(0).standard_normal(len(moment))
    sound = level * (np.sin(2 * np.pi * (220 * moment + 60 * np.sin(3 * moment))) + 0.1 * noise)
    return np.resize(sound.astype(np.float32), round(seconds * rate))


def make_codes(seconds: float, config: CodecConfig) -> np.ndarray:
    """Random codes int64 [T, C] for that many seconds. The time of decoding does not depend on their values."""
    entries = list(config.codebook_sizes.values())
    positions = config.count_positions(round(seconds * config.sample_rate))
    return np.random.default_rng(0).integers(0, entries, (positions, len(entries)))
