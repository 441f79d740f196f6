"""Weights that float16 holds exactly are stored as float16: half the file, the same numbers.

The embedded model's checkpoint is float16. Its graphs compute in float32 like any other: a Cast follows each weight,
and every runtime folds it when it loads the graph.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

SMALLEST = 256  #: elements; a smaller weight is not worth a Cast


def store_half(model: ir.Model) -> None:
    """Store as float16 those float32 weights of `model` that float16 holds exactly."""
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        weight = value.const_value
        if weight is None or weight.dtype != ir.DataType.FLOAT or weight.size < SMALLEST:
            continue
        if shrink(weight.numpy()).dtype != np.float16:  # computed, not trained: the positions
            continue
        del graph.initializers[name]
        value.name = f"{name}.single"
        half = promise_half(name, weight)
        cast = ir.node("Cast", [half], attributes={"to": ir.DataType.FLOAT.value})
        single = cast.outputs[0]
        single.name, single.type, single.shape = value.name, value.type, value.shape
        value.replace_all_uses_with(single)
        graph.register_initializer(half)
        graph.insert_before(graph[0], cast)


def promise_half(name: str, weight: ir.TensorProtocol) -> ir.Value:
    """`weight` as float16 under its name, made when it is saved."""

    def fetch() -> ir.Tensor:
        return ir.Tensor(shrink(weight.numpy()), name=name)

    shape = ir.Shape(weight.shape.numpy())
    promise = ir.LazyTensor(fetch, dtype=ir.DataType.FLOAT16, shape=shape, name=name)
    return ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT16), const_value=promise)


def shrink(array: np.ndarray) -> np.ndarray:
    """The float32 `array` as float16 if float16 holds every value exactly, else unchanged."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array
