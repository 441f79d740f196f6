"""What a codec computes with: graphs, codebooks, and searches in codebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from .cuda.device import Device, Memory
from .cuda.graph import DeviceGraph
from .cuda.nearest import CudaNearestCentroid
from .spec import TensorSpec

Arrays = Mapping[str, np.ndarray]  #: name of an input or output -> its array
Shapes = Mapping[str, tuple[int, ...]]  #: name of an input or output -> its shape


class Graph(Protocol):
    """One network, ready to run. Several threads may run it at once."""

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Inputs by name -> outputs by name, with the shapes and dtypes of the manifest.

        The outputs belong to the caller: no later run changes them. Raises BackendError.
        """
        ...


@runtime_checkable
class CompiledGraph(Graph, Protocol):
    """A graph that is compiled for each set of input shapes: in its first run with them, or earlier by `prepare`."""

    #: Inputs that may have fewer rows than the others: rows [a, b] then stand for [a, b, a, b, ...].
    shared: frozenset[str]

    def prepare(self, shapes: Shapes) -> None:
        """Compile it for inputs of these shapes. Raises BackendError."""
        ...


class Search(Protocol):
    """Nearest-neighbour search in one codebook. Several threads may search at once."""

    def search(self, queries: np.ndarray) -> np.ndarray:
        """Indices int32 [n] of the vectors nearest to `queries` float32 [n, D]; of equals, the lowest.

        Raises BackendError for queries that are not finite.
        """
        ...


class Networks(Protocol):
    """Everything that one codec needs of a bundle on a backend, each part opened when it is first needed.

    Several threads may use it at once. Opening a part raises BundleError or BackendError.
    """

    @property
    def device(self) -> Device | None:
        """The GPU that the graphs run on, whose memory holds the tensors between them. None if they run on the host."""
        ...

    @property
    def graph_names(self) -> frozenset[str]: ...

    def describe_inputs(self, graph: str) -> Mapping[str, TensorSpec]: ...

    def verify_graph(self, graph: str) -> None:
        """Compare the files of `graph` with their hashes. Raises BundleError."""
        ...

    def open_graph(self, graph: str) -> Graph: ...

    def prepare_graph(self, graph: str, copies: int = 1, **axes: int) -> Graph:
        """The graph, ready to run inputs whose dynamic axes have these sizes.

        copies: an input that the graph does not share has this many times the batch's rows.
        """
        ...

    def run(self, graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]: ...

    def load_codebook(self, name: str) -> np.ndarray:
        """The codebook `name` ("acoustic", "semantic-32768", ...), float32 [entries, D]."""
        ...

    def open_search(self, name: str, entries: slice | None = None) -> Search:
        """A search in the codebook `name`, or in its part `entries`. Indices count from the start of `entries`."""
        ...


def open_device_search(networks: Networks, name: str, entries: slice | None = None) -> CudaNearestCentroid:
    """The search in the codebook `name`, or in its part `entries`, of networks that run on a GPU."""
    search = networks.open_search(name, entries)
    assert isinstance(search, CudaNearestCentroid), name
    return search


def upload_codebook(networks: Networks, device: Device, name: str) -> Memory:
    """The codebook `name`, float32 [entries, D], copied to `device`."""
    return device.upload(np.ascontiguousarray(networks.load_codebook(name), np.float32))


def open_device_graph(networks: Networks, name: str) -> DeviceGraph:
    """The graph `name` of networks that run on a GPU."""
    graph = networks.open_graph(name)
    assert isinstance(graph, DeviceGraph), name
    return graph
