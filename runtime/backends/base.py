"""What a backend must do. Its precision and its kind of device stay inside it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from sc_runtime.bundle.store import Bundle
from sc_runtime.cuda.device import Device
from sc_runtime.networks import Graph, Search

ENCODE_BATCH = 16  #: windows that a GPU encodes together; a larger batch gains nothing


class Backend(Protocol):
    """Opens the graphs of a bundle on one kind of device.

    Several threads may use it, its graphs and its searches at once. It can be pickled: another process then makes a
    backend with the same settings.
    """

    name: str
    device: str  #: what the graphs run on, in words
    encode_batch: int  #: windows that are worth encoding together

    @property
    def gpu(self) -> Device | None:
        """The GPU whose memory the graphs work in; None for the host's."""
        ...

    def open(self, bundle: Bundle, graph: str) -> Graph:
        """Verify and load one graph. Raises BundleError or BackendError."""
        ...

    def open_search(self, codebook: np.ndarray) -> Search:
        """A search in `codebook`, float32 [entries, D]. Raises BundleError, BackendError."""
        ...
