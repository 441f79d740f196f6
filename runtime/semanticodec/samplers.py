"""The solvers of the diffusion: pure functions around the T-UNet.

The network predicts v = sqrt(abar) eps - sqrt(1 - abar) x0 (paper, eq. 8), where abar is `alphas_cumprod` at a timestep
and x0 the denoised latent, z_0 in the paper. Latents are float32 [B, 8, 256, 16].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sc_runtime.errors import SettingsError

from .schedule import half_log_snr

Predict = Callable[[np.ndarray, int], np.ndarray]  #: (latent, timestep) -> guided v
Draw = Callable[[int], np.ndarray]  #: draw -> noise of the whole batch


def sample_ddim(
    predict: Predict, latent: np.ndarray, draw: Draw, timesteps: np.ndarray, alphas_cumprod: np.ndarray, eta: float
) -> np.ndarray:
    """DDIM with v-prediction (Song et al. 2021, eq. 12 and 16; paper, section III-D).

    latent: z_T. draw: `draw(1 + i)` is the noise of step i, called only if eta > 0. timesteps: of `choose_timesteps`.
    alphas_cumprod: of `compute_alphas_cumprod`. eta: 0 is deterministic, 1 is ancestral sampling. Returns z_0.
    """
    for i, (timestep, below) in enumerate(itertools.pairwise(timesteps)):
        here, there = alphas_cumprod[timestep], alphas_cumprod[below]
        v = predict(latent, int(timestep))
        x0 = np.float32(here**0.5) * latent - np.float32((1 - here) ** 0.5) * v
        noise = np.float32(here**0.5) * v + np.float32((1 - here) ** 0.5) * latent
        sigma = eta * ((1 - there) / (1 - here) * (1 - here / there)) ** 0.5
        latent = np.float32(there**0.5) * x0 + np.float32((1 - there - sigma**2) ** 0.5) * noise
        if sigma > 0:
            latent += np.float32(sigma) * draw(1 + i)
    return latent


def sample_dpm_solver(
    predict: Predict, latent: np.ndarray, draw: Draw, timesteps: np.ndarray, alphas_cumprod: np.ndarray, eta: float
) -> np.ndarray:
    """DPM-Solver++(2M), the ODE's at eta 0 and the SDE's at eta 1 (Lu et al. 2022, algorithm 2 and section 5).

    A second-order multistep solver: each step uses x0 of this timestep and of the one before, and one T-UNet call.
    The arguments are those of `sample_ddim`. The last step is of first order, where the extrapolation would be longest.
    """
    lambdas = half_log_snr(alphas_cumprod)
    last = len(timesteps) - 2
    before, width_before = None, 0.0
    for i, (timestep, below) in enumerate(itertools.pairwise(timesteps)):
        here, there = alphas_cumprod[timestep], alphas_cumprod[below]
        x0 = np.float32(here**0.5) * latent - np.float32((1 - here) ** 0.5) * predict(latent, int(timestep))
        width = lambdas[below] - lambdas[timestep]
        target = x0
        if before is not None and i < last:
            target = x0 + np.float32(0.5 * width / width_before) * (x0 - before)
        decay = np.exp(-eta * width)
        latent = (
            np.float32(((1 - there) / (1 - here)) ** 0.5 * decay) * latent
            + np.float32(there**0.5 * -np.expm1(-(1 + eta) * width)) * target
        )
        if eta > 0:
            latent += np.float32((1 - there) ** 0.5 * (1 - decay**2) ** 0.5) * draw(1 + i)
        before, width_before = x0, width
    return latent


def sample_unipc(
    predict: Predict, latent: np.ndarray, draw: Draw, timesteps: np.ndarray, alphas_cumprod: np.ndarray, eta: float
) -> np.ndarray:
    """UniPC-2, predictor and corrector, with data prediction and B(h) = e^h - 1 (Zhao et al. 2023, algorithms 5, 6).

    One T-UNet call a step: the call at a timestep first corrects the step that led there, then predicts the next one.
    It solves the ODE only. The arguments are those of `sample_ddim`. Raises SettingsError for eta > 0.
    """
    if eta > 0:
        raise SettingsError(f"eta {eta} with the solver unipc", "eta 0: it is deterministic", "use ddim or dpm")
    lambdas = half_log_snr(alphas_cumprod)
    origin = latent
    known: list[tuple[int, np.ndarray]] = []  # (timestep, x0), the latest first
    last = len(timesteps) - 2
    for i, (timestep, below) in enumerate(itertools.pairwise(timesteps)):
        here = alphas_cumprod[timestep]
        x0 = np.float32(here**0.5) * latent - np.float32((1 - here) ** 0.5) * predict(latent, int(timestep))
        if known:
            latent = advance_unipc(origin, timestep, [*known[:2], (timestep, x0)], alphas_cumprod, lambdas)
        origin, known = latent, [(timestep, x0), *known[:1]]
        latent = advance_unipc(origin, below, known[:1] if i == last else known, alphas_cumprod, lambdas)
    return latent


def advance_unipc(
    latent: np.ndarray, stop: int, known: list[tuple[int, np.ndarray]], alphas_cumprod: np.ndarray, lambdas: np.ndarray
) -> np.ndarray:
    """From the timestep of `known[0]`, where the latent is `latent`, to timestep `stop`, using every known x0.

    Zhao et al. 2023, eq. 3 and 4: the weights of the finite differences solve a Vandermonde system.
    """
    (start, base), *others = known
    width = lambdas[stop] - lambdas[start]
    growth = np.expm1(-width)
    spans = np.array([(lambdas[timestep] - lambdas[start]) / width for timestep, _ in others])
    orders, phi, wanted = np.arange(1, len(others) + 1), growth / -width - 1, []
    for order in orders:
        wanted.append(phi * math.factorial(order) / growth)
        phi = phi / -width - 1 / math.factorial(order + 1)
    weights = np.linalg.solve(spans[None, :] ** (orders[:, None] - 1), np.array(wanted))
    target = base
    for weight, span, (_, x0) in zip(weights, spans, others, strict=True):
        target = target + np.float32(weight / span) * (x0 - base)
    decay = ((1 - alphas_cumprod[stop]) / (1 - alphas_cumprod[start])) ** 0.5
    return np.float32(decay) * latent - np.float32(alphas_cumprod[stop] ** 0.5 * growth) * target


@dataclass(frozen=True)
class Solver:
    """A solver and the spacing of its timesteps. Only a `stochastic` solver allows eta above 0."""

    sample: Callable[[Predict, np.ndarray, Draw, np.ndarray, np.ndarray, float], np.ndarray]
    spacing: str
    stochastic: bool


SOLVERS = {
    "ddim": Solver(sample_ddim, "published", stochastic=True),
    "dpm": Solver(sample_dpm_solver, "logsnr", stochastic=True),
    "unipc": Solver(sample_unipc, "logsnr", stochastic=False),
}
