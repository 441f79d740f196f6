"""AudioMAE: masked-autoencoder pre-training (Huang et al. 2022), with the features the codec reads as the code.

Two things are made for a codec. The decoder reads what the codec reads, the mean of the last three blocks, and the
share of masked patches varies from 0.1 to 0.8, with the visible ones counted in the loss too: inference masks nothing,
and a feature must keep what is needed to draw its patch again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sc_runtime.export.semanticodec.networks.audiomae import FEATURE_BLOCKS, AudioMAE, Block
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.semanticodec.config import PATCH, PATCH_COLUMNS, PATCH_ROWS

from .loop import half_precision, pick

BATCH = 8
LEARNING_RATE = 1e-3
MASKED = (0.1, 0.8)  #: shares of the patches, drawn anew for each batch
VISIBLE_WEIGHT = 0.5  #: of a visible patch's loss, beside 1 of a masked one's
DECODER_DEPTH = 2


class MaskedAutoencoder(nn.Module):
    """fbank [B, 1024, 128] and a mask -> the patches drawn again, [B, 512, 256]."""

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
        """`order` [B, 512] puts positions in a random order, of which the first `visible` are seen."""
        seen = order[:, :visible]
        encoder = self.encoder
        width = encoder.pos_embed.shape[2]
        x = encoder.patch_embed(fbank) + encoder.pos_embed[:, 1:]
        x = x.gather(1, seen[:, :, None].expand(-1, -1, width))
        x = torch.cat([(encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        features = torch.zeros_like(x)
        for i, block in enumerate(encoder.blocks):
            x = block(x)
            if i >= len(encoder.blocks) - FEATURE_BLOCKS:
                features = features + encoder.norm(x) / FEATURE_BLOCKS
        embedded = self.embed(features[:, 1:])
        y = self.mask_token.expand(len(x), order.shape[1], -1).to(embedded.dtype)
        y = y.scatter(1, seen[:, :, None].expand(-1, -1, width), embedded)
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
    """`fbanks`: float16 [N, 1024, 128]."""

    name = "audiomae"
    averaged = ("autoencoder",)

    def __init__(self, sizes: NetworkSizes, fbanks: np.ndarray, device: torch.device) -> None:
        self.fbanks, self.device = fbanks, device
        self.autoencoder = MaskedAutoencoder(sizes).to(device)
        self.networks = {"autoencoder": self.autoencoder}
        self.optimizers: dict[str, Any] = {
            "autoencoder": torch.optim.AdamW(
                self.autoencoder.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05
            )
        }

    def step(self, progress: float, generator: torch.Generator) -> dict[str, float]:
        rows = pick(len(self.fbanks), BATCH, generator)
        fbank = torch.from_numpy(self.fbanks[rows.numpy()]).float().to(self.device)
        low, high = MASKED
        share = low + (high - low) * float(torch.rand((), generator=generator))
        count = PATCH_ROWS * PATCH_COLUMNS
        order = torch.rand(BATCH, count, generator=generator).argsort(dim=1).to(self.device)
        visible = round(count * (1 - share))
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
        return {"visible": float(seen.detach()), "masked": float(masked.detach())}
