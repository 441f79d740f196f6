"""UniCodec's decoder: a Vocos-like network that gives a spectrogram, and its inverse STFT.

Axes: B batch, T positions (75 a second), C channels. Tensors that are published as they are keep their names.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .sizes import OVERLAP, UniCodecSizes

MAX_MAGNITUDE = 100.0
EPS = 1e-6  #: of every normalisation


class Decoder(nn.Module):
    """code vectors float32 [B, T, width] -> waveform float32 [B, 320 T] at 24 kHz."""

    def __init__(self, sizes: UniCodecSizes) -> None:
        super().__init__()
        self.backbone = Backbone(sizes)
        self.head = Head(sizes)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.head(self.backbone(vectors))


class Backbone(nn.Module):
    """[B, T, width] -> [B, T, decoder width]."""

    def __init__(self, sizes: UniCodecSizes) -> None:
        super().__init__()
        width, groups = sizes.decoder_width, sizes.norm_groups
        self.embed = nn.Conv1d(sizes.width, width, 7, padding=3)
        self.pos_net = nn.Sequential(
            Residual(width, groups),
            Residual(width, groups),
            Attention(width, groups),
            Residual(width, groups),
            Residual(width, groups),
            nn.GroupNorm(groups, width, EPS),
        )
        self.norm = nn.LayerNorm(width, EPS)
        self.convnext = nn.ModuleList(ConvNeXt(width, sizes.intermediate) for _ in range(sizes.blocks))
        self.final_layer_norm = nn.LayerNorm(width, EPS)

    def forward(self, vectors: Tensor) -> Tensor:
        x = self.norm(self.pos_net(self.embed(vectors.transpose(1, 2))).transpose(1, 2))
        for block in self.convnext:
            x = block(x)
        return self.final_layer_norm(x)


class Residual(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width, EPS)
        self.conv1 = nn.Conv1d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, EPS)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(h)))


class Attention(nn.Module):
    """Single-head self-attention over all positions of [B, C, T]."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, EPS)
        self.q = nn.Conv1d(width, width, 1)
        self.k = nn.Conv1d(width, width, 1)
        self.v = nn.Conv1d(width, width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        queries = self.q(h).transpose(1, 2) * x.shape[1] ** -0.5
        weights = (queries @ self.k(h)).softmax(dim=-1)
        return x + self.proj_out((weights @ self.v(h).transpose(1, 2)).transpose(1, 2))


class ConvNeXt(nn.Module):
    """[B, T, C] -> [B, T, C]. `norm` is adaptive as published; its condition never changes, so here it is plain."""

    def __init__(self, width: int, intermediate: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, EPS)
        self.pwconv1 = nn.Linear(width, intermediate)
        self.pwconv2 = nn.Linear(intermediate, width)
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.dwconv(x.transpose(1, 2)).transpose(1, 2))
        return x + self.gamma * self.pwconv2(functional.gelu(self.pwconv1(h)))


class Head(nn.Module):
    """[B, T, decoder width] -> waveform [B, 320 T]: log-magnitudes and phases, then the inverse STFT."""

    def __init__(self, sizes: UniCodecSizes) -> None:
        super().__init__()
        self.out = nn.Linear(sizes.decoder_width, sizes.n_fft + 2)
        self.istft = InverseStft(sizes.n_fft, sizes.hop)

    def forward(self, x: Tensor) -> Tensor:
        log_magnitude, phase = self.out(x).chunk(2, dim=-1)
        magnitude = log_magnitude.exp().clamp(max=MAX_MAGNITUDE)
        return self.istft(torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=-1))


class InverseStft(nn.Module):
    """Real and imaginary parts [B, T, n_fft + 2] -> waveform [B, hop T], "same" padding (Vocos, arXiv 2306.00814).

    `basis` [n_fft + 2, n_fft] is the windowed inverse DFT and `power` [n_fft / hop, hop] the squared window. Frames are
    cut into pieces of a hop, piece q of frame t falls on hop t + q of the sum, and half of what frames overlap is cut
    off at both ends.
    """

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.pieces, self.hop, self.cut = n_fft // hop, hop, (n_fft - hop) // 2
        self.basis = nn.Parameter(torch.empty(n_fft + 2, n_fft))
        self.power = nn.Parameter(torch.empty(self.pieces, hop))

    def forward(self, spectrum: Tensor) -> Tensor:
        frames = (spectrum @ self.basis).unflatten(-1, (self.pieces, self.hop))
        envelope = self.overlap(self.power.expand(1, spectrum.shape[1], -1, -1))
        return self.overlap(frames) / envelope

    def overlap(self, frames: Tensor) -> Tensor:
        """[B, T, pieces, hop] -> [B, hop T]: the frames added, each a hop after the one before it."""
        last = self.pieces - 1
        shifted = [functional.pad(frames[:, :, q], (0, 0, q, last - q)) for q in range(self.pieces)]
        summed = sum(shifted[1:], start=shifted[0]).flatten(1)
        return summed[:, self.cut : summed.shape[1] - self.cut]


def make_basis(window: Tensor) -> Tensor:
    """The inverse real DFT times `window` [n_fft]: float32 [n_fft + 2, n_fft], first the real parts' rows."""
    n_fft = len(window)
    phases = torch.arange(n_fft // 2 + 1).unsqueeze(1) * torch.arange(n_fft) % n_fft  # exact: whole numbers
    angles = phases.double() * (2 * math.pi / n_fft)
    weights = torch.full((n_fft // 2 + 1, 1), 2 / n_fft, dtype=torch.float64)
    weights[0] = weights[-1] = 1 / n_fft  # the two bins that have no mirror image
    sines = angles.sin()
    sines[0] = sines[-1] = 0
    return (torch.cat([weights * angles.cos(), -weights * sines]) * window.double()).float()


def make_power(window: Tensor) -> Tensor:
    """The square of `window` [n_fft], hop by hop: [n_fft / hop, hop]."""
    return window.square().reshape(OVERLAP, -1)


def take_first_condition(rows: Tensor) -> Tensor:
    """The row [C] of an adaptive LayerNorm's table [conditions, C] that inference uses."""
    return rows[0]
