"""Deterministic stand-in weights: every tensor is a pure function of (seed, name, shape).

They serve to verify and time the arithmetic without the published weights. The values are those of the golden outputs
(`tests/golden`), made of Philox's raw bits, whose stream NumPy guarantees.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sc_runtime.errors import CheckpointError

from .code import hash_code
from .spec import Shapes, Tensors

SCALE_FACTOR = 0.9227
CENTROID_AMPLITUDE = 1.2
CHUNK = 1 << 24  #: values drawn at a time, so that the raw 64-bit draws of a large tensor never exist at once


class SeededWeights:
    """Stand-in weights made from (seed, tensor name): the right sizes, no download, no meaning."""

    trained = False
    half = False

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 2**64:
            raise CheckpointError(f"--seeded {seed}", "0 to 2^64 - 1")
        self.seed = seed
        self.description = f"stand-in weights, seed {seed}"
        self.label = f"seeded{seed}"
        self.arguments = f"--seeded {seed}"
        self.sources: dict[str, str] = {}
        self.identity = f"seeded {seed} {hash_code(Path(__file__))}"

    def read(self, file: str, shapes: Shapes) -> Tensors:
        return SeededTensors(self.seed, shapes)

    def centroids(self, vocab: int, width: int) -> np.ndarray:
        return draw_centroids(self.seed, vocab, width)


class SeededTensors(Mapping[str, Tensor]):
    """The tensors of `shapes` {name: shape}, each made when it is asked for and not kept."""

    def __init__(self, seed: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.seed, self.shapes = seed, shapes

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        if name == "scale_factor":
            return torch.tensor(SCALE_FACTOR)
        if name == "head.istft.window":  # UniCodec's: a periodic Hann window
            angles = 2 * np.pi * np.arange(shape[0]) / shape[0]
            return torch.from_numpy((0.5 - 0.5 * np.cos(angles)).astype(np.float32))
        scale, offset = choose_distribution(name, shape)
        return torch.from_numpy(draw_uniform(self.seed, name, shape, scale, offset))

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def draw_centroids(seed: int, vocab: int, width: int) -> np.ndarray:
    """The stand-in semantic codebook, float32 [vocab, width]."""
    return draw_uniform(seed, f"centroids/{vocab}x{width}", (vocab, width), CENTROID_AMPLITUDE, 0.0)


def draw_uniform(seed: int, name: str, shape: tuple[int, ...], scale: float, offset: float) -> np.ndarray:
    """float32 of `shape`, uniform in offset + scale * [-1, 1), 24 random bits each."""
    count = math.prod(shape)
    values = np.empty(count, np.float32)
    philox = np.random.Philox(key=np.array([zlib.crc32(name.encode()), seed], np.uint64))
    for start in range(0, count, CHUNK):
        bits = philox.random_raw(min(CHUNK, count - start))
        values[start : start + CHUNK] = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23)
    values -= np.float32(1.0)
    values *= np.float32(scale)
    if offset:
        values += np.float32(offset)
    return values.reshape(shape)


def choose_distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(scale, offset) with which tokens vary and rounding errors do not grow from layer to layer."""
    if name.endswith("bias") or "bias_" in name:
        return 0.05, 0.0
    if name.endswith("weight_g"):  # of weight-normalised convolutions
        return 0.2, 1.3
    if len(shape) <= 1:  # gains of normalisations
        return 0.1, 1.0
    if name.endswith("norm.scale.weight"):  # of adaptive ones
        return 0.1, 1.0
    if name.endswith("norm.shift.weight"):
        return 0.1, 0.0
    if name.endswith(("cls_token", "pos_embed")):
        return 1.0, 0.0
    fan_in, gain = math.prod(shape[1:]), 1.0
    if ".vocoder.ups." in name:  # transposed convolution, [in, out, kernel]
        fan_in = shape[0] * 3
    elif ".vocoder.conv_post" in name:
        gain = 0.3
    elif ".vocoder." in name:
        gain = 0.7
    elif "patch_embed.proj" in name:
        gain = 3.0
    elif name.startswith("encoder.weight_"):
        gain = 1.7
    elif name == "encoder_output_linear.weight":
        gain = 2.0
    elif name == "head.out.weight":
        gain = 0.5
    elif name.endswith("_codebook.embed"):
        fan_in, gain = 1, 0.4
    return gain * math.sqrt(3.0 / fan_in), 0.0
