"""The T-UNet (paper, eq. 5 to 11), trained over frozen tokens and VAE.

It predicts v on the published noise schedule (`Schedule`). Its last step keeps a little of the signal; the zero
terminal SNR of the paper's text does not. The conditioning is dropped at random, for classifier-free guidance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.semanticodec.networks.tunet import Conditioning, TUNet
from sc_runtime.semanticodec.config import Schedule
from sc_runtime.semanticodec.schedule import compute_alphas_cumprod

from .alignment import align_positions
from .loop import half_precision, pick

BATCH = 4  #: on a CPU, more updates are worth more than larger batches
LEARNING_RATE = 1e-3
DROPPED = 0.1  #: share of clips without conditioning
LATE_SHARE = 0.75  #: of the steps that `draw_steps` draws, those in the noisier half


@dataclass(frozen=True)
class Conditioned:
    """The data of N clips: `latents` float16 [N, 8, 256, 16], scaled to a deviation of one, and `context` float16
    [N, L, 2D], the quantised features that the T-UNet attends to."""

    latents: np.ndarray
    context: np.ndarray


def draw_steps(steps: int, count: int, generator: torch.Generator | None, device: torch.device | None = None) -> Tensor:
    """`count` diffusion steps below `steps`. Noisier steps are likelier: they depend more on the conditioning."""
    return (steps * torch.rand(count, generator=generator, device=device).sqrt()).long().clamp(max=steps - 1)


class DiffusionStage:
    """Trains the T-UNet on `data`."""

    name = "diffusion"
    averaged = ("tunet",)

    def __init__(self, sizes: NetworkSizes, data: Conditioned, device: torch.device, batch: int = BATCH) -> None:
        self.device, self.batch = device, batch
        self.latents, self.context = (torch.from_numpy(array).to(device) for array in (data.latents, data.context))
        self.tunet = TUNet(sizes).to(device)
        with torch.no_grad():
            if sizes.tunet_position_maps:
                align_positions(self.tunet, sizes)
            nn.init.zeros_(self.tunet.out[2].weight)  # type: ignore[arg-type]
        self.conditioning = Conditioning(self.tunet, sizes).to(device)
        self.networks = {"tunet": self.tunet}
        self.optimizers: dict[str, Any] = {
            "tunet": torch.optim.AdamW(
                self.tunet.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True
            )
        }
        self.alphas = torch.from_numpy(compute_alphas_cumprod(Schedule())).float().to(device)

    def choose(self, progress: float, generator: torch.Generator) -> None:
        """Every update is the same."""

    def update(self, choice: None, generator: torch.Generator | None) -> dict[str, Tensor]:
        rows = pick(len(self.latents), self.batch, generator, self.device)
        clean = self.latents[rows].float()
        kept = torch.rand(self.batch, generator=generator, device=self.device) >= DROPPED
        context = self.context[rows].float() * kept[:, None, None]
        n = draw_steps(len(self.alphas), self.batch, generator, self.device)
        noise = torch.randn(clean.shape, generator=generator, device=self.device)
        signal = self.alphas[n].sqrt()[:, None, None, None]
        rest = (1 - self.alphas[n]).sqrt()[:, None, None, None]
        with half_precision(self.device):
            v = self.tunet(signal * clean + rest * noise, n, *self.conditioning(context)).float()
        errors = (v - (signal * noise - rest * clean)).square().mean(dim=(1, 2, 3))
        optimizer = self.optimizers["tunet"]
        optimizer.zero_grad(set_to_none=True)
        errors.mean().backward()
        nn.utils.clip_grad_norm_(self.tunet.parameters(), 1.0)
        optimizer.step()
        errors = errors.detach()
        return {"v": errors.mean(), "v_noisy": (errors * (n >= len(self.alphas) // 2)).mean() / LATE_SHARE}
