"""The acoustic encoder: a bidirectional LSTM over (feature, centroid), then a linear map (paper, eq. 2)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .sizes import NetworkSizes

#: A tensor of ONNX's LSTM -> PyTorch's names of the parts that it joins, in their order.
STEMS = {"w": ("weight_ih",), "r": ("weight_hh",), "b": ("bias_ih", "bias_hh")}
SUFFIXES = ("", "_reverse")  #: of PyTorch's names of the two directions, in ONNX's order


class AcousticEncoder(nn.Module):
    """[feature, centroid] [B, L, 2D] -> acoustic features [B, L, D], with PyTorch's own LSTM."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        width = sizes.config.feature_width
        self.encoder = nn.LSTM(2 * width, 2 * width, sizes.lstm_layers, bidirectional=True, batch_first=True)
        self.encoder_output_linear = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder_output_linear(self.encoder(x)[0])


class OnnxAcousticEncoder(nn.Module):
    """The same function for tracing: one ONNX LSTM node a layer, its weights already in ONNX's layout.

    PyTorch orders the gates (input, forget, cell, output) and keeps directions apart; ONNX orders them (input,
    output, forget, cell) and stacks directions. `convert_lstm` turns one layout into the other, tensor by tensor.
    """

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        self.width = width = sizes.config.feature_width
        self.layers = sizes.lstm_layers
        hidden = 2 * width
        for layer in range(self.layers):
            inputs = 2 * width if layer == 0 else 2 * hidden
            for name, shape in {
                "w": (2, 4 * hidden, inputs),
                "r": (2, 4 * hidden, hidden),
                "b": (2, 8 * hidden),
            }.items():
                self.register_parameter(f"{name}{layer}", nn.Parameter(torch.empty(shape)))
        self.encoder_output_linear = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        hidden = 2 * self.width
        x = x.transpose(0, 1)
        for layer in range(self.layers):
            weights = tuple(getattr(self, f"{name}{layer}") for name in "wrb")
            y = torch.onnx.ops.symbolic(
                "LSTM",
                (x, *weights),
                attrs={"direction": "bidirectional", "hidden_size": hidden},
                dtype=x.dtype,
                shape=(length, 2, batch, hidden),
            )
            x = y.transpose(1, 2).reshape(length, batch, 2 * hidden)
        return self.encoder_output_linear(x.transpose(0, 1))


def list_lstm_parts(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of PyTorch's LSTM from which `convert_lstm` makes `name`, which has `shape`.

    Empty unless `name` is "w0", "r2", "b1", ... of `OnnxAcousticEncoder`.
    """
    if not re.fullmatch(r"[wrb]\d+", name):
        return {}
    stems = STEMS[name[0]]
    rows = shape[1] // len(stems)
    return {f"encoder.{stem}_l{name[1:]}{suffix}": (rows, *shape[2:]) for suffix in SUFFIXES for stem in stems}


def convert_lstm(*parts: Tensor) -> Tensor:
    """A tensor of ONNX's LSTM from those that `list_lstm_parts` names."""
    half = len(parts) // len(SUFFIXES)
    return torch.stack([torch.cat([reorder_gates(part) for part in side]) for side in (parts[:half], parts[half:])])


def restore_lstm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `AcousticEncoder` from those of `OnnxAcousticEncoder`: the inverse of `convert_lstm`."""
    state = {}
    for name, tensor in weights.items():
        parts = list_lstm_parts(name, tuple(tensor.shape))
        if not parts:
            state[name] = tensor
            continue
        rows = tensor.flatten(0, 1).chunk(len(parts))
        state |= {part: restore_gates(chunk) for part, chunk in zip(parts, rows, strict=True)}
    return state


def restore_gates(weight: Tensor) -> Tensor:
    """ONNX's gate order (i, o, f, c) along the first axis -> PyTorch's (i, f, g, o)."""
    i, o, f, g = weight.chunk(4)
    return torch.cat([i, f, g, o])


def reorder_gates(weight: Tensor) -> Tensor:
    """PyTorch's gate order (i, f, g, o) along the first axis -> ONNX's (i, o, f, c)."""
    i, f, g, o = weight.chunk(4)
    return torch.cat([i, o, f, g])
