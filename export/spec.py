"""What a codec supplies to be exported: types and protocols, which every other file of the export may import."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sc_runtime.config import CodecConfig
from sc_runtime.spec import TensorSpec

Tensors = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
Specs = dict[str, TensorSpec]
Report = Callable[[str], None]  #: called with a line that describes the step that begins


class Sizes(Protocol):
    """How wide and deep a codec's networks are: a frozen dataclass."""

    @property
    def config(self) -> CodecConfig: ...

    def __hash__(self) -> int: ...


class Weights(Protocol):
    """One source of weights. Tensors are asked for by their published names."""

    description: str  #: for the manifest and messages
    label: str  #: for the bundle's name; empty for the published weights
    arguments: str  #: of `sc-runtime build` that select this source
    identity: str  #: equal for equal weights, different for different ones
    sources: dict[str, str]  #: file that the weights are read from -> its SHA-256
    trained: bool  #: False for stand-in weights

    @property
    def half(self) -> bool:
        """Whether float16 holds all of them exactly."""
        ...

    def read(self, file: str, shapes: Shapes) -> Tensors:
        """The tensors `shapes` of one file, float32. Raises CheckpointError when they are not all there."""
        ...


@dataclass(frozen=True)
class Origin:
    """The published tensors that one tensor of a module is made of, and the function that makes it."""

    shapes: Shapes  #: published name -> shape, in the order of the arguments of `make`
    make: Callable[..., Tensor] | None = None  #: None: the tensor is the published one


class Network(Protocol):
    """One torch network of a checkpoint."""

    @property
    def file(self) -> str:
        """The checkpoint's file that holds its tensors."""
        ...

    def build(self, sizes: Any) -> nn.Module:
        """The module."""
        ...

    def trace_origin(self, name: str, shape: tuple[int, ...], sizes: Any) -> Origin:
        """What the module's tensor `name`, of `shape`, is made of."""
        ...


class Graph(Protocol):
    """One exported graph."""

    @property
    def shares(self) -> str | None:
        """Another graph of the same function, from whose file this graph reads the weights. None: it has its own.

        A graph that shares is for processors, so FP16 bundles do not have it.
        """
        ...

    def __hash__(self) -> int: ...

    @property
    def network(self) -> str:
        """The name of the network that it is made of."""
        ...

    def inputs(self, sizes: Any) -> Specs: ...

    def outputs(self, sizes: Any) -> Specs: ...

    def build(self, sizes: Any) -> nn.Module:
        """The module that is traced."""
        ...

    def refer(self, network: nn.Module, sizes: Any) -> nn.Module:
        """The torch function that the graph must equal, made of the loaded network."""
        ...

    def trace_origin(self, name: str, shape: tuple[int, ...], sizes: Any) -> Origin:
        """What the tensor `name` of the traced module, of `shape`, is made of."""
        ...


class CodecExport(Protocol):
    """How one codec is exported. `registry.py` lists the codecs."""

    @property
    def networks(self) -> Mapping[str, Network]: ...

    @property
    def graphs(self) -> Mapping[str, Graph]: ...

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """The sizes to choose from; the last is the default."""
        ...

    @property
    def int8(self) -> Mapping[str, bool]:
        """Graph that `--precision int8` rounds, measured to be harmless -> whether the graph is a transformer."""
        ...

    def name_bundle(self, config: Any, vocabularies: tuple[int, ...]) -> str:
        """The first part of a bundle's name."""
        ...

    def list_arguments(self, config: Any, vocabularies: tuple[int, ...]) -> str:
        """The arguments of `sc-runtime build` that choose this codec, rate and vocabularies."""
        ...

    def choose_sizes(self, size: str, tps: int | None, vocab: int) -> Sizes:
        """The networks of `size` ("full", "tiny", ...); `tps` None is the usual rate. Raises SettingsError."""
        ...

    def list_others(self, file: str, sizes: Any) -> Shapes:
        """Published name -> shape of the tensors of a checkpoint's file that belong to no network."""
        ...

    def make_codebooks(
        self, sizes: Any, vocabularies: tuple[int, ...], weights: Any
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Name and vectors [entries, D] of each codebook. Raises CheckpointError."""
        ...

    def open_local(self, path: Path, sizes: Any) -> Weights:
        """The checkpoint in `path`. Raises CheckpointError."""
        ...

    def fetch(self, sizes: Any, vocabularies: tuple[int, ...], revision: str) -> Weights:
        """The published checkpoint, from the hub: a branch, a tag or a commit. Raises CheckpointError."""
        ...


def list_origins(part: Network | Graph, sizes: Any) -> dict[str, Origin]:
    """Name -> origin of every tensor of the module of `part`, its buffers included."""
    with torch.device("meta"):
        module = part.build(sizes)
    tensors = module.state_dict() | dict(module.named_buffers())
    return {name: part.trace_origin(name, tuple(tensor.shape), sizes) for name, tensor in tensors.items()}


def make_tensor(origin: Origin, tensors: Tensors) -> Tensor:
    """The tensor of this origin, float32, made of the published `tensors`."""
    parts = [tensors[name] for name in origin.shapes]
    return origin.make(*parts) if origin.make else parts[0]


def load_network(part: Network | Graph, sizes: Any, tensors: Tensors) -> nn.Module:
    """The module of `part` with its weights, for evaluation."""
    with torch.device("meta"):
        module = part.build(sizes)
    state = {name: make_tensor(origin, tensors) for name, origin in list_origins(part, sizes).items()}
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def list_shapes(network: Network, sizes: Any) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of every tensor that `network` is made of."""
    return {name: shape for origin in list_origins(network, sizes).values() for name, shape in origin.shapes.items()}


def list_needed(export: CodecExport, file: str, sizes: Sizes) -> Shapes:
    """Published name -> shape of every tensor that inference needs of one checkpoint file."""
    shapes = dict(export.list_others(file, sizes))
    for network in export.networks.values():
        if network.file == file:
            shapes |= list_shapes(network, sizes)
    return shapes


def read_file(export: CodecExport, file: str, weights: Weights, sizes: Sizes) -> Tensors:
    """The tensors of `list_needed`, checked as a whole. Raises CheckpointError."""
    return weights.read(file, list_needed(export, file, sizes))
