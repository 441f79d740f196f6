"""The diffusion's schedule, its solver and its noise: pure functions around the T-UNet.

The network predicts v = sqrt(abar) eps - sqrt(1 - abar) z0 (paper, eq. 8). Latents are float32 [B, 8, 256, 16].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import SettingsError
from .config import LATENT_SHAPE, Schedule

Noise = Callable[[int, int], np.ndarray]  #: (window, draw) -> standard normal float32 [8, 256, 16]
Predict = Callable[[np.ndarray, int], np.ndarray]  #: (latent, step) -> guided v
Draw = Callable[[int], np.ndarray]  #: draw -> noise of the whole batch

PHILOX_DOMAIN = 0x5C0DEC  #: second key word: keeps these streams apart from other uses of the same seed


def compute_alphas(schedule: Schedule) -> np.ndarray:
    """Cumulative products abar_n of 1 - beta_n, float64 [steps] (paper, eq. 7)."""
    roots = np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.steps, dtype=np.float64)
    return np.cumprod(1.0 - roots**2)


def choose_nodes(steps: int, schedule: Schedule, spacing: str = "published") -> np.ndarray:
    """The diffusion steps that a solver passes, descending to 0, int64 [N + 1]: the T-UNet runs at all but the last.

    "published": DDIM's, every (1000 // `steps`)-th step from 1. A count that does not divide 1000 gives more steps
    than asked for, as published; one whose first falls off the schedule cannot work.
    "uniform": exactly `steps` even steps down from 999.
    "logsnr": exactly `steps`, even in the logarithm of the signal-to-noise ratio (Lu et al. 2022, section 4.1).
    Raises SettingsError.
    """
    if not 1 <= steps < schedule.steps:
        raise SettingsError(f"{steps} steps", f"1 to {schedule.steps - 1}")
    last = schedule.steps - 1
    if spacing == "published":
        nodes = np.append((np.arange(0, schedule.steps, schedule.steps // steps) + 1)[::-1], 0)
        if nodes[0] > last:
            nearest = min((n for n in range(1, last) if has_room(n, schedule)), key=lambda n: (abs(n - steps), n))
            raise SettingsError(
                f"{steps} steps (the first would be {nodes[0]} of {schedule.steps})",
                "a count whose steps lie inside the schedule",
                f"use {nearest}",
            )
    elif spacing == "uniform":
        nodes = np.rint(np.linspace(last, 0, steps + 1)).astype(np.int64)
    elif spacing == "logsnr":
        ratios = half_log_snr(compute_alphas(schedule))
        wanted = np.linspace(ratios[last], ratios[0], steps + 1)
        nodes = np.rint(np.interp(wanted, ratios[::-1], np.arange(last, -1, -1))).astype(np.int64)
        if (np.diff(nodes) >= 0).any():
            raise SettingsError(
                f"{steps} steps even in log-SNR", f"fewer, as some fall together on {schedule.steps}", "use 30 or fewer"
            )
    else:
        raise SettingsError(f"spacing {spacing!r}", "published, uniform or logsnr")
    return nodes


def has_room(steps: int, schedule: Schedule) -> bool:
    """Whether `steps` steps of the published spacing lie inside the schedule."""
    stride = schedule.steps // steps
    return (schedule.steps - 1) // stride * stride + 1 < schedule.steps


def half_log_snr(alphas: np.ndarray) -> np.ndarray:
    """lambda = log(sqrt(abar) / sqrt(1 - abar)) (Lu et al. 2022, section 2)."""
    return 0.5 * np.log(alphas / (1 - alphas))


def sample_ddim(
    predict: Predict, latent: np.ndarray, draw: Draw, nodes: np.ndarray, alphas: np.ndarray, eta: float
) -> np.ndarray:
    """DDIM with v-prediction (Song et al. 2021, eq. 12 and 16; paper, section III-D).

    `latent` is z_T; `draw(1 + i)` the noise of step i, asked for only when eta > 0; eta 0 is deterministic, 1 is
    ancestral sampling. Returns z_0.
    """
    for i, (step, below) in enumerate(itertools.pairwise(nodes)):
        here, there = alphas[step], alphas[below]
        v = predict(latent, int(step))
        clean = np.float32(here**0.5) * latent - np.float32((1 - here) ** 0.5) * v
        noise = np.float32(here**0.5) * v + np.float32((1 - here) ** 0.5) * latent
        sigma = eta * ((1 - there) / (1 - here) * (1 - here / there)) ** 0.5
        latent = np.float32(there**0.5) * clean + np.float32((1 - there - sigma**2) ** 0.5) * noise
        if sigma > 0:
            latent += np.float32(sigma) * draw(1 + i)
    return latent


def sample_dpm_solver(
    predict: Predict, latent: np.ndarray, draw: Draw, nodes: np.ndarray, alphas: np.ndarray, eta: float
) -> np.ndarray:
    """DPM-Solver++(2M), the ODE's at eta 0 and the SDE's at eta 1 (Lu et al. 2022, algorithm 2 and section 5).

    A second-order multistep: each step uses the clean latents of this node and the one before, and one T-UNet call.
    Arguments as of `sample_ddim`. The last step is of first order, where the extrapolation would be longest.
    """
    ratios = half_log_snr(alphas)
    last = len(nodes) - 2
    before, width_before = None, 0.0
    for i, (step, below) in enumerate(itertools.pairwise(nodes)):
        here, there = alphas[step], alphas[below]
        clean = np.float32(here**0.5) * latent - np.float32((1 - here) ** 0.5) * predict(latent, int(step))
        width = ratios[below] - ratios[step]
        target = clean
        if before is not None and i < last:
            target = clean + np.float32(0.5 * width / width_before) * (clean - before)
        decay = np.exp(-eta * width)
        latent = (
            np.float32(((1 - there) / (1 - here)) ** 0.5 * decay) * latent
            + np.float32(there**0.5 * -np.expm1(-(1 + eta) * width)) * target
        )
        if eta > 0:
            latent += np.float32((1 - there) ** 0.5 * (1 - decay**2) ** 0.5) * draw(1 + i)
        before, width_before = clean, width
    return latent


def sample_unipc(
    predict: Predict, latent: np.ndarray, draw: Draw, nodes: np.ndarray, alphas: np.ndarray, eta: float
) -> np.ndarray:
    """UniPC-2, predictor and corrector, with data prediction and B(h) = e^h - 1 (Zhao et al. 2023, algorithms 5, 6).

    One T-UNet call a step: the call at a node first corrects the step that led there, then predicts the next. Solves
    the ODE only. Arguments as of `sample_ddim`. Raises SettingsError for eta > 0.
    """
    if eta > 0:
        raise SettingsError(f"eta {eta} with the solver unipc", "eta 0: it is deterministic", "use ddim or dpm")
    ratios = half_log_snr(alphas)
    origin = latent
    known: list[tuple[int, np.ndarray]] = []  # (node, clean latent), the latest first
    last = len(nodes) - 2
    for i, (step, below) in enumerate(itertools.pairwise(nodes)):
        here = alphas[step]
        clean = np.float32(here**0.5) * latent - np.float32((1 - here) ** 0.5) * predict(latent, int(step))
        if known:
            latent = advance_unipc(origin, step, [*known[:2], (step, clean)], alphas, ratios)
        origin, known = latent, [(step, clean), *known[:1]]
        latent = advance_unipc(origin, below, known[:1] if i == last else known, alphas, ratios)
    return latent


def advance_unipc(
    latent: np.ndarray, stop: int, known: list[tuple[int, np.ndarray]], alphas: np.ndarray, ratios: np.ndarray
) -> np.ndarray:
    """From the node of `known[0]`, where the latent is `latent`, to node `stop`, using every known clean latent.

    Zhao et al. 2023, eq. 3 and 4: the weights of the finite differences solve a Vandermonde system.
    """
    (start, base), *others = known
    width = ratios[stop] - ratios[start]
    growth = np.expm1(-width)
    spans = np.array([(ratios[node] - ratios[start]) / width for node, _ in others])
    orders, phi, wanted = np.arange(1, len(others) + 1), growth / -width - 1, []
    for order in orders:
        wanted.append(phi * math.factorial(order) / growth)
        phi = phi / -width - 1 / math.factorial(order + 1)
    weights = np.linalg.solve(spans[None, :] ** (orders[:, None] - 1), np.array(wanted))
    target = base
    for weight, span, (_, clean) in zip(weights, spans, others, strict=True):
        target = target + np.float32(weight / span) * (clean - base)
    decay = ((1 - alphas[stop]) / (1 - alphas[start])) ** 0.5
    return np.float32(decay) * latent - np.float32(alphas[stop] ** 0.5 * growth) * target


@dataclass(frozen=True)
class Solver:
    """A solver and the spacing of steps that suits it; `stochastic` ones take eta up to 1."""

    sample: Callable[[Predict, np.ndarray, Draw, np.ndarray, np.ndarray, float], np.ndarray]
    spacing: str
    stochastic: bool


SOLVERS = {
    "ddim": Solver(sample_ddim, "published", stochastic=True),
    "dpm": Solver(sample_dpm_solver, "logsnr", stochastic=True),
    "unipc": Solver(sample_unipc, "logsnr", stochastic=False),
}


@dataclass(frozen=True)
class SeededNoise:
    """Counter-based noise: a pure function of (seed, window, draw), the same on every backend and batch size.

    Philox 4x64-10 with key (seed, domain) and counter (0, draw, window, 0), then Box-Muller in float64. On a GPU
    kernels/solver.cu computes the same. Raises SettingsError for a seed outside 0 ... 2^64 - 1.
    """

    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise SettingsError(f"seed {self.seed}", "0 to 2^64 - 1")

    def __call__(self, window: int, draw: int) -> np.ndarray:
        """Standard normal float32 [8, 256, 16]."""
        count = int(np.prod(LATENT_SHAPE))
        key = np.array([self.seed, PHILOX_DOMAIN], np.uint64)
        counter = np.array([0, draw, window, 0], np.uint64)
        bits = np.random.Philox(key=key, counter=counter).random_raw(count)
        unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log1p(-unit[: count // 2]))
        angle = 2.0 * np.pi * unit[count // 2 :]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return normal.astype(np.float32).reshape(LATENT_SHAPE)


def seeded_noise(seed: int) -> SeededNoise:
    """The noise of `seed`. Raises SettingsError."""
    return SeededNoise(seed)
