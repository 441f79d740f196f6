"""A bundle on a backend: its graphs, its codebooks, and searches in them. Each is opened when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .backends.base import Backend
from .bundle.store import Bundle
from .cuda.device import Device
from .networks import CompiledGraph, Graph, Search
from .once import OnceEach
from .spec import TensorSpec


class LoadedBundle:
    """`bundle` on `backend`, as a codec uses it (`networks.Networks`). Several threads may use it at once.

    Opening a part raises BundleError or BackendError.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle, self.backend = bundle, backend
        self.graphs: OnceEach[str, Graph] = OnceEach()
        self.codebooks: OnceEach[str, np.ndarray] = OnceEach()
        self.searches: OnceEach[str, Search] = OnceEach()

    @property
    def device(self) -> Device | None:
        return self.backend.gpu

    @property
    def graph_names(self) -> frozenset[str]:
        return frozenset(self.bundle.manifest.graphs)

    def describe_inputs(self, graph: str) -> Mapping[str, TensorSpec]:
        return self.bundle.manifest.graphs[graph].inputs

    def verify_graph(self, graph: str) -> None:
        self.bundle.find_graph(graph)

    def open_graph(self, graph: str) -> Graph:
        return self.graphs.get(graph, lambda: self.backend.open(self.bundle, graph))

    def prepare_graph(self, graph: str, copies: int = 1, **axes: int) -> Graph:
        opened = self.open_graph(graph)
        if isinstance(opened, CompiledGraph):
            shapes = {name: spec.resolve(**axes) for name, spec in self.describe_inputs(graph).items()}
            for name in shapes.keys() - opened.shared:
                rows, *row = shapes[name]
                shapes[name] = (copies * rows, *row)
            opened.prepare(shapes)
        return opened

    def run(self, graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        return self.open_graph(graph).run(feeds)

    def load_codebook(self, name: str) -> np.ndarray:
        """See `Networks.load_codebook`. The codebook is mapped from its file."""
        return self.codebooks.get(name, lambda: self.bundle.load_codebook(name))

    def open_search(self, name: str, entries: slice | None = None) -> Search:
        key = name if entries is None else f"{name}[{entries.start}:{entries.stop}]"
        return self.searches.get(
            key, lambda: self.backend.open_search(self.load_codebook(name)[entries or slice(None)])
        )
