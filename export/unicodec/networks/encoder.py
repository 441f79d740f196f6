"""UniCodec's encoder: strided convolutions, then a transformer whose feed-forward is a mixture of experts.

Axes: B batch, n samples, L positions of some level, C channels, T positions of the last level, ceil(n / 320).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .sizes import UniCodecSizes

MAX_PERIOD = 10_000.0  #: of the rotary positions
END_KERNEL = 7  #: of the first and the last convolution
RESIDUAL_KERNEL = 3


class Encoder(nn.Module):
    """waveform float32 [B, n] at 24 kHz -> features float32 [B, T, width], for every n from 1 on.

    mixture: the class of its feed-forwards: Mixture, or RoutedMixture where shapes may depend on the data.
    """

    def __init__(self, sizes: UniCodecSizes, mixture: type[Mixture]) -> None:
        super().__init__()
        self.convolutions = Convolutions(sizes)
        self.transformer = Transformer(sizes, mixture)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.transformer(self.convolutions(waveform.unsqueeze(1)).transpose(1, 2))


class Convolutions(nn.Module):
    """SEANet's encoder (EnCodec, arXiv 2210.13438, figure 1) without its LSTM: [B, 1, n] -> [B, width, T]."""

    def __init__(self, sizes: UniCodecSizes) -> None:
        super().__init__()
        channels = sizes.channels
        self.first = ReflectedConv(1, channels, END_KERNEL)
        self.residuals, self.downsamplings = nn.ModuleList(), nn.ModuleList()
        for stride in sizes.strides:
            self.residuals.append(Residual(channels))
            self.downsamplings.append(ReflectedConv(channels, 2 * channels, 2 * stride, stride))
            channels *= 2
        self.last = ReflectedConv(channels, sizes.width, END_KERNEL)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for residual, downsampling in zip(self.residuals, self.downsamplings, strict=True):
            x = downsampling(functional.elu(residual(x)))
        return self.last(functional.elu(x))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = ReflectedConv(channels, channels // 2, RESIDUAL_KERNEL)
        self.widen = nn.Conv1d(channels // 2, channels, 1)
        self.shortcut = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.widen(functional.elu(self.narrow(functional.elu(x))))


class ReflectedConv(nn.Conv1d):
    """[B, C, L] -> [B, C', ceil(L / stride)]: a convolution over the signal with its mirror images at both ends."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        stride = self.stride[0]
        margin = self.kernel_size[0] - stride
        right = margin // 2
        missing = (x.shape[-1] + stride - 1) // stride * stride - x.shape[-1]
        return super().forward(reflect(x, margin - right, right + missing))


def reflect(x: Tensor, left: int, right: int) -> Tensor:
    """x [B, C, L] -> [B, C, left + L + right], mirrored at its first and last position.

    A signal of max(left, right) positions or fewer is too short for its mirror images. EnCodec's rule applies: zeros
    are added at its end up to max(left, right) + 1 positions, it is mirrored, and as many positions as were added are
    cut off the end. The two margins are gathers, so that one graph holds for every L.
    """
    length = torch.scalar_tensor(x.shape[-1], dtype=torch.int64)
    longest = torch.scalar_tensor(right, dtype=torch.int64).clamp(min=left)
    mirror = torch.maximum(length - 1, longest)  # where the signal ends and its image begins
    before = torch.arange(left, 0, -1)
    after = mirror - (torch.arange(right) + length - mirror).abs()
    return torch.cat([take(x, before, length), x, take(x, after, length)], dim=-1)


def take(x: Tensor, positions: Tensor, length: Tensor) -> Tensor:
    """The columns `positions` of x [B, C, L], zeros for those from `length` on."""
    return x.index_select(-1, positions.clamp(max=length - 1)) * (positions < length)


def fold_norm(gain: Tensor, direction: Tensor) -> Tensor:
    """The plain weight of a weight-normalised convolution (arXiv 1602.07868, eq. 2)."""
    return direction * (gain / direction.square().sum(dim=(1, 2), keepdim=True).sqrt())


class Transformer(nn.Module):
    """[B, T, width] -> [B, T, width]; every position attends to every other."""

    def __init__(self, sizes: UniCodecSizes, mixture: type[Mixture]) -> None:
        super().__init__()
        self.head_width = sizes.width // sizes.heads
        self.layers = nn.ModuleList(Layer(sizes, mixture) for _ in range(sizes.layers))

    def forward(self, x: Tensor) -> Tensor:
        rotation = rotate_positions(x.shape[1], self.head_width)
        for layer in self.layers:
            x = layer(x, rotation)
        return x


def rotate_positions(length: int, width: int) -> Tensor:
    """The cosines and sines of the rotary positions (RoFormer, arXiv 2104.09864, eq. 34): [2, length, width / 2]."""
    rates = torch.exp(torch.arange(width // 2) * (-2 * math.log(MAX_PERIOD) / width))
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.stack([angles.cos(), angles.sin()])


class Layer(nn.Module):
    """Pre-norm attention, scaled channel by channel, and the mixture, which the published code does not scale."""

    def __init__(self, sizes: UniCodecSizes, mixture: type[Mixture]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width)
        self.attention = Attention(sizes)
        self.scale = nn.Parameter(torch.empty(sizes.width))
        self.norm2 = nn.LayerNorm(sizes.width)
        self.mixture = mixture(sizes)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.scale * self.attention(self.norm1(x), rotation)
        return x + self.mixture(self.norm2(x))


class Attention(nn.Module):
    def __init__(self, sizes: UniCodecSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        queries, keys, values = rotate(qkv[0], rotation), rotate(qkv[1], rotation), qkv[2]
        weights = (queries * (width // self.heads) ** -0.5 @ keys.transpose(-1, -2)).softmax(dim=-1)
        return self.out((weights @ values).transpose(1, 2).reshape(batch, length, width))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of x [B, heads, T, head width] by its position's angle."""
    cosine, sine = rotation[0], rotation[1]
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1).flatten(-2)


class Mixture(nn.Module):
    """A mixture of experts [B, T, width] -> [B, T, width]: each position's likeliest expert, and a shared one.

    The output of the likeliest expert is multiplied by its probability, which is not normalised again. Here every
    expert runs on every position, and the outputs of experts that were not chosen are multiplied by zero, so that no
    shape depends on the data.
    """

    def __init__(self, sizes: UniCodecSizes) -> None:
        super().__init__()
        self.gate = nn.Linear(sizes.width, sizes.experts, bias=False)
        self.experts = nn.ModuleList(Expert(sizes) for _ in range(sizes.experts))
        self.shared_experts = Expert(sizes)

    def forward(self, x: Tensor) -> Tensor:
        probabilities = self.gate(x).softmax(dim=-1)
        likeliest = probabilities.argmax(dim=-1, keepdim=True)
        y = self.shared_experts(x)
        for i, expert in enumerate(self.experts):
            y = y + probabilities[..., i : i + 1] * (likeliest == i) * expert(x)
        return y


class RoutedMixture(Mixture):
    """The same function with half the arithmetic: an expert runs on the positions that chose it, however many they are.

    It is for processors, where shapes may depend on the data. The experts' outputs are joined and then put back into
    the order of their positions. Every tensor has three axes, so that the exporter writes the experts' products in the
    same way as for Mixture, and the weights are stored alike.
    """

    def forward(self, x: Tensor) -> Tensor:
        positions = x.flatten(0, 1).unsqueeze(0)
        probability, likeliest = self.gate(positions).softmax(dim=-1).max(dim=-1)
        rows = [torch.nonzero(likeliest[0] == i).squeeze(-1) for i in range(len(self.experts))]
        routed = torch.cat(
            [expert(positions.index_select(1, chosen)) for expert, chosen in zip(self.experts, rows, strict=True)],
            dim=1,
        )
        order = torch.arange(positions.shape[1])
        places = order.scatter(0, torch.cat(rows), order)
        y = self.shared_experts(positions) + probability.unsqueeze(-1) * routed.index_select(1, places)
        return y.view_as(x)


class Expert(nn.Module):
    """A gated feed-forward network (SwiGLU, arXiv 2002.05202, eq. 6)."""

    def __init__(self, sizes: UniCodecSizes) -> None:
        super().__init__()
        self.w1 = nn.Linear(sizes.width, sizes.expert_width, bias=False)
        self.w2 = nn.Linear(sizes.expert_width, sizes.width, bias=False)
        self.w3 = nn.Linear(sizes.width, sizes.expert_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))
