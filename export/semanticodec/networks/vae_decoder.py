"""The decoder half of the mel-spectrogram VAE."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sc_runtime.semanticodec.config import LATENT_SHAPE

from .sizes import NetworkSizes


class VaeDecoder(nn.Module):
    """latent [B, 8, 256, 16] -> log-mel [B, 64, 1024], bins before frames as the vocoder takes them."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        channels = LATENT_SHAPE[0]
        self.scale_factor = nn.Parameter(torch.empty(()))
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)
        self.decoder = Decoder(sizes)

    def forward(self, latent: Tensor) -> Tensor:
        mel = self.decoder(self.post_quant_conv(latent / self.scale_factor))
        return mel.squeeze(1).transpose(1, 2)


class Decoder(nn.Module):
    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        base, groups = sizes.vae_channels, sizes.norm_groups
        channels = base * sizes.vae_multipliers[-1]
        self.conv_in = nn.Conv2d(LATENT_SHAPE[0], channels, 3, padding=1)
        self.mid = Middle(channels, groups)
        levels: list[nn.Module] = []
        for level, multiplier in reversed(list(enumerate(sizes.vae_multipliers))):
            blocks = sizes.vae_residual_blocks + 1
            levels.insert(0, Level(channels, base * multiplier, blocks, groups, upsample=level > 0))
            channels = base * multiplier
        self.up = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(functional.silu(self.norm_out(x)))


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.attn_1 = SpatialAttention(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """The residual blocks of one resolution. Every level except the last then doubles the resolution."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int, *, upsample: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(outputs if i else inputs, outputs, groups) for i in range(blocks))
        if upsample:
            self.upsample = Upsampling(outputs)
        self.doubles = upsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.upsample(x) if self.doubles else x


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=1e-6)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)
        self.keeps_width = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return (x if self.keeps_width else self.nin_shortcut(x)) + h


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions of the feature map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.norm(x)
        queries = self.q(h).flatten(2).transpose(1, 2) * channels**-0.5
        keys, values = self.k(h).flatten(2), self.v(h).flatten(2).transpose(1, 2)
        h = (queries @ keys).softmax(dim=-1) @ values
        return x + self.proj_out(h.transpose(1, 2).reshape(batch, channels, height, width))


class Upsampling(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
