"""T-UNet, BiLSTM and acoustic codebook, trained together (paper, eq. 2 to 11) over frozen AudioMAE, centroids and VAE.

The T-UNet predicts v on the published noise schedule (`Schedule`). Its last step keeps a little of the signal; the zero
terminal SNR of the paper's text does not. The conditioning is dropped at random, for classifier-free guidance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sc_runtime.export.semanticodec.networks.acoustic_encoder import AcousticEncoder
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.semanticodec.networks.tunet import Conditioning, SpatialTransformer, TUNet, embed_positions
from sc_runtime.semanticodec.conditioning import FILL
from sc_runtime.semanticodec.config import LATENT_SHAPE, PATCH_ROWS, Schedule, SemantiCodecConfig
from sc_runtime.semanticodec.schedule import compute_alphas_cumprod

from .loop import half_precision, pick

BATCH = 4  #: on a CPU, more updates are worth more than larger batches
LEARNING_RATE = 1e-3
DROPPED = 0.1  #: share of clips without conditioning
COMMITMENT = 0.02  #: weight of eq. 4; a larger weight makes the acoustic vectors shrink to a point
CODEBOOK_DECAY = 0.98  #: of the codebook's moving averages
OUTPUT_GAIN = 10.0  #: of the BiLSTM's last matrix, over PyTorch's initial one
PEAK = 12.0  #: logit of a position's attention to its own token before training
FIXED_FROM = 0.5  #: share of the stage after which the tokens are fixed and only the T-UNet is trained
RARE = 0.1  #: uses per batch, on average; an entry with fewer is replaced
REVIVE_EVERY = 25  #: steps
LATE_SHARE = 0.75  #: of the steps that `draw_steps` draws, those in the noisier half


@dataclass(frozen=True)
class Latents:
    """The outputs of the frozen networks for N clips.

    `latents` float16 [N, 8, 256, 16] (scaled to a deviation of one), `joined` float16 [N, L, 2D] (features and
    centroids, padding overwritten), `semantic` int64 [N, L] tokens, `positions` int64 [N] positions that hold
    tokens, `centroids` float32 [vocab, D].
    """

    latents: np.ndarray
    joined: np.ndarray
    semantic: np.ndarray
    positions: np.ndarray
    centroids: np.ndarray


class VectorQuantizer(nn.Module):
    """A codebook of C entries, moving averages of the vectors assigned to them. Unused entries are replaced."""

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.embed: Tensor
        self.cluster_size: Tensor
        self.embed_avg: Tensor
        self.register_buffer("embed", torch.zeros(entries, width))
        self.register_buffer("cluster_size", torch.zeros(entries))
        self.register_buffer("embed_avg", torch.zeros(entries, width))
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(
        self, x: Tensor, generator: torch.Generator | None, held: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [n, D] -> the nearest entries, with a straight-through gradient, and the commitment loss (eq. 4).

        held: a mask of the vectors that count, bool [n]; without it all do. Nothing is read back from the device, so
            that a CUDA graph can capture it.
        """
        weights = torch.ones(len(x), device=x.device) if held is None else held.float()
        with torch.no_grad():
            if self.training:
                self.revive((self.steps == 0).expand(len(self.embed)), x, weights, generator)
            codes = torch.cdist(x, self.embed).argmin(dim=1)
            if self.training:
                self.follow(x, codes, weights)
                self.steps += 1
                rare = (self.cluster_size < RARE) & (self.steps % REVIVE_EVERY == 0)
                self.revive(rare, x, weights, generator)
        chosen = self.embed[codes]
        error = (x - chosen).square().mean(dim=1)
        return x + (chosen - x).detach(), (error * weights).sum() / weights.sum()

    @torch.no_grad()
    def begin_with(self, entries: Tensor) -> None:
        """Start from trained `entries` [C, D], each counted as used once per batch."""
        self.embed.copy_(entries)
        self.embed_avg.copy_(entries)
        self.cluster_size.fill_(1.0)
        self.steps.fill_(1)

    def follow(self, x: Tensor, codes: Tensor, weights: Tensor) -> None:
        counts = torch.zeros_like(self.cluster_size).index_add_(0, codes, weights)
        sums = torch.zeros_like(self.embed_avg).index_add_(0, codes, x * weights[:, None])
        self.cluster_size.lerp_(counts, 1 - CODEBOOK_DECAY)
        self.embed_avg.lerp_(sums, 1 - CODEBOOK_DECAY)
        used = (self.cluster_size > 1e-3)[:, None]
        means = self.embed_avg / self.cluster_size.clamp(min=1e-3)[:, None]
        self.embed.copy_(torch.where(used, means, self.embed))

    def revive(self, entries: Tensor, x: Tensor, weights: Tensor, generator: torch.Generator | None) -> None:
        """Replace `entries` (a mask) by rows of `x`, drawn at random in proportion to `weights`."""
        ends = weights.cumsum(dim=0)
        draws = torch.rand(len(self.embed), generator=generator, device=x.device) * ends[-1]
        drawn = x[torch.searchsorted(ends, draws, right=True).clamp(max=len(x) - 1)]
        for state in (self.embed, self.embed_avg):
            state.copy_(torch.where(entries[:, None], drawn, state))
        self.cluster_size.masked_fill_(entries, 1.0)


def number_tokens(config: SemantiCodecConfig, height: int, width: int) -> Tensor:
    """The index of the token of each position's time and frequency in a feature map, int64 [height, width]."""
    columns = config.positions // PATCH_ROWS
    rows = torch.arange(height) * PATCH_ROWS // height
    return rows[:, None] * columns + torch.arange(width) * columns // width


def align_positions(tunet: TUNet, sizes: NetworkSizes) -> None:
    """Initialise the T-UNet so that every position attends to the tokens of its own time and frequency.

    The position maps hold the sinusoids that the conditioning contains too (`embed_positions`). The queries and keys of
    each head read the shortest wavelengths, weighted so that their product is a peak that is some tokens wide.
    """
    positions = embed_positions(sizes.config.positions, sizes.position_channels)
    channels, head = sizes.tunet_channels, sizes.tunet_head_channels
    spread = torch.arange(channels // 2) * sizes.position_channels // channels  # pairs of all wavelengths
    taken = torch.stack([2 * spread, 2 * spread + 1], dim=1).flatten()
    first = positions[:, taken][number_tokens(sizes.config, *LATENT_SHAPE[1:])]
    tunet.position_map.copy_(first.permute(2, 0, 1)[None])
    frequencies = torch.exp(torch.arange(head // 2) * (-2 * math.log(10000.0) / sizes.position_channels))
    weights = (frequencies / frequencies.sum()).sqrt().repeat_interleave(2)
    for module in tunet.modules():
        if not (isinstance(module, SpatialTransformer) and module.has_position_map):
            continue
        transformer: Any = module
        attention = transformer.transformer_blocks[0].attn2
        inner = attention.to_q.out_features
        _, _, height, width = transformer.position_map.shape
        places = (positions[:, :head] * weights)[number_tokens(sizes.config, height, width)] * head**0.5
        transformer.position_map.copy_(places.repeat(1, 1, inner // head).permute(2, 0, 1)[None])
        nn.init.eye_(attention.to_q.weight)
        attention.to_k.weight.mul_(0.1)
        keys = (torch.eye(head) * weights * PEAK).repeat(inner // head, 1)
        attention.to_k.weight[:, -sizes.position_channels :][:, :head] = keys


def draw_steps(steps: int, count: int, generator: torch.Generator | None, device: torch.device | None = None) -> Tensor:
    """`count` diffusion steps below `steps`. Noisier steps are likelier: they depend more on the conditioning."""
    return (steps * torch.rand(count, generator=generator, device=device).sqrt()).long().clamp(max=steps - 1)


class DiffusionStage:
    """Trains the T-UNet, the acoustic encoder and its codebook on `data`."""

    name = "diffusion"
    averaged = ("tunet", "acoustic_encoder", "quantizer")

    def __init__(self, sizes: NetworkSizes, data: Latents, device: torch.device, batch: int = BATCH) -> None:
        self.device, self.sizes, self.batch = device, sizes, batch
        self.centroids = torch.tensor(data.centroids, device=device)
        self.latents, self.joined = (torch.from_numpy(array).to(device) for array in (data.latents, data.joined))
        self.semantic = torch.tensor(data.semantic, device=device)
        self.positions = torch.tensor(data.positions, device=device)
        self.tunet = TUNet(sizes).to(device)
        with torch.no_grad():
            if sizes.tunet_position_maps:
                align_positions(self.tunet, sizes)
            nn.init.zeros_(self.tunet.out[2].weight)  # type: ignore[arg-type]
        self.conditioning = Conditioning(self.tunet, sizes).to(device)
        self.acoustic_encoder = AcousticEncoder(sizes).to(device)
        with torch.no_grad():  # acoustic vectors start as large as the centroids
            self.acoustic_encoder.encoder_output_linear.weight.mul_(OUTPUT_GAIN)
        self.quantizer = VectorQuantizer(sizes.config.acoustic_vocab, sizes.config.feature_width).to(device)
        self.networks = {
            "tunet": self.tunet,
            "acoustic_encoder": self.acoustic_encoder,
            "quantizer": self.quantizer,
        }
        parameters = [*self.tunet.parameters(), *self.acoustic_encoder.parameters()]
        self.optimizers: dict[str, Any] = {
            "all": torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        }
        self.alphas = torch.from_numpy(compute_alphas_cumprod(Schedule())).float().to(device)

    def choose(self, progress: float, generator: torch.Generator) -> bool:
        """Whether the acoustic encoder and its codebook are trained."""
        return progress < FIXED_FROM

    def update(self, learning: bool, generator: torch.Generator | None) -> dict[str, Tensor]:
        rows = pick(len(self.latents), self.batch, generator, self.device)
        clean = self.latents[rows].float()
        self.quantizer.train(learning)
        with torch.set_grad_enabled(learning):
            context, commitment = self.encode(rows, generator)
        n = draw_steps(len(self.alphas), self.batch, generator, self.device)
        noise = torch.randn(clean.shape, generator=generator, device=self.device)
        signal = self.alphas[n].sqrt()[:, None, None, None]
        rest = (1 - self.alphas[n]).sqrt()[:, None, None, None]
        with half_precision(self.device):
            v = self.tunet(signal * clean + rest * noise, n, *self.conditioning(context)).float()
        errors = (v - (signal * noise - rest * clean)).square().mean(dim=(1, 2, 3))
        loss = errors.mean() + COMMITMENT * commitment
        optimizer = self.optimizers["all"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        errors = errors.detach()
        return {
            "v": errors.mean(),
            "commitment": commitment.detach(),
            "used": (self.quantizer.cluster_size > RARE).float().mean(),
            "v_noisy": (errors * (n >= len(self.alphas) // 2)).mean() / LATE_SHARE,
        }

    def encode(self, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The conditioning [B, L, 2D] of clips `rows`, as in decoding, and the commitment loss."""
        joined = self.joined[rows].float()
        with half_precision(self.device):
            acoustic = self.acoustic_encoder(joined).float()
        semantic = self.centroids[self.semantic[rows]]
        held = torch.arange(joined.shape[1], device=self.device) < self.positions[rows][:, None]
        chosen, commitment = self.quantizer(acoustic.flatten(0, 1), generator, held.flatten())
        context = torch.cat([chosen.view_as(acoustic), semantic], dim=2).masked_fill(~held[:, :, None], FILL)
        kept = torch.rand(len(rows), generator=generator, device=self.device) >= DROPPED
        return context * kept[:, None, None], commitment
