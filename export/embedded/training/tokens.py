"""BiLSTM and acoustic codebook (paper, eq. 2 to 4), trained over frozen AudioMAE, centroids and VAE.

The published training learns the tokens together with the T-UNet. Here a small convolutional network, which no bundle
holds, predicts the latents from the tokens in one pass, and its squared error trains them. An update takes a fraction
of the time of one through the T-UNet, and its gradient has no noise from diffusion steps. The T-UNet is trained
afterwards, on tokens that no longer change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sc_runtime.export.semanticodec.networks.acoustic_encoder import AcousticEncoder
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.semanticodec.conditioning import FILL
from sc_runtime.semanticodec.config import LATENT_SHAPE, PATCH_ROWS, SemantiCodecConfig

from .loop import half_precision, pick
from .quantizer import RARE, VectorQuantizer

BATCH = 16  #: the recurrence takes nearly as long for one clip as for several
LEARNING_RATE = 1e-3
COMMITMENT = 0.1  #: weight of eq. 4
OUTPUT_GAIN = 10.0  #: of the BiLSTM's last matrix, over PyTorch's initial one
WIDTH, BLOCKS = 160, 4  #: channels and residual blocks of the network that predicts the latents


@dataclass(frozen=True)
class Features:
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


class GridBlock(nn.Module):
    """A residual block of two convolutions on the grid of tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
            *(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class TokenDecoder(nn.Module):
    """Quantised features [B, L, 2D] -> latents [B, 8, 256, 16], in one pass."""

    def __init__(self, config: SemantiCodecConfig, width: int = WIDTH, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.columns = config.positions // PATCH_ROWS
        channels, height, breadth = LATENT_SHAPE
        self.patch = (channels, height // PATCH_ROWS, breadth // self.columns)  #: of the latent, by each token
        self.first = nn.Conv2d(2 * config.feature_width, width, 1)
        self.blocks = nn.Sequential(*(GridBlock(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, int(np.prod(self.patch)), 1)

    def forward(self, context: Tensor) -> Tensor:
        grid = context.transpose(1, 2).unflatten(2, (PATCH_ROWS, self.columns))
        patches = self.last(self.blocks(self.first(grid))).unflatten(1, self.patch)
        return patches.permute(0, 1, 4, 2, 5, 3).reshape(len(context), *LATENT_SHAPE)


class TokensStage:
    """Trains the acoustic encoder and its codebook on `data`."""

    name = "tokens"
    averaged = ("acoustic_encoder", "quantizer")

    def __init__(self, sizes: NetworkSizes, data: Features, device: torch.device, batch: int = BATCH) -> None:
        self.device, self.batch = device, batch
        self.latents, self.joined = (torch.from_numpy(array).to(device) for array in (data.latents, data.joined))
        self.semantic = torch.tensor(data.semantic, device=device)
        self.positions = torch.tensor(data.positions, device=device)
        self.centroids = torch.tensor(data.centroids, device=device)
        self.acoustic_encoder = AcousticEncoder(sizes).to(device)
        with torch.no_grad():  # acoustic vectors start as large as the centroids
            self.acoustic_encoder.encoder_output_linear.weight.mul_(OUTPUT_GAIN)
        self.quantizer = VectorQuantizer(sizes.config.acoustic_vocab, sizes.config.feature_width).to(device)
        self.decoder = TokenDecoder(sizes.config).to(device)
        self.networks = {
            "acoustic_encoder": self.acoustic_encoder,
            "quantizer": self.quantizer,
            "decoder": self.decoder,
        }
        parameters = [*self.acoustic_encoder.parameters(), *self.decoder.parameters()]
        self.optimizers: dict[str, Any] = {
            "all": torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        }

    def choose(self, progress: float, generator: torch.Generator) -> None:
        """Every update is the same."""

    def update(self, choice: None, generator: torch.Generator | None) -> dict[str, Tensor]:
        rows = pick(len(self.latents), self.batch, generator, self.device)
        joined, semantic = self.joined[rows].float(), self.centroids[self.semantic[rows]]
        with half_precision(self.device):
            acoustic = self.acoustic_encoder(joined).float()
        held = mark_held(self.positions[rows], joined.shape[1])
        chosen, commitment = self.quantizer(acoustic.flatten(0, 1), generator, held.flatten())
        with half_precision(self.device):
            drawn = self.decoder(join_quantized(chosen.view_as(acoustic), semantic, held)).float()
        error = functional.mse_loss(drawn, self.latents[rows].float())
        optimizer = self.optimizers["all"]
        optimizer.zero_grad(set_to_none=True)
        (error + COMMITMENT * commitment).backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        used = (self.quantizer.cluster_size > RARE).float().mean()
        return {"latent": error.detach(), "commitment": commitment.detach(), "used": used}


def mark_held(positions: Tensor, length: int) -> Tensor:
    """Which of `length` positions hold tokens, bool [B, length], for the number of those that do, int64 [B]."""
    return torch.arange(length, device=positions.device) < positions[:, None]


def join_quantized(acoustic: Tensor, semantic: Tensor, held: Tensor) -> Tensor:
    """What the T-UNet attends to, [B, L, 2D], of both quantised features [B, L, D]; `held` [B, L] marks the positions
    that hold tokens."""
    return torch.cat([acoustic, semantic], dim=2).masked_fill(~held[:, :, None], FILL)


@torch.inference_mode()
def quantize_features(
    data: Features, acoustic_encoder: nn.Module, entries: Tensor, rows: slice, device: torch.device
) -> Tensor:
    """The conditioning [B, L, 2D] of clips `rows`, float32, as decoding builds it from their tokens."""
    joined = torch.tensor(data.joined[rows], device=device).float()
    acoustic = acoustic_encoder(joined)
    codes = torch.cdist(acoustic.flatten(0, 1), entries).argmin(dim=1)
    semantic = torch.tensor(data.centroids[data.semantic[rows]], device=device)
    held = mark_held(torch.tensor(data.positions[rows], device=device), joined.shape[1])
    return join_quantized(entries[codes].view_as(acoustic), semantic, held)
