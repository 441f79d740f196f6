"""A BiLSTM in float32 on the CPU: the truth that a trial (`lstm_choice`) compares the ways on a GPU with."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile

import numpy as np

from sc_runtime.cuda.lstm import OUTPUT

DIRECTIONS = (1, -1)  #: strides in time, in ONNX's order


def run_in_float32(weights: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """x float32 [L, H] -> float32 [L, D]: ONNX's bidirectional LSTM for each layer, and the linear map, of one window.

    weights: as those of `BiLstm`, in any floating-point type. Nothing is rounded to half precision but what they are.
    The weights of one direction of one layer are converted at a time: at most 1.8 GB, at 25 tokens a second. R is read
    from memory at each position. At full size that takes 19, 38 and 168 s at 100, 50 and 25 tokens a second on two busy
    cores (load 9), estimated from a tenth of the positions.
    """
    for layer in takewhile(lambda layer: f"w{layer}" in weights, count()):
        parts = zip(*(weights[f"{kind}{layer}"] for kind in "wrb"), DIRECTIONS, strict=True)
        x = np.concatenate([run_direction(x, *part) for part in parts], axis=1)
    return x @ weights[OUTPUT].astype(np.float32).T


def run_direction(x: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray, stride: int) -> np.ndarray:
    """h [L, H] of one direction, for x [L, I], w [4H, I], r [4H, H] and b [8H]; gates i, o, f, c."""
    length, width = len(x), r.shape[1]
    given = x @ w.astype(np.float32).T + b.astype(np.float32).reshape(2, -1).sum(axis=0)
    recurrent = r.astype(np.float32)
    hidden, cell = np.zeros((2, width), np.float32)
    outputs = np.empty((length, width), np.float32)
    for time in range(length)[::stride]:
        i, o, f, candidate = np.split(given[time] + recurrent @ hidden, 4)
        cell = squash(f) * cell + squash(i) * np.tanh(candidate)
        hidden = squash(o) * np.tanh(cell)
        outputs[time] = hidden
    return outputs


def squash(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), which does not overflow."""
    return (1 + np.tanh(x / 2)) / 2
