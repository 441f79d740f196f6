"""One-dimensional convolutions computed as two-dimensional ones, channels last, on images of one row.

Measured on an EPYC with bfloat16 (2026-11-26, PyTorch 2.13.0, one thread): an update of the vocoder at the embedded
model's size takes 0.10 s of CPU time instead of 0.16 s.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Convolution = nn.Conv1d | nn.ConvTranspose1d


class RowConvolution(nn.Module):
    """Computes `layer` [B, C, n] with the parameters of `layer`, under the same names."""

    def __init__(self, layer: Convolution) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.transposed = isinstance(layer, nn.ConvTranspose1d)
        self.stride, self.padding = (1, *layer.stride), (0, *layer.padding)
        self.dilation = (1, *layer.dilation)

    def forward(self, x: Tensor) -> Tensor:
        run = functional.conv_transpose2d if self.transposed else functional.conv2d
        weight = self.weight[:, :, None].contiguous(memory_format=torch.channels_last)
        rows = x[:, :, None].contiguous(memory_format=torch.channels_last)
        y = run(rows, weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation)
        return y[:, :, 0]


def use_rows(module: nn.Module) -> None:
    """Replace every one-dimensional convolution inside `module` by a RowConvolution."""
    for name, child in module.named_children():
        if isinstance(child, Convolution):
            setattr(module, name, RowConvolution(child))
        else:
            use_rows(child)
