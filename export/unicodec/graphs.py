"""UniCodec's networks and what each exported graph takes and gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from sc_runtime.export.registry import CodecExport, Graph, Tensors, Weights, read_tensors
from sc_runtime.export.unicodec.networks.sizes import UniCodecSizes, choose_sizes
from sc_runtime.spec import TensorSpec
from sc_runtime.unicodec.config import CODEBOOK, VOCABULARY

from . import tensors as checkpoint
from .checkpoint import FILE, CheckpointFile, fetch_published
from .tensors import find_tensor, list_quantizer_shapes, list_sources, load_network, make_codebook


@dataclass(frozen=True)
class ComposedNetwork:
    """One network whose tensors are made of the checkpoint's; see `checkpoint.list_sources`."""

    name: str
    sources: tuple[str, ...]
    file: str = FILE

    def list_shapes(self, sizes: UniCodecSizes) -> dict[str, tuple[int, ...]]:
        return {
            name: shape for source in list_sources(self.name, sizes).values() for name, shape in source.shapes.items()
        }

    def load(self, sizes: UniCodecSizes, tensors: Tensors) -> nn.Module:
        return load_network(self.name, sizes, tensors)


def find(network: ComposedNetwork, tensors: Tensors, sizes: UniCodecSizes, name: str) -> Tensor:
    return find_tensor(list_sources(network.name, sizes), tensors, name)


def keep(module: nn.Module, sizes: UniCodecSizes) -> nn.Module:
    return module


def float32(*shape: int | str) -> TensorSpec:
    return TensorSpec("float32", ("batch", *shape))


NETWORKS = {
    name: ComposedNetwork(name, tuple(f"unicodec/{file}.py" for file in ("graphs", "checkpoint", f"networks/{name}")))
    for name in ("encoder", "decoder")
}

ENCODER = Graph(
    "encoder",
    lambda sizes: {"waveform": float32("samples")},
    lambda sizes: {"features": float32("positions", sizes.width)},
    checkpoint.NETWORKS["encoder"],
    keep,
    find,
)

GRAPHS = {
    "encoder": ENCODER,
    "routed_encoder": dataclasses.replace(ENCODER, trace=checkpoint.NETWORKS["routed_encoder"], shares="encoder"),
    "decoder": Graph(
        "decoder",
        lambda sizes: {"vectors": float32("positions", sizes.width)},
        lambda sizes: {"waveform": float32("samples")},
        checkpoint.NETWORKS["decoder"],
        keep,
        find,
    ),
}


def make_codebooks(
    sizes: UniCodecSizes, vocabularies: tuple[int, ...], weights: Weights
) -> Iterator[tuple[str, np.ndarray]]:
    yield CODEBOOK, make_codebook(read_tensors(FILE, weights, sizes))


UNICODEC = CodecExport(
    NETWORKS,
    GRAPHS,
    (VOCABULARY,),
    lambda config, vocabularies: config.codec,
    lambda config, vocabularies: f"--codec {config.codec}",
    lambda size, tps, vocab: choose_sizes(size, tps),
    lambda file, sizes: list_quantizer_shapes(sizes),
    make_codebooks,
    lambda path, sizes: CheckpointFile(path),
    lambda sizes, vocabularies: fetch_published(),
)
