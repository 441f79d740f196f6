"""The diffusion's schedule, its solver and its noise: pure functions around the T-UNet.

The network predicts v = sqrt(abar) eps - sqrt(1 - abar) z0 (paper, eq. 8). Latents are float32 [B, 8, 256, 16].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .bundle import Schedule
from .config import LATENT_SHAPE
from .errors import SettingsError

Noise = Callable[[int, int], np.ndarray]  #: (window, draw) -> standard normal float32 [8, 256, 16]
Predict = Callable[[np.ndarray, int], np.ndarray]  #: (latent, step) -> guided v
Draw = Callable[[int], np.ndarray]  #: draw -> noise of the whole batch

PHILOX_DOMAIN = 0x5C0DEC  #: second key word: keeps these streams apart from other uses of the same seed


def compute_alphas(schedule: Schedule) -> np.ndarray:
    """Cumulative products abar_n of 1 - beta_n, float64 [steps] (paper, eq. 7)."""
    roots = np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.steps, dtype=np.float64)
    return np.cumprod(1.0 - roots**2)


def choose_timesteps(steps: int, schedule: Schedule) -> np.ndarray:
    """The diffusion steps that DDIM visits, ascending, int64: every (1000 // steps)-th from 1.

    A count that does not divide 1000 gives more steps than asked for, as published; one whose last step falls off
    the schedule cannot work. Raises SettingsError.
    """
    if not 1 <= steps <= schedule.steps:
        raise SettingsError(f"{steps} steps", f"1 to {schedule.steps}")
    timesteps = np.arange(0, schedule.steps, schedule.steps // steps) + 1
    if timesteps[-1] >= schedule.steps:
        nearest = min((s for s in range(1, schedule.steps) if has_room(s, schedule)), key=lambda s: (abs(s - steps), s))
        raise SettingsError(
            f"{steps} steps (the last would be {timesteps[-1]} of {schedule.steps})",
            "a count whose steps end inside the schedule",
            f"use {nearest}",
        )
    return timesteps


def has_room(steps: int, schedule: Schedule) -> bool:
    """Whether `steps` evenly spaced steps end inside the schedule."""
    stride = schedule.steps // steps
    return (schedule.steps - 1) // stride * stride + 1 < schedule.steps


def sample_ddim(
    predict: Predict, latent: np.ndarray, draw: Draw, timesteps: np.ndarray, alphas: np.ndarray, eta: float
) -> np.ndarray:
    """DDIM with v-prediction (Song et al. 2021, eq. 12 and 16; paper, section III-D).

    `latent` is x_T; `draw(1 + i)` the noise of step i, asked for only when eta > 0; eta 0 is deterministic, 1 is
    ancestral sampling. Returns z_0.
    """
    previous = np.concatenate([alphas[:1], alphas[timesteps[:-1]]])
    for i, (step, below) in enumerate(zip(timesteps[::-1], previous[::-1], strict=True)):
        above = alphas[step]
        v = predict(latent, int(step))
        clean = np.float32(above**0.5) * latent - np.float32((1 - above) ** 0.5) * v
        noise = np.float32(above**0.5) * v + np.float32((1 - above) ** 0.5) * latent
        sigma = eta * ((1 - below) / (1 - above) * (1 - above / below)) ** 0.5
        latent = np.float32(below**0.5) * clean + np.float32((1 - below - sigma**2) ** 0.5) * noise
        if sigma > 0:
            latent += np.float32(sigma) * draw(1 + i)
    return latent


def seeded_noise(seed: int) -> Noise:
    """Counter-based noise: a pure function of (seed, window, draw), the same on every backend and batch size.

    Philox 4x64-10 with key (seed, domain) and counter (0, draw, window, 0), then Box-Muller in float64. Raises
    SettingsError for a seed outside 0 ... 2^64 - 1.
    """
    if not 0 <= seed < 2**64:
        raise SettingsError(f"seed {seed}", "0 to 2^64 - 1")
    count = int(np.prod(LATENT_SHAPE))
    key = np.array([seed, PHILOX_DOMAIN], np.uint64)

    def draw_noise(window: int, draw: int) -> np.ndarray:
        counter = np.array([0, draw, window, 0], np.uint64)
        bits = np.random.Philox(key=key, counter=counter).random_raw(count)
        unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log1p(-unit[: count // 2]))
        angle = 2.0 * np.pi * unit[count // 2 :]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return normal.astype(np.float32).reshape(LATENT_SHAPE)

    return draw_noise
