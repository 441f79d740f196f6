"""Classifier-free guidance: both branches of the T-UNet in one call, which share their latent where they can."""

from __future__ import annotations

import numpy as np

from sc_runtime.networks import Arrays, CompiledGraph, Graph

from .samplers import Predict


def guide(
    tunet_step: Graph, conditional: Arrays, unconditional: Arrays, scale: float, interval: tuple[int, int] = (0, 1000)
) -> Predict:
    """The guided velocity v_u + s (v_c - v_u) as a function of (latent [B, 8, 256, 16], timestep).

    `conditional` are the keys and values of B windows, `unconditional` those of the empty conditioning, batch 1.
    `scale` is s (paper, eq. 10, with s = 1 - w). The unconditional branch does not run at s = 1, nor at timesteps
    outside `interval`.
    """
    low, high = interval

    def predict(latent: np.ndarray, timestep: int) -> np.ndarray:
        steps = np.full(len(latent), timestep, np.int64)
        return tunet_step.run({"latent": latent, "step": steps, **conditional})["v"]

    if scale == 1.0:
        return predict

    is_shared = isinstance(tunet_step, CompiledGraph) and {"latent", "step"} <= tunet_step.shared
    context = {
        name: np.concatenate([np.broadcast_to(unconditional[name], values.shape), values])
        for name, values in conditional.items()
    }

    def predict_guided(latent: np.ndarray, timestep: int) -> np.ndarray:
        if not low <= timestep <= high:
            return predict(latent, timestep)
        rows = latent if is_shared else np.concatenate([latent, latent])
        v = tunet_step.run({"latent": rows, "step": np.full(len(rows), timestep, np.int64), **context})["v"]
        v_unconditional, v_conditional = np.split(v, 2)
        return v_unconditional + np.float32(scale) * (v_conditional - v_unconditional)

    return predict_guided
