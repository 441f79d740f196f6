"""A bidirectional LSTM and a linear map in OpenVINO, taken apart for speed and memory.

An LSTM's gates are W x + b + R h. W x + b of many positions and windows is one matrix product. Only R h and the gates
run position by position, in a loop inside OpenVINO. The loop takes one direction at a time and all windows at once, so
that R is read from memory as rarely as possible. bench/kernels/recurrence.py compares it with OpenVINO's LSTMSequence,
which gains nothing from a batch and holds 3.5 times the weights, and with ONNX Runtime's LSTM, in which each thread
reads all of R for its part of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count, takewhile
from typing import Any

import numpy as np

from sc_runtime.backends.failures import describe_failure
from sc_runtime.bundle.manifest import WeightEntry
from sc_runtime.networks import Arrays

from .graphs import find_reason

STRIDES = (1, -1)  #: of the two directions, in ONNX's order
OUTPUT = "encoder_output_linear.weight"  #: [D, 2H]
ROWS = 384  #: positions times windows at a time: enough for a fast product, few enough for a small result


class RecurrentGraph:
    """[feature, centroid] [B, L, 2D] -> acoustic features [B, L, D] (paper, eq. 2), for any B and L.

    weights: by the names of the exported module, float32; for each layer n the weights "w{n}" [2, 4H, I] and "r{n}"
        [2, 4H, H] and the biases "b{n}" [2, 8H] of ONNX's LSTM, and OUTPUT [D, 2H].
    settings: OpenVINO's for the CPU. In bfloat16 the factors and the result of a matrix product are rounded; gates and
        state are float32.
    release: gives back the memory of the weights that were read. It is called after each weight is compiled, so that
        what OpenVINO has packed is not in memory twice while it packs the next.

    Raises RuntimeError for what OpenVINO refuses.
    """

    def __init__(
        self,
        core: Any,
        weights: Mapping[str, np.ndarray],
        settings: dict[str, Any],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.weights = weights  # the compiled pieces refer to their memory

        def pack(model: Any) -> Any:
            compiled = core.compile_model(model, "CPU", settings)
            shapes = (
                [1 if axis.is_dynamic else axis.get_length() for axis in port.partial_shape] for port in model.inputs
            )
            infer(compiled, *(np.zeros(shape, np.float32) for shape in shapes))  # packs, in bfloat16
            release()
            return compiled

        self.layers = [
            [
                Direction(pack, w, r, b, stride)
                for w, r, b, stride in zip(*(weights[f"{kind}{layer}"] for kind in "wrb"), STRIDES, strict=True)
            ]
            for layer in takewhile(lambda layer: f"w{layer}" in weights, count())
        ]
        self.output = pack(build_output(weights[OUTPUT]))

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """`feeds` has "features"; the result has "acoustic"."""
        x = np.ascontiguousarray(feeds["features"].transpose(1, 0, 2))
        try:
            for layer in self.layers:
                x = np.concatenate([direction.run(x) for direction in layer], axis=2)
            (acoustic,) = infer(self.output, x)
        except (RuntimeError, MemoryError) as error:
            what = f"OpenVINO failed on features {list(feeds['features'].shape)}"
            raise describe_failure(what, error, find_reason(error)) from error
        return {"acoustic": np.ascontiguousarray(acoustic.transpose(1, 0, 2))}


def is_recurrent(table: Mapping[str, WeightEntry]) -> bool:
    """Whether the table of weights is that of an acoustic encoder as this program exports it, in float32."""
    return {"w0", "r0", "b0", OUTPUT} <= {name for name, entry in table.items() if entry.dtype == "float32"}


class Direction:
    """One direction of one layer. `pack` compiles a model; W [4H, I], R [4H, H] and b [8H] are ONNX's."""

    def __init__(self, pack: Callable[[Any], Any], w: np.ndarray, r: np.ndarray, b: np.ndarray, stride: int) -> None:
        self.width, self.stride = r.shape[1], stride
        self.project, self.recur = pack(build_projection(w, b)), pack(build_recurrence(r, stride))

    def run(self, x: np.ndarray) -> np.ndarray:
        """x [L, B, I] -> hidden states [L, B, H]."""
        length, batch, _ = x.shape
        y = np.empty((length, batch, self.width), np.float32)
        hidden, cell = np.zeros((2, batch, self.width), np.float32)
        size = max(1, ROWS // batch)
        for start in range(0, length, size)[:: self.stride]:
            part = slice(start, start + size)
            (gates,) = infer(self.project, x[part])
            y[part], hidden, cell = infer(self.recur, gates, hidden, cell)
        return y


def build_projection(weight: np.ndarray, biases: np.ndarray) -> Any:
    """x [L, B, I] -> W x + b [L, B, 4H]; ONNX keeps b as two vectors that are added."""
    from openvino import Model, opset13

    x = opset13.parameter([-1, -1, weight.shape[1]], np.float32)
    bias = biases.reshape(2, -1).sum(axis=0)
    return Model([opset13.add(opset13.matmul(x, share(weight), False, True), bias)], [x])


def build_recurrence(weight: np.ndarray, stride: int) -> Any:
    """W x + b [L, B, 4H], h and c [B, H] -> all h [L, B, H], the last h and c [B, H]; backwards for `stride` -1.

    Gates in ONNX's order i, o, f, c: c_t = σ(f) c_(t-1) + σ(i) tanh(c), h_t = σ(o) tanh(c_t).
    """
    from openvino import Model, opset13

    width = weight.shape[1]

    def state() -> Any:
        return opset13.parameter([-1, width], np.float32)

    projected, hidden, cell = opset13.parameter([1, -1, 4 * width], np.float32), state(), state()
    gates = opset13.add(opset13.squeeze(projected, 0), opset13.matmul(hidden, share(weight), False, True))
    ungated, candidate = opset13.variadic_split(gates, 1, [3 * width, width]).outputs()
    i, o, f = opset13.split(opset13.sigmoid(ungated), 1, 3).outputs()
    next_cell = opset13.add(opset13.multiply(f, cell), opset13.multiply(i, opset13.tanh(candidate)))
    next_hidden = opset13.multiply(o, opset13.tanh(next_cell))
    results = [opset13.result(node) for node in (opset13.unsqueeze(next_hidden, 0), next_hidden, next_cell)]
    every, last_hidden, last_cell = (node.output(0) for node in results)

    loop = opset13.tensor_iterator()
    loop.set_function(Model(results, [projected, hidden, cell]))
    inputs = [opset13.parameter([-1, -1, 4 * width], np.float32), state(), state()]
    start, end = (0, -1) if stride > 0 else (-1, 0)
    loop.set_sliced_input(projected, inputs[0].output(0), start, stride, 1, end, 0)
    loop.set_merged_input(hidden, inputs[1].output(0), last_hidden)
    loop.set_merged_input(cell, inputs[2].output(0), last_cell)
    outputs = [
        loop.get_concatenated_slices(every, start, stride, 1, end, 0),
        loop.get_iter_value(last_hidden, -1),
        loop.get_iter_value(last_cell, -1),
    ]
    return Model(outputs, inputs)


def build_output(weight: np.ndarray) -> Any:
    """x [L, B, 2H] -> x W^T [L, B, D], for W [D, 2H], which may lie in memory with its axes in either order."""
    from openvino import Model, opset13

    x = opset13.parameter([-1, -1, weight.shape[1]], np.float32)
    rows = weight.flags.c_contiguous
    return Model([opset13.matmul(x, share(weight if rows else weight.T), False, rows)], [x])


def share(array: np.ndarray) -> Any:
    """A constant that refers to the memory of `array`, float32 and row-major."""
    from openvino import Shape, Tensor, Type
    from openvino.op import Constant

    return Constant(Tensor(array, Shape(array.shape), Type.f32))


def infer(compiled: Any, *arrays: np.ndarray) -> list[np.ndarray]:
    """One run of a compiled model, in a request of its own."""
    from openvino import Shape, Tensor, Type

    request = compiled.create_infer_request()
    for place, array in enumerate(arrays):
        request.set_input_tensor(place, Tensor(array, Shape(array.shape), Type.f32))
    request.infer()
    return [tensor.data for tensor in request.output_tensors]
