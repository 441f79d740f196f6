"""How near a tie a token is: the margin of its two candidates, in float64.

Two programs that compute the same features round them differently. A token can differ only where two entries of the
codebook are nearly equally near to the features. For features x and x' and Euclidean distances d, |d(x, c) - d(x', c)|
is at most ‖x - x'‖ for every entry c. So if a is nearest to x and b to x', then d(x, b) - d(x, a) <= 2 ‖x - x'‖.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sc_runtime.backends.base import Backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.cuda.device import Device
from sc_runtime.networks import Graph, Search

BLOCK = 1 << 22  #: float64 values of a codebook that are held at a time


@dataclass(frozen=True)
class Difference:
    """One token that two programs chose differently.

    position, column: its place in the codes.
    margin: |d(x, b) - d(x, a)| / d(x, a), where the first program chose entry a for its features x, and the second b.
    rank: number of entries that are nearer to x than b is: 1 if a and b are the two nearest, 0 if b is the nearest.
    """

    position: int
    column: int
    margin: float
    rank: int


@dataclass(frozen=True)
class Column:
    """What the first program chose one column of its codes by: features float32 [>= T, D], codebook float32 [N, D]."""

    queries: np.ndarray
    codebook: np.ndarray


def list_differences(first: np.ndarray, second: np.ndarray, columns: Sequence[Column]) -> list[Difference]:
    """Every token of `first` [T, C] that differs from `second` [T, C]. `columns` are the C of the first program."""
    found = []
    for position, number in np.argwhere(first != second):
        column = columns[number]
        distances = measure_distances(column.queries[position], column.codebook)
        ours, theirs = (float(distances[codes[position, number]]) for codes in (first, second))
        margin = abs(theirs - ours) / ours if ours else float("inf")
        found.append(Difference(int(position), int(number), margin, int((distances < theirs).sum())))
    return found


def measure_distances(query: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Euclidean distances float64 [N] of the vectors of `codebook` [N, D] from `query` [D]."""
    rows = max(1, BLOCK // codebook.shape[1])
    parts = [codebook[start : start + rows].astype(np.float64) - query for start in range(0, len(codebook), rows)]
    return np.concatenate([np.sqrt(np.square(part).sum(axis=1)) for part in parts])


def summarise_differences(differences: Sequence[Difference], tokens: int) -> dict[str, Any]:
    """For the JSON: the number of tokens, how many of them differ, and the largest margin and rank of those."""
    return {
        "tokens": tokens,
        "different": len(differences),
        "largest_margin": max((entry.margin for entry in differences), default=None),
        "largest_rank": max((entry.rank for entry in differences), default=None),
    }


class RecordingSearch:
    """A search that keeps its queries and its codebook."""

    def __init__(self, search: Search, codebook: np.ndarray) -> None:
        self.inner, self.codebook = search, codebook
        self.parts: list[np.ndarray] = []

    def search(self, queries: np.ndarray) -> np.ndarray:
        self.parts.append(queries.copy())
        return self.inner.search(queries)


class RecordingBackend:
    """A backend that keeps the queries of every search."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name, self.device, self.encode_batch = backend.name, backend.device, backend.encode_batch
        self.searches: list[RecordingSearch] = []

    @property
    def gpu(self) -> Device | None:
        return self.backend.gpu

    def open(self, bundle: Bundle, graph: str) -> Graph:
        return self.backend.open(bundle, graph)

    def open_search(self, codebook: np.ndarray) -> RecordingSearch:
        self.searches.append(RecordingSearch(self.backend.open_search(codebook), codebook))
        return self.searches[-1]

    def take_columns(self) -> list[Column]:
        """What was searched since the last call, in the order in which the searches were opened, as codes have them."""
        taken = [Column(np.concatenate(search.parts), search.codebook) for search in self.searches if search.parts]
        for search in self.searches:
            search.parts.clear()
        return taken
