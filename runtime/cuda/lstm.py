"""A bidirectional LSTM and a linear map on a CUDA GPU: launches kernels/product.cu and kernels/recurrence.cu."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile

import numpy as np
import numpy.typing as npt

from .device import Argument, Device, Kernel, Memory
from .lstm_layout import (
    COLUMNS,
    GATES,
    MOST_WINDOWS,
    PANEL_WINDOWS,
    SIDES,
    THREADS,
    TILE_COLUMNS,
    TILE_ROWS,
    Division,
    count_slices,
    divide,
    order_rows,
    pack_recurrence,
    pad_matrix,
    pad_vector,
)
from .nearest import choose_macro, choose_stages, find_shared_bytes
from .screening import SLICE, fill_up

PRODUCT, RECURRENCE = "product.cu", "recurrence.cu"
SLOT_BYTES = 2 * SLICE * (TILE_ROWS + TILE_COLUMNS)  #: of kernels/product.cu
QUARTER = 4  #: values that a thread of `halve` rounds
OUTPUT = "encoder_output_linear.weight"  #: name of the linear map's weights

Weights = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Layer:
    """A layer's weights on the GPU: W and its biases with rows in the order direction, unit, gate; R as matrices."""

    w: Memory
    bias: Memory
    r: Memory
    inputs: int  #: columns of W, filled up


class BiLstm:
    """[B, L, H] float32 -> [B, L, D] float32: a stack of bidirectional layers of H units a direction, a linear map.

    Weights, inputs and h are rounded to float16, as in an FP16 graph. Sums, gates and cell states are float32. The
    result of a window depends neither on the other windows, nor on the number of multiprocessors, nor on `in_turn`.
    """

    def __init__(
        self,
        device: Device,
        weights: Weights,
        in_turn: bool = False,
        shared_bytes: int | None = None,
    ) -> None:
        """
        weights: by the names of the exported module: for each layer n the weights "w{n}" [2, 4H, I] and "r{n}"
            [2, 4H, H] and the biases "b{n}" [2, 8H] of ONNX's LSTM, and OUTPUT [D, 2H]. H is a multiple of 16.
        in_turn: run the directions one after the other, each on the whole GPU. More of R then stays on the chip.
        shared_bytes: that a block of the recurrence may use; by default all that the architecture has.

        Raises BackendError where the kernels cannot be compiled or loaded, or the GPU's memory does not suffice.
        """
        self.device, self._in_turn = device, in_turn
        self.width, self.features = weights["r0"].shape[2], len(weights[OUTPUT])
        assert self.width % COLUMNS == 0, self.width
        self._shared_bytes = shared_bytes or find_shared_bytes(device.arch)
        shared = {"halve": 0, "product": choose_stages(device.arch) * SLOT_BYTES}
        self.kernels = device.load_kernels(PRODUCT, THREADS, shared, choose_macro(device.arch))
        spare = max(self.divide(windows).tiles for windows in (1, MOST_WINDOWS))
        names = takewhile(lambda layer: f"w{layer}" in weights, count())
        self.layers = [self._upload(weights, layer, spare) for layer in names]
        self.output = device.upload(pad_matrix(weights[OUTPUT]))
        self.no_bias = device.upload(pad_vector(np.zeros(self.features)))

    def bind(self, features: int, acoustic: int, batch: int, length: int) -> LstmCall:
        """The LSTM for inputs [batch, length, H] at the address `features` and outputs [batch, length, D]."""
        return LstmCall(self, features, acoustic, batch, length)

    def divide(self, windows: int) -> Division:
        return divide(self.width, windows, self.device.processors, self._shared_bytes, self._in_turn)

    def load_recurrence(self, division: Division) -> Kernel:
        shared = {"recur": find_shared_bytes(self.device.arch)}  # whatever it needs: a second block has no room anyway
        return self.device.load_kernels(RECURRENCE, THREADS, shared, division.macro)["recur"]

    def _upload(self, weights: Weights, layer: int, spare: int) -> Layer:
        w, r, b = (weights[f"{kind}{layer}"] for kind in "wrb")
        inputs, upload = pad_matrix(order_rows(w)), self.device.upload
        both = b.astype(np.float32).reshape(SIDES, 2, -1).sum(axis=1)
        matrices = pack_recurrence(r.astype(np.float16, copy=False), spare)
        return Layer(upload(inputs), upload(pad_vector(order_rows(both))), upload(matrices), inputs.shape[1])


class LstmCall:
    """A `BiLstm` with its shapes and addresses fixed, and the memory that it works in.

    More than 16 windows run in groups of 16, which share that memory.
    """

    def __init__(self, lstm: BiLstm, features: int, acoustic: int, batch: int, length: int) -> None:
        self._lstm, self._features, self._acoustic, self._batch, self._length = lstm, features, acoustic, batch, length
        device, width, rows = lstm.device, lstm.width, min(batch, MOST_WINDOWS) * length
        self._division = lstm.divide(min(batch, MOST_WINDOWS))
        self._recur = lstm.load_recurrence(self._division)
        self._given = device.allocate(2 * rows * fill_up(width, SLICE))
        self._gates = device.allocate(4 * rows * SIDES * GATES * width)
        self._pitch = fill_up(SIDES * width, SLICE)
        self._outputs = [device.upload(np.zeros(rows * self._pitch, np.float16)) for _ in range(2)]
        panels = 2 * SIDES * count_slices(width) * COLUMNS * PANEL_WINDOWS * self._division.panels
        self._hidden = device.upload(np.zeros(panels, np.float16))
        self._arrivals = device.upload(np.zeros(SIDES, np.int32))

    def enqueue(self) -> None:
        """Put one run on the device's stream and return."""
        lstm, length = self._lstm, self._length
        for start in range(0, self._batch, MOST_WINDOWS):
            windows = min(self._batch - start, MOST_WINDOWS)
            rows, before = windows * length, start * length
            given, pitch = self._given.address, fill_up(lstm.width, SLICE)
            quarters = [np.int32(size) for size in (rows, lstm.width // QUARTER, pitch // QUARTER)]
            source = self._features + 4 * before * lstm.width
            blocks = -(-rows * pitch // QUARTER // THREADS)
            lstm.device.launch(lstm.kernels["halve"], blocks, [source, given, *quarters])
            for i, layer in enumerate(lstm.layers):
                gates = SIDES * GATES * lstm.width
                self._multiply(given, layer.w, layer.bias, self._gates.address, rows, gates, layer.inputs)
                out = self._outputs[i % 2].address
                self._run_recurrence(layer, out, windows)
                given = out
            target = self._acoustic + 4 * before * lstm.features
            self._multiply(given, lstm.output, lstm.no_bias, target, rows, lstm.features, self._pitch)

    def _multiply(self, left: int, right: Memory, bias: Memory, out: int, rows: int, columns: int, inputs: int) -> None:
        """out float32 [rows, columns] = left [rows, inputs] times the transposed `right`, and `bias`."""
        tiles = -(-rows // TILE_ROWS) * -(-columns // TILE_COLUMNS)
        sizes = [np.int32(size) for size in (rows, columns, inputs // SLICE)]
        arguments: list[Argument] = [left, right.address, bias.address, out, *sizes]
        self._lstm.device.launch(self._lstm.kernels["product"], tiles, arguments)

    def _run_recurrence(self, layer: Layer, out: int, windows: int) -> None:
        division, width = self._division, self._lstm.width
        given: list[Argument] = [
            self._gates.address,
            layer.r.address,
            self._hidden.address,
            out,
            self._arrivals.address,
        ]
        shape = (width, count_slices(width), self._length, windows, division.tiles, division.kept, self._pitch)
        launches = (0, 1) if division.in_turn else (0,)
        for first in launches:
            arguments = [*given, np.int32(first), *(np.int32(size) for size in shape)]
            blocks = division.blocks * SIDES // len(launches)
            self._lstm.device.launch(self._recur, blocks, arguments, together=True)
