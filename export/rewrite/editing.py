"""What all passes share: walking a graph and adding nodes to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

CONTRIB = "com.microsoft"  #: domain of ONNX Runtime's own operators
PREFIX = "rewritten."  #: of the names of new values; a number follows, which no other has
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


class Editor:
    """Adds nodes to one graph, each before a given node. One at a time works on a graph."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        made = [value.name or "" for node in model.graph for value in node.outputs] + list(model.graph.initializers)
        self._count = max((int(name.split(".")[1]) for name in made if name.startswith(PREFIX)), default=0)

    def add(
        self,
        before: ir.Node,
        operator: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        like: ir.Value | None = None,
        dtype: ir.DataType | None = None,
        shape: Sequence[int | str | None] | None = None,
        domain: str = "",
        outputs: int = 1,
    ) -> ir.Value:
        """The first output of a new node. Its type is that of `like` unless `dtype` and `shape` say otherwise."""
        node = ir.node(operator, list(inputs), attributes or {}, domain=domain, num_outputs=outputs)
        made = node.outputs[0]
        self.name(made, operator)
        kind = dtype or (like.dtype if like is not None else None)
        made.type = None if kind is None else ir.TensorType(kind)
        made.shape = ir.Shape(shape) if shape is not None else like.shape if like is not None else None
        self.graph.insert_before(before, node)
        return made

    def name(self, value: ir.Value, operator: str) -> None:
        self._count += 1
        value.name = f"{PREFIX}{self._count}.{operator.lower()}"

    def constant(self, array: np.ndarray | Sequence[int]) -> ir.Value:
        """A small constant; whole numbers become int64."""
        content = np.asarray(array, np.int64) if not isinstance(array, np.ndarray) else array
        self._count += 1
        tensor = ir.tensor(content, name=f"{PREFIX}{self._count}.constant")
        shape, kind = ir.Shape(content.shape), ir.TensorType(tensor.dtype)
        value = ir.Value(name=tensor.name, shape=shape, type=kind, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def cast(self, before: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` in the type `dtype`: itself if it has that type."""
        if value.dtype == dtype:
            return value
        return self.add(before, "Cast", [value], {"to": dtype.value}, like=value, dtype=dtype)


def is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.producer() is None


def find_producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node that computes `value`, if it is one of `operators`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in operators and not node.domain else None


def skip_casts(value: ir.Value | None) -> ir.Value | None:
    """What a value was before it was only converted between floating-point types."""
    while (node := find_producer(value, "Cast")) is not None and node.inputs[0] is not None:
        if node.inputs[0].dtype not in FLOATS:
            break
        value = node.inputs[0]
    return value


def find_user(value: ir.Value, *operators: str) -> ir.Node | None:
    """The only user of a value, past casts between floating-point types, if it is one of `operators`."""
    users = value.consumers()
    if len(users) != 1 or value.is_graph_output():
        return None
    node = users[0]
    if node.op_type == "Cast" and not node.domain and node.outputs[0].dtype in FLOATS:
        return find_user(node.outputs[0], *operators)
    return node if node.op_type in operators and not node.domain else None


def read_ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def find_axis(value: ir.Value | None, axis: int) -> int | None:
    """The size of an axis if it is known."""
    if value is None or value.shape is None or len(value.shape) <= axis:
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def read_constant(value: ir.Value | None) -> np.ndarray | None:
    """The content of a small constant."""
    if value is None or value.const_value is None or value.const_value.size > 16:
        return None
    return value.const_value.numpy()


def remove_unused(model: ir.Model) -> None:
    """Remove nodes whose results nothing uses, and then weights that no node uses."""
    graph = model.graph
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
