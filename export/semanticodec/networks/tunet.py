"""The T-UNet of the latent diffusion model, split where its conditioning enters.

The conditioning does not change over the diffusion steps, so the keys and values of every cross-attention are
computed once a window (`Conditioning`) and handed to every step (`TUNet`). Names follow the published checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from sc_runtime.semanticodec.config import LATENT_SHAPE

from .sizes import NetworkSizes

Context = Iterator[Tensor]  #: keys, then values of each cross-attention in turn, [B, heads, L, 32] each


class TUNet(nn.Module):
    """latent [B, 8, 256, 16], step [B] int64, context -> predicted velocity v [B, 8, 256, 16] (paper, eq. 8)."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        base, blocks = sizes.tunet_channels, sizes.tunet_residual_blocks
        latent_channels = LATENT_SHAPE[0]
        self.time_channels = base
        embedding = 4 * base
        self.time_embed = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def residual(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, embedding, sizes.norm_groups)

        def attention(channels: int) -> list[nn.Module]:
            places = tuple(size // downsampling for size in LATENT_SHAPE[1:]) if sizes.tunet_position_maps else None
            return [
                SpatialTransformer(channels, None, sizes),
                SpatialTransformer(channels, sizes.context_width, sizes, places),
            ]

        if sizes.tunet_position_maps:
            self.position_map = nn.Parameter(torch.empty(1, base, *LATENT_SHAPE[1:]))
        self.has_position_map = sizes.tunet_position_maps
        channels, skips, downsampling = base, [base], 1
        levels = list(enumerate(sizes.tunet_multipliers))
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(latent_channels, base, 3, padding=1)])])
        for level, multiplier in levels:
            for _ in range(blocks):
                layers: list[nn.Module] = [residual(channels, base * multiplier)]
                channels = base * multiplier
                if downsampling in sizes.tunet_attention_downsampling:
                    layers += attention(channels)
                self.input_blocks.append(nn.ModuleList(layers))
                skips.append(channels)
            if level < len(levels) - 1:
                self.input_blocks.append(nn.ModuleList([Downsampling(channels)]))
                skips.append(channels)
                downsampling *= 2

        self.middle_block = nn.ModuleList(
            [residual(channels, channels), *attention(channels), residual(channels, channels)]
        )

        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(levels):
            for i in range(blocks + 1):
                layers = [residual(channels + skips.pop(), base * multiplier)]
                channels = base * multiplier
                if downsampling in sizes.tunet_attention_downsampling:
                    layers += attention(channels)
                if level > 0 and i == blocks:
                    layers.append(Upsampling(channels))
                    downsampling //= 2
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(
            nn.GroupNorm(sizes.norm_groups, channels), nn.SiLU(), nn.Conv2d(channels, latent_channels, 3, padding=1)
        )

    def forward(self, latent: Tensor, step: Tensor, *context: Tensor) -> Tensor:
        embedding = self.time_embed(embed_steps(step, self.time_channels))
        remaining = iter(context)
        x, skips = latent, []
        for i, layers in enumerate(self.input_blocks):
            x = run_layers(layers, x, embedding, remaining)
            if i == 0 and self.has_position_map:
                x = x + self.position_map
            skips.append(x)
        x = run_layers(self.middle_block, x, embedding, remaining)
        for layers in self.output_blocks:
            x = run_layers(layers, torch.cat([x, skips.pop()], dim=1), embedding, remaining)
        return self.out(x)

    def cross_attentions(self) -> list[CrossAttention]:
        """The attentions over the conditioning, in the order `forward` meets them."""
        return [m for m in self.modules() if isinstance(m, CrossAttention) and m.reads_context]


class Conditioning(nn.Module):
    """E [B, L, 2D] (acoustic, then semantic) -> keys and values of every cross-attention, [B, heads, L, 32] each.

    Appends the sinusoidal position part. Zeros instead of E give the unconditional branch.
    """

    def __init__(self, tunet: TUNet, sizes: NetworkSizes) -> None:
        super().__init__()
        self.tunet, self._attentions = tunet, tunet.cross_attentions()
        positions = embed_positions(sizes.config.positions, sizes.position_channels)
        self.positions: Tensor
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        positions = self.positions.expand(features.shape[0], -1, -1)
        context = torch.cat([features, positions], dim=-1)
        return tuple(tensor for attention in self._attentions for tensor in attention.project(context))


def run_layers(layers: nn.Module, x: Tensor, embedding: Tensor, context: Context) -> Tensor:
    """Run one block. Each layer gets the inputs of its kind; a cross-attention gets the next two of `context`."""
    for layer in layers.children():
        if isinstance(layer, ResidualBlock):
            x = layer(x, embedding)
        elif isinstance(layer, SpatialTransformer):
            x = layer(x, context)
        else:
            x = layer(x)
    return x


def embed_steps(step: Tensor, channels: int) -> Tensor:
    """Diffusion steps [B] -> sinusoids [B, channels], cosines first, base 10000."""
    half = channels // 2
    indices = torch.arange(half, dtype=torch.float32, device=step.device)
    frequencies = torch.exp(indices * (-math.log(10000.0) / half))
    angles = step.to(torch.float32).unsqueeze(1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def embed_positions(length: int, channels: int) -> Tensor:
    """Sinusoidal positions [length, channels], sine in even and cosine in odd columns, base 10000."""
    frequencies = torch.exp(torch.arange(0, channels, 2, dtype=torch.float32) * (-math.log(10000.0) / channels))
    angles = torch.arange(length, dtype=torch.float32).unsqueeze(1) * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(length, channels)


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, outputs), nn.SiLU(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsampling(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsampling(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of a feature map.

    context_width: channels of the conditioning. None: both attentions are over the feature map itself.
    places: height and width of the feature map, for a learned map of its positions. None: no such map.
    """

    def __init__(
        self,
        channels: int,
        context_width: int | None,
        sizes: NetworkSizes,
        places: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if places:
            self.position_map = nn.Parameter(torch.empty(1, channels, *places))
        self.has_position_map = places is not None
        self.norm = nn.GroupNorm(sizes.norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context_width, sizes.tunet_head_channels)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.proj_in(self.norm(x))
        if self.has_position_map:
            h = h + self.position_map
        h = h.flatten(2).transpose(1, 2)
        h = self.transformer_blocks[0](h, context)
        h = h.transpose(1, 2).reshape(batch, channels, height, width)
        return x + self.proj_out(h)


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, context_width: int | None, head_channels: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(channels, None, head_channels)
        self.ff = FeedForward(channels)
        self.attn2 = CrossAttention(channels, context_width, head_channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.attn1(self.norm1(x), context)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class CrossAttention(nn.Module):
    """Multi-head attention; without a context width it attends to its own input."""

    def __init__(self, channels: int, context_width: int | None, head_channels: int) -> None:
        super().__init__()
        self.reads_context = context_width is not None
        self.head_channels = head_channels
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_width or channels, channels, bias=False)
        self.to_v = nn.Linear(context_width or channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, context: Context) -> Tensor:
        keys, values = (next(context), next(context)) if self.reads_context else self.project(x)
        queries = self.split_heads(self.to_q(x)) * self.head_channels**-0.5
        weights = (queries @ keys.transpose(-1, -2)).softmax(dim=-1)
        return self.to_out[0]((weights @ values).transpose(1, 2).flatten(2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `x` [B, length, width], [B, heads, length, head_channels] each."""
        return self.split_heads(self.to_k(x)), self.split_heads(self.to_v(x))

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.head_channels)).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 4 * channels
        self.net = nn.ModuleList([GatedGelu(channels, inner), nn.Identity(), nn.Linear(inner, channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class GatedGelu(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)
