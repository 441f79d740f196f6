"""A solver as a table of numbers, for devices that cannot run its Python code.

Every solver of `samplers` is linear: each latent that it gives to the T-UNet, and the one that it returns, is a
weighted sum of z_T, of the velocities so far and of the noise so far. A solver that runs on unit vectors instead of
latents returns these weights. So its formulas are written once, in `samplers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .config import Schedule
from .presets import Sampling
from .samplers import SOLVERS
from .schedule import choose_timesteps, compute_alphas_cumprod

DEPTH = 3  #: number of latents and velocities that a step may use, the newest included: UniPC's three
TOLERANCE = 1e-9  #: of a weight: far above float64's rounding, far below float32's


@dataclass(frozen=True)
class LinearMultistep:
    """x_(i+1) = sum_j latents[i, j] x_(i-j) + sum_j velocities[i, j] v_(i-j) + noise[i] n_(i+1), i = 0 ... N - 1.

    x_i is the T-UNet's input at timestep `timesteps[i]` and v_i its output. x_0 = n_0 is z_T and x_N is z_0; n_k is
    draw k of the noise. `latents` and `velocities` float64 [N, DEPTH], `noise` [N], `timesteps` int64 [N].
    """

    timesteps: np.ndarray
    latents: np.ndarray
    velocities: np.ndarray
    noise: np.ndarray


def trace_solver(sampling: Sampling, schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """Timesteps int64 [N] and weights float64 [N + 1, 1 + 2N]: x_i, by row, as a sum of z_T, v_0 ... and n_1 ..."""
    solver = SOLVERS[sampling.solver]
    timesteps = choose_timesteps(sampling.steps, schedule, solver.spacing)
    count = len(timesteps) - 1
    units = np.eye(1 + 2 * count)
    inputs: list[np.ndarray] = []
    called: list[int] = []

    def predict(latent: np.ndarray, timestep: int) -> np.ndarray:
        inputs.append(latent.copy())
        called.append(timestep)
        return units[len(inputs)]

    last = solver.sample(
        predict, units[0], lambda draw: units[count + draw], timesteps, compute_alphas_cumprod(schedule), sampling.eta
    )
    return np.array(called, np.int64), np.stack([*inputs, last])


@lru_cache(maxsize=8)
def find_multistep(sampling: Sampling, schedule: Schedule) -> LinearMultistep:
    """The shortest form that equals the solver of `sampling`. DDIM's uses the newest latent and velocity only."""
    timesteps, weights = trace_solver(sampling, schedule)
    count = len(timesteps)
    latents, velocities = np.zeros((2, count, DEPTH))
    noise = weights[np.arange(1, count + 1), np.arange(count + 1, 2 * count + 1)]
    units = np.eye(1 + 2 * count)
    for i in range(count):
        wanted = weights[i + 1] - noise[i] * units[1 + count + i]
        for depth in range(1, min(i + 1, DEPTH) + 1):
            back = i - np.arange(depth)
            known = np.concatenate([weights[back], units[1 + back]]).T
            found = np.linalg.lstsq(known, wanted, rcond=None)[0]
            if np.abs(known @ found - wanted).max() < TOLERANCE:
                break
        else:
            raise AssertionError(f"{sampling.solver} looks back further than {DEPTH} steps")
        latents[i, :depth], velocities[i, :depth] = np.split(found, 2)
    return LinearMultistep(timesteps, latents, velocities, noise)
