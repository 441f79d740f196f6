"""AudioMAE: masked-autoencoder pre-training (Huang et al. 2022), changed in two places for a codec.

The decoder's input is the codec's feature: the mean of the last three blocks. The share of masked patches varies
from 0.1 to 0.8, and the loss counts visible patches too, because the codec masks nothing and its features must
describe every patch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sc_runtime.export.semanticodec.networks.audiomae import AudioMAE, Block
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.semanticodec.config import PATCH, PATCH_COLUMNS, PATCH_ROWS

from .loop import half_precision, pick

BATCH = 8
LEARNING_RATE = 1e-3
MASKED = (0.1, 0.8)  #: shares of the patches, drawn anew for each batch
GRAIN = 32  #: the number of visible patches is a multiple of this one: few numbers, so that CUDA graphs can be kept
VISIBLE_WEIGHT = 0.5  #: of the visible patches' loss; that of the masked ones has weight 1
DECODER_DEPTH = 2


class MaskedAutoencoder(nn.Module):
    """fbank [B, 1024, 128] and a mask -> the reconstructed patches [B, 512, 256]."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        width = sizes.config.width
        self.encoder = AudioMAE(sizes)
        positions = draw_positions(width)
        nn.init.normal_(self.encoder.cls_token, std=0.02)
        with torch.no_grad():
            self.encoder.pos_embed.copy_(torch.cat([torch.zeros(1, width), positions])[None])
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions: Tensor
        self.register_buffer("positions", positions[None], persistent=False)
        self.embed = nn.Linear(width, width)
        self.decoder = nn.Sequential(*(Block(width, sizes.mae_heads) for _ in range(DECODER_DEPTH)))
        self.norm = nn.LayerNorm(width)
        self.draw = nn.Linear(width, PATCH * PATCH)

    def forward(self, fbank: Tensor, order: Tensor, visible: int) -> Tensor:
        """`order`, int64 [B, 512], is a permutation of the positions. Its first `visible` entries are not masked."""
        seen = order[:, :visible]
        features = self.encoder.embed(fbank, seen)
        embedded = self.embed(features[:, 1:])
        y = self.mask_token.expand(*order.shape, -1).to(embedded.dtype)
        y = y.scatter(1, seen[:, :, None].expand_as(embedded), embedded)
        return self.draw(self.norm(self.decoder(y + self.positions)))


def draw_positions(width: int) -> Tensor:
    """Two-dimensional sinusoids [512, width]: half of the channels for time, half for frequency."""
    quarter = width // 4
    frequencies = 1.0 / 10000 ** (torch.arange(quarter) / quarter)
    rows = torch.arange(PATCH_ROWS)[:, None] * frequencies
    columns = torch.arange(PATCH_COLUMNS)[:, None] * frequencies
    time = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, PATCH_COLUMNS, -1)
    frequency = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(PATCH_ROWS, -1, -1)
    return torch.cat([time, frequency], dim=2).reshape(PATCH_ROWS * PATCH_COLUMNS, width)


def cut_patches(fbank: Tensor) -> Tensor:
    """fbank [B, 1024, 128] -> patches [B, 512, 256], row-major in (time, frequency)."""
    x = fbank.reshape(len(fbank), PATCH_ROWS, PATCH, PATCH_COLUMNS, PATCH).transpose(2, 3)
    return x.reshape(len(fbank), PATCH_ROWS * PATCH_COLUMNS, PATCH * PATCH)


class MaskedAutoencoderStage:
    """Trains the masked autoencoder on `fbanks`, float16 [N, 1024, 128]."""

    name = "audiomae"
    averaged = ("autoencoder",)

    def __init__(self, sizes: NetworkSizes, fbanks: np.ndarray, device: torch.device, batch: int = BATCH) -> None:
        self.fbanks, self.device, self.batch = torch.from_numpy(fbanks).to(device), device, batch
        self.autoencoder = MaskedAutoencoder(sizes).to(device)
        self.networks = {"autoencoder": self.autoencoder}
        self.optimizers: dict[str, Any] = {
            "autoencoder": torch.optim.AdamW(
                self.autoencoder.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05
            )
        }

    def choose(self, progress: float, generator: torch.Generator) -> int:
        """The number of visible patches."""
        low, high = MASKED
        share = low + (high - low) * float(torch.rand((), generator=generator))
        return round(PATCH_ROWS * PATCH_COLUMNS * (1 - share) / GRAIN) * GRAIN

    def update(self, visible: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        fbank = self.fbanks[pick(len(self.fbanks), self.batch, generator, self.device)].float()
        draws = torch.rand(self.batch, PATCH_ROWS * PATCH_COLUMNS, generator=generator, device=self.device)
        order = draws.argsort(dim=1)
        with half_precision(self.device):
            drawn = self.autoencoder(fbank, order, visible)
        error = (drawn.float() - cut_patches(fbank)).square().mean(dim=2).gather(1, order)
        seen, masked = error[:, :visible].mean(), error[:, visible:].mean()
        loss = VISIBLE_WEIGHT * seen + masked
        optimizer = self.optimizers["autoencoder"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.autoencoder.parameters(), 1.0)
        optimizer.step()
        return {"visible": seen.detach(), "masked": masked.detach()}
