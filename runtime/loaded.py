"""A bundle on a backend: its graphs, its codebooks and searches in them, each opened when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .backends.base import Backend
from .bundle.store import Bundle
from .cuda.device import Device
from .networks import CompiledGraph, Graph, Search
from .spec import TensorSpec


class LoadedBundle:
    """`bundle` on `backend`, as a codec uses it (`networks.Networks`).

    Opening a part raises BundleError or BackendError.

    Two threads may open different parts, but not the same one.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle, self.backend = bundle, backend
        self.graphs: dict[str, Graph] = {}
        self.codebooks: dict[str, np.ndarray] = {}
        self.searches: dict[str, Search] = {}

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
        if graph not in self.graphs:
            self.graphs[graph] = self.backend.open(self.bundle, graph)
        return self.graphs[graph]

    def prepare_graph(self, graph: str, **axes: int) -> Graph:
        opened = self.open_graph(graph)
        if isinstance(opened, CompiledGraph):
            opened.prepare({name: spec.resolve(**axes) for name, spec in self.describe_inputs(graph).items()})
        return opened

    def run(self, graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        return self.open_graph(graph).run(feeds)

    def load_codebook(self, name: str) -> np.ndarray:
        """As `Networks.load_codebook`; mapped from its file."""
        if name not in self.codebooks:
            self.codebooks[name] = self.bundle.load_codebook(name)
        return self.codebooks[name]

    def open_search(self, name: str, entries: slice | None = None) -> Search:
        key = name if entries is None else f"{name}[{entries.start}:{entries.stop}]"
        if key not in self.searches:
            self.searches[key] = self.backend.open_search(self.load_codebook(name)[entries or slice(None)])
        return self.searches[key]
