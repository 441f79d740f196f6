"""Classifier-free guidance: both branches of the T-UNet in one call."""

from __future__ import annotations

import numpy as np

from ..backends.base import Arrays, Graph
from .samplers import Predict


def guide(
    tunet_step: Graph, conditional: Arrays, unconditional: Arrays, scale: float, interval: tuple[int, int] = (0, 1000)
) -> Predict:
    """The guided velocity v_u + s (v_c - v_u) as a function of (latent [B, 8, 256, 16], step).

    `conditional` are the keys and values of B windows, `unconditional` those of the empty conditioning, batch 1.
    Paper, eq. 10, with s = 1 - w. At s = 1, and at diffusion steps outside `interval`, the unconditional branch has no
    say and is not run.
    """
    low, high = interval

    def predict(latent: np.ndarray, step: int) -> np.ndarray:
        steps = np.full(len(latent), step, np.int64)
        return tunet_step.run({"latent": latent, "step": steps, **conditional})["v"]

    if scale == 1.0:
        return predict

    context = {
        name: np.concatenate([np.broadcast_to(unconditional[name], values.shape), values])
        for name, values in conditional.items()
    }

    def predict_guided(latent: np.ndarray, step: int) -> np.ndarray:
        if not low <= step <= high:
            return predict(latent, step)
        both = np.concatenate([latent, latent])
        v = tunet_step.run({"latent": both, "step": np.full(len(both), step, np.int64), **context})["v"]
        without, given = np.split(v, 2)
        return without + np.float32(scale) * (given - without)

    return predict_guided
