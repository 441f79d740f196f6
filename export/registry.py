"""What a codec supplies to be exported, and the codecs that do. The build command knows no more of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from sc_runtime.config import CodecConfig
from sc_runtime.errors import SettingsError
from sc_runtime.spec import TensorSpec

Tensors = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
Specs = dict[str, TensorSpec]


class Sizes(Protocol):
    """How wide and deep a codec's networks are: a frozen dataclass."""

    @property
    def config(self) -> CodecConfig: ...

    def __hash__(self) -> int: ...


class Weights(Protocol):
    """One source of weights. Tensors are asked for by their published names."""

    description: str  #: for the manifest and messages
    label: str  #: for the bundle's name; empty for the published weights
    arguments: str  #: of `export.build` that name this source again
    identity: str  #: equal for equal weights, different for different ones
    trained: bool  #: whether they mean anything

    @property
    def half(self) -> bool:
        """Whether float16 holds all of them exactly."""
        ...

    def read(self, file: str, shapes: Shapes) -> Tensors:
        """The tensors `shapes` of one file, float32. Raises CheckpointError when they are not all there."""
        ...


class Network(Protocol):
    """One torch network of a checkpoint."""

    @property
    def file(self) -> str:
        """Of the checkpoint, that holds its tensors."""
        ...

    @property
    def sources(self) -> tuple[str, ...]:
        """Files of this package that shape it."""
        ...

    def list_shapes(self, sizes: Any) -> dict[str, tuple[int, ...]]:
        """Published name -> shape of every tensor it is made of."""
        ...

    def load(self, sizes: Any, tensors: Tensors) -> nn.Module:
        """The network with its weights, for evaluation."""
        ...


@dataclass(frozen=True)
class Graph:
    """One exported graph.

    `trace` builds the module that is traced; `reference` turns the loaded network into the torch function the graph
    must equal; `find` gives the tensor that the traced module calls `name`. A graph that `shares` another's weights is
    that function once more, for processors: it takes them from the other's file, and FP16 bundles are without it.
    """

    network: str
    inputs: Callable[[Any], Specs]
    outputs: Callable[[Any], Specs]
    trace: Callable[[Any], nn.Module]
    reference: Callable[[Any, Any], nn.Module]
    find: Callable[[Any, Tensors, Any, str], Tensor]
    shares: str | None = None


@dataclass(frozen=True)
class CodecExport:
    """One codec. To add another: this, and a line in `find_export`."""

    networks: Mapping[str, Network]
    graphs: Mapping[str, Graph]
    vocabularies: tuple[int, ...]  #: to choose from, the last by default
    name: Callable[[Any, tuple[int, ...]], str]  #: config, vocabularies -> what a bundle's name begins with
    tell_arguments: Callable[[Any, tuple[int, ...]], str]  #: the same -> arguments of `export.build` that name them
    choose_sizes: Callable[[str, int | None, int], Sizes]  #: takes "full" or "tiny", tps (None: the usual) and vocab
    list_others: Callable[[str, Any], Shapes]  #: tensors of a file that belong to no network
    make_codebooks: Callable[[Any, tuple[int, ...], Any], Iterator[tuple[str, np.ndarray]]]  #: sizes, vocabs, weights
    open_local: Callable[[Path, Sizes], Weights]  #: a checkpoint given by its path
    fetch: Callable[[Sizes, tuple[int, ...]], Weights]  #: the published checkpoint, from the hub
    int8: tuple[str, ...] = ()  #: graphs that `--precision int8` rounds, because it was measured to be harmless there

    def list_shapes(self, file: str, sizes: Sizes) -> Shapes:
        """Published name -> shape of every tensor that inference needs of one checkpoint file."""
        shapes = dict(self.list_others(file, sizes))
        for network in self.networks.values():
            if network.file == file:
                shapes |= network.list_shapes(sizes)
        return shapes


def find_export(codec: str) -> CodecExport:
    """Raises SettingsError where there is none of that name."""
    from sc_runtime.export.semanticodec.graphs import SEMANTICODEC
    from sc_runtime.export.unicodec.graphs import UNICODEC

    exports = {"semanticodec": SEMANTICODEC, "unicodec": UNICODEC}
    if codec not in exports:
        raise SettingsError(f"codec {codec!r}", f"one of {', '.join(exports)}")
    return exports[codec]


def read_tensors(file: str, weights: Weights, sizes: Sizes) -> Tensors:
    """Every tensor inference needs of one checkpoint file, checked as a whole. Raises CheckpointError."""
    return weights.read(file, find_export(sizes.config.codec).list_shapes(file, sizes))
