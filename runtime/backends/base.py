"""The one Protocol of a backend. No precision or device flag leaks above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ..bundle import Bundle

Arrays = Mapping[str, np.ndarray]


class Graph(Protocol):
    """One network, ready to run."""

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Inputs by name to outputs by name, with the shapes and dtypes of the manifest."""
        ...


class Backend(Protocol):
    """Opens graphs of a bundle on one kind of device."""

    name: str
    device: str  #: what the graphs run on, in words
    encode_batch: int  #: windows that are worth encoding together

    def open(self, bundle: Bundle, graph: str) -> Graph:
        """Verify and load one graph. Raises BundleError or BackendError."""
        ...


def first_line(error: BaseException) -> str:
    """What a library says went wrong, without its stack."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
