"""What a bundle holds, opened on a backend: graphs, codebooks and searches in them, each when first needed."""

from __future__ import annotations

import numpy as np

from .backends.base import Backend, CompiledGraph, Graph, ResidentBackend, Search
from .bundle import Bundle
from .centroids import NearestCentroid


class Parts:
    """The parts of `bundle` on `backend`. Opening one raises BundleError or BackendError.

    Two threads may open different parts, but not the same one.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle, self.backend = bundle, backend
        self.graphs: dict[str, Graph] = {}
        self.codebooks: dict[str, np.ndarray] = {}
        self.searches: dict[str, Search] = {}

    def open_graph(self, name: str) -> Graph:
        """The graph `name` of the bundle, verified and loaded."""
        if name not in self.graphs:
            self.graphs[name] = self.backend.open(self.bundle, name)
        return self.graphs[name]

    def prepare_graph(self, name: str, **axes: int) -> Graph:
        """The same, ready to run inputs whose dynamic axes have these sizes."""
        graph = self.open_graph(name)
        if isinstance(graph, CompiledGraph):
            inputs = self.bundle.manifest.graphs[name].inputs
            graph.prepare({key: spec.resolve(**axes) for key, spec in inputs.items()})
        return graph

    def run(self, graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        return self.open_graph(graph).run(feeds)

    def load_codebook(self, name: str) -> np.ndarray:
        """The codebook `name` ("acoustic", "semantic-32768", ...), float32 [entries, D], mapped from its file."""
        if name not in self.codebooks:
            self.codebooks[name] = self.bundle.load_codebook(name)
        return self.codebooks[name]

    def open_search(self, name: str, entries: slice | None = None) -> Search:
        """A nearest-neighbour search in the codebook `name`, or among `entries` of it, counted from their start."""
        key = name if entries is None else f"{name}[{entries.start}:{entries.stop}]"
        if key not in self.searches:
            codebook = self.load_codebook(name)[entries or slice(None)]
            if isinstance(self.backend, ResidentBackend):
                self.searches[key] = self.backend.open_search(codebook)
            else:
                self.searches[key] = NearestCentroid(codebook)
        return self.searches[key]
