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


@dataclass(frozen=True)
class Workspace:
    """Memory that calls of up to `rows` rows use, one after the other: rounded inputs, gates, h of two layers."""

    rows: int
    given: Memory
    gates: Memory
    outputs: tuple[Memory, Memory]


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
        self.pitches = fill_up(self.width, SLICE), fill_up(SIDES * self.width, SLICE)  #: of the inputs, and of h
        self._workspace: Workspace | None = None

    def bind(self, features: int, acoustic: int, batch: int, length: int) -> LstmCall:
        """The LSTM for inputs [batch, length, H] at the address `features` and outputs [batch, length, D]."""
        return LstmCall(self, features, acoustic, batch, length)

    def open_workspace(self, rows: int) -> Workspace:
        """The memory that all calls share, or larger memory if it is too small for `rows`."""
        if self._workspace is None or self._workspace.rows < rows:
            given, pitch = self.pitches
            outputs = [self.device.upload(np.zeros(rows * pitch, np.float16)) for _ in range(2)]
            gates = self.device.allocate(4 * rows * SIDES * GATES * self.width)
            self._workspace = Workspace(rows, self.device.allocate(2 * rows * given), gates, (outputs[0], outputs[1]))
        return self._workspace

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
        windows = min(batch, MOST_WINDOWS)
        self._division = lstm.divide(windows)
        self._recur = lstm.load_recurrence(self._division)
        self._workspace = lstm.open_workspace(windows * length)
        values = 2 * SIDES * count_slices(lstm.width) * COLUMNS * PANEL_WINDOWS * self._division.panels
        self._hidden = lstm.device.upload(np.zeros(values, np.float16))
        self._arrivals = lstm.device.upload(np.zeros(SIDES, np.int32))

    def enqueue(self) -> None:
        """Put one run on the device's stream and return."""
        lstm, length, space = self._lstm, self._length, self._workspace
        pitch, gates = lstm.pitches[0], SIDES * GATES * lstm.width
        for start in range(0, self._batch, MOST_WINDOWS):
            windows = min(self._batch - start, MOST_WINDOWS)
            rows, before = windows * length, start * length
            given = space.given.address
            quarters = [np.int32(size) for size in (rows, lstm.width // QUARTER, pitch // QUARTER)]
            source = self._features + 4 * before * lstm.width
            blocks = -(-rows * pitch // QUARTER // THREADS)
            lstm.device.launch(lstm.kernels["halve"], blocks, [source, given, *quarters])
            for i, layer in enumerate(lstm.layers):
                self._multiply(given, layer.w, layer.bias, space.gates.address, rows, gates, layer.inputs)
                out = space.outputs[i % 2].address
                self._run_recurrence(layer, out, windows)
                given = out
            target = self._acoustic + 4 * before * lstm.features
            self._multiply(given, lstm.output, lstm.no_bias, target, rows, lstm.features, lstm.pitches[1])

    def _multiply(self, left: int, right: Memory, bias: Memory, out: int, rows: int, columns: int, inputs: int) -> None:
        """out float32 [rows, columns] = left [rows, inputs] times the transposed `right`, and `bias`."""
        tiles = -(-rows // TILE_ROWS) * -(-columns // TILE_COLUMNS)
        sizes = [np.int32(size) for size in (rows, columns, inputs // SLICE)]
        arguments: list[Argument] = [left, right.address, bias.address, out, *sizes]
        self._lstm.device.launch(self._lstm.kernels["product"], tiles, arguments)

    def _run_recurrence(self, layer: Layer, out: int, windows: int) -> None:
        lstm, division = self._lstm, self._division
        gates, hidden = self._workspace.gates.address, self._hidden.address
        given: list[Argument] = [gates, layer.r.address, hidden, out, self._arrivals.address]
        shape = (lstm.width, count_slices(lstm.width), self._length, windows)
        sizes = (*shape, division.tiles, division.kept, lstm.pitches[1])
        sides = (0, 1) if division.in_turn else (0,)  # the first of each launch
        for side in sides:
            arguments = [*given, np.int32(side), *(np.int32(size) for size in sizes)]
            lstm.device.launch(self._recur, division.blocks * SIDES // len(sides), arguments, together=True)
