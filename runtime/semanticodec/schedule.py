"""The noise schedule of the diffusion, and the choice of a solver's timesteps."""

from __future__ import annotations

import numpy as np

from sc_runtime.errors import SettingsError

from .config import Schedule


def compute_alphas_cumprod(schedule: Schedule) -> np.ndarray:
    """Cumulative products abar_n of 1 - beta_n, float64 [steps] (paper, eq. 7)."""
    roots = np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.steps, dtype=np.float64)
    return np.cumprod(1.0 - roots**2)


def choose_timesteps(steps: int, schedule: Schedule, spacing: str = "published") -> np.ndarray:
    """The timesteps of a solver, descending to 0, int64 [N + 1]. The T-UNet runs at all but the last.

    spacing "published": DDIM's, every (1000 // `steps`)-th timestep from 1. Where `steps` does not divide 1000, there
        are more steps than asked for, as published. The first timestep must lie inside the schedule.
    spacing "logsnr": exactly `steps` steps, even in the logarithm of the signal-to-noise ratio (Lu et al. 2022,
        section 4.1).

    Raises SettingsError.
    """
    if not 1 <= steps < schedule.steps:
        raise SettingsError(f"{steps} steps", f"1 to {schedule.steps - 1}")
    last = schedule.steps - 1
    if spacing == "published":
        timesteps = np.append((np.arange(0, schedule.steps, schedule.steps // steps) + 1)[::-1], 0)
        if timesteps[0] > last:
            nearest = min((n for n in range(1, last) if has_room(n, schedule)), key=lambda n: (abs(n - steps), n))
            raise SettingsError(
                f"{steps} steps (the first would be {timesteps[0]} of {schedule.steps})",
                "a count whose steps lie inside the schedule",
                f"use {nearest}",
            )
    elif spacing == "logsnr":
        lambdas = half_log_snr(compute_alphas_cumprod(schedule))
        wanted = np.linspace(lambdas[last], lambdas[0], steps + 1)
        timesteps = np.rint(np.interp(wanted, lambdas[::-1], np.arange(last, -1, -1))).astype(np.int64)
        if (np.diff(timesteps) >= 0).any():
            raise SettingsError(
                f"{steps} steps even in log-SNR", f"fewer, as some fall together on {schedule.steps}", "use 30 or fewer"
            )
    else:
        raise SettingsError(f"spacing {spacing!r}", "published or logsnr")
    return timesteps


def has_room(steps: int, schedule: Schedule) -> bool:
    """Whether `steps` steps of the published spacing lie inside the schedule."""
    stride = schedule.steps // steps
    return (schedule.steps - 1) // stride * stride + 1 < schedule.steps


def half_log_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """lambda = log(sqrt(abar) / sqrt(1 - abar)) (Lu et al. 2022, section 2)."""
    return 0.5 * np.log(alphas_cumprod / (1 - alphas_cumprod))
