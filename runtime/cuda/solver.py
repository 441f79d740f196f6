"""kernels/solver.cu: one step of a diffusion solver, and the noise that it needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .device import Device

SOURCE = "solver.cu"
THREADS = 128  #: of a block
VALUES = 8  #: values of a latent that one thread computes


class SolverKernel:
    """Launches the kernel on `device` for latents of `size` values; `domain` is the second word of the noise's key.

    Raises BackendError where the kernel cannot be compiled or loaded.
    """

    def __init__(self, device: Device, size: int, domain: int) -> None:
        self._device, self._blocks, self._domain = device, size // VALUES // THREADS, domain
        self._kernel = device.load_kernels(SOURCE, THREADS, {"advance": 0})["advance"]

    def advance(self, addresses: Sequence[int], batch: int) -> None:
        """Enqueue the row of the table that the counter names, for `batch` windows. The counter then names the next.

        `addresses` are the kernel's arguments up to `counter`, which is int32 [2]: a row, and 0.
        """
        arguments = (*addresses, self._domain, np.int32(batch))
        self._device.launch(self._kernel, (self._blocks, batch), arguments)
