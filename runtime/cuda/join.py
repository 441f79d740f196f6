"""kernels/join.cu: rows of two arrays side by side, or -1 at positions that have none."""

from __future__ import annotations

import numpy as np

from .device import Device

SOURCE = "join.cu"
THREADS = 128  #: of a block
GROUP = 4  #: values that a thread copies at a time; the width is a multiple of it


class RowJoiner:
    """Launches the kernel on `device` for vectors of `width` values.

    Raises BackendError where the kernel cannot be compiled or loaded.
    """

    def __init__(self, device: Device, width: int) -> None:
        assert width % GROUP == 0, width
        self._device, self._quarters = device, width // GROUP
        self._kernel = device.load_kernels(SOURCE, THREADS, {"join": 0})["join"]

    def join(self, first: int, rows: int, second: int, others: int, out: int, count: int, step: int = 1) -> None:
        """Enqueue: out float32 [count, 2 width] = row rows[i] of `first`, then row others[i] of `second`.

        All are addresses: `first` and `second` of float32 [n, width]; `rows` and `others` of int32, each entry `step`
        numbers after the one before. A negative row fills its position with -1.
        """
        arguments = (first, rows, second, others, out, np.int32(step), np.int32(self._quarters))
        self._device.launch(self._kernel, count, arguments)
