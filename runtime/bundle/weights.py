"""Weights of a graph, mapped from the bundle's files by the manifest's table of weights."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sc_runtime.errors import BundleError

from .manifest import WeightEntry


class MappedWeights:
    """The weights `entries` (by name) of a graph whose files lie in `folder`.

    `arrays`: name -> read-only view of the file that holds the weight, in the shape and dtype of its entry. Pages are
    read when they are touched, and `release` gives them back. Raises BundleError if a file is missing or too short.
    """

    def __init__(self, folder: Path, entries: Mapping[str, WeightEntry]) -> None:
        self.folder = folder
        self._maps: dict[str, mmap.mmap] = {}
        self.arrays = {name: self._view(name, entry) for name, entry in entries.items()}

    def release(self) -> None:
        """Give back the memory of all pages read so far, where the system can. They are read again when touched."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)

    def _view(self, name: str, entry: WeightEntry) -> np.ndarray:
        order = entry.permutation or tuple(range(len(entry.shape)))
        stored = [entry.shape[axis] for axis in order]
        try:
            flat = np.frombuffer(self._map(entry.file), entry.dtype, math.prod(stored), entry.offset)
        except (OSError, ValueError, TypeError) as error:
            raise BundleError(
                f"{self.folder / entry.file}: the weight {name} cannot be read ({error})",
                f"{list(stored)} {entry.dtype} at byte {entry.offset}",
            ) from error
        return flat.reshape(stored).transpose(np.argsort(order))

    def _map(self, file: str) -> mmap.mmap:
        if file not in self._maps:
            with (self.folder / file).open("rb") as opened:
                self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[file]
