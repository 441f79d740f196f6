"""The one Protocol of a backend. No precision or device flag leaks above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..semanticodec.presets import Sampling
    from ..semanticodec.samplers import Noise

Arrays = Mapping[str, np.ndarray]  #: by the names of inputs or outputs
Shapes = Mapping[str, tuple[int, ...]]  #: by the same

GPU_WINDOWS = 16  #: run together on a GPU: one after the other from here on costs no more


class Graph(Protocol):
    """One network, ready to run."""

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Inputs by name to outputs by name, with the shapes and dtypes of the manifest."""
        ...


@runtime_checkable
class CompiledGraph(Graph, Protocol):
    """A graph that is loaded for inputs of given shapes, the first time it runs them or before."""

    def prepare(self, shapes: Shapes) -> None:
        """Load it for inputs of these shapes. Raises BackendError."""
        ...


class Backend(Protocol):
    """Opens graphs of a bundle on one kind of device."""

    name: str
    device: str  #: what the graphs run on, in words
    encode_batch: int  #: windows that are worth encoding together

    def open(self, bundle: Bundle, graph: str) -> Graph:
        """Verify and load one graph. Raises BundleError or BackendError."""
        ...


class Search(Protocol):
    """Nearest-neighbour search in one codebook."""

    def search(self, queries: np.ndarray) -> np.ndarray:
        """Indices int32 [n] of the vectors nearest to `queries` float32 [n, D]; of equals, the lowest."""
        ...


class Decoder(Protocol):
    """The stages from features to waveform, on a device that keeps what passes between them."""

    batch: int  #: windows that are worth decoding together

    def run(self, features: np.ndarray, sampling: Sampling, noise: Noise, windows: range, samples: int) -> np.ndarray:
        """features float32 [B, L, 2D] of `windows` -> waveforms [B, n], of which the first `samples` are wanted.

        `noise` is asked for these windows. The same as the stages one by one, within the arithmetic's tolerance.
        """
        ...


@runtime_checkable
class ResidentBackend(Backend, Protocol):
    """A backend whose memory is not the host's, and which therefore does more than single graphs at a time."""

    def open_decoder(self, bundle: Bundle) -> Decoder:
        """Raises BundleError or BackendError."""
        ...

    def open_search(self, codebook: np.ndarray) -> Search:
        """Raises BackendError."""
        ...


def first_line(error: BaseException | str) -> str:
    """What a library says went wrong, without its stack."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
