"""AudioMAE's encoder half: a ViT-B/16 over the filterbank, without masking."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sc_runtime.semanticodec.config import PATCH, PATCH_COLUMNS, PATCH_ROWS

from .sizes import NetworkSizes

FEATURE_BLOCKS = 3  #: the feature is the mean over this many last blocks
LAYER_NORM_EPS = 1e-6


class AudioMAE(nn.Module):
    """fbank [B, 1024, 128] -> stacked features [B, L, D]."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        width = sizes.config.width
        self.stack = sizes.config.stack
        self.patch_embed = PatchEmbedding(width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + PATCH_ROWS * PATCH_COLUMNS, width))
        self.blocks = nn.ModuleList(Block(width, sizes.mae_heads) for _ in range(sizes.mae_depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, fbank: Tensor) -> Tensor:
        return stack_positions(self.embed(fbank)[:, 1:], self.stack)

    def embed(self, fbank: Tensor, visible: Tensor | None = None) -> Tensor:
        """fbank [B, 1024, 128] -> class token and 512 positions [B, 513, width], before stacking.

        visible: int64 [B, n]. If given, only these positions are kept, in this order, and the result is
            [B, 1 + n, width]. Training masks the others.
        """
        x = self.patch_embed(fbank) + self.pos_embed[:, 1:]
        if visible is not None:
            x = x.gather(1, visible[:, :, None].expand(-1, -1, x.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        x = torch.cat([first, x], dim=1)
        total = torch.zeros_like(x)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i >= len(self.blocks) - FEATURE_BLOCKS:
                total = total + self.norm(x)
        return total / FEATURE_BLOCKS


def stack_positions(x: Tensor, stack: int) -> Tensor:
    """Join `stack` neighbouring positions of the 64 x 8 grid: [B, 512, width] -> [B, 512 / K, K * width].

    K = 2 joins two frequencies, K = 4 a block of two times by two frequencies, time outermost.
    """
    batch, _, width = x.shape
    rows, columns = (1 if stack < 4 else 2), min(stack, 2)
    x = x.reshape(batch, PATCH_ROWS // rows, rows, PATCH_COLUMNS // columns, columns, width)
    x = x.permute(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, PATCH_ROWS * PATCH_COLUMNS // stack, stack * width)


class PatchEmbedding(nn.Module):
    """[B, 1024, 128] -> [B, 512, width], positions row-major in (time, frequency)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, PATCH, stride=PATCH)

    def forward(self, fbank: Tensor) -> Tensor:
        return self.proj(fbank.unsqueeze(1)).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """A pre-norm transformer block with fused query, key and value projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv[0], qkv[1], qkv[2]
        weights = (queries * (width // self.heads) ** -0.5 @ keys.transpose(-1, -2)).softmax(dim=-1)
        return self.proj((weights @ values).transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))
