"""Channels last, from the first convolution to the last.

Tensor cores multiply with channels last, and so do `com.microsoft.GroupNorm` and `com.microsoft.NhwcConv`; with
channels first each of them transposes on both sides. This pass gives every value of four axes a twin with channels
last, as far as operators allow, and flattening a feature map to tokens then needs no transpose at all. Where an
operator needs channels first, one Transpose makes it from the twin.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .editing import CONTRIB, Editor, is_weight, read_constant, read_ints
from .group_norm import FIRST, LAST

ELEMENTWISE = ("Add", "Mul", "Sub", "Cast", "Sigmoid", "Identity", "LeakyRelu", "Tanh")
TOKENS = (0, 2, 1)  #: order of axes between [B, C, H * W] and tokens [B, H * W, C]
UNSQUEEZED, UNSQUEEZED_LAST = [2, 3], [1, 2]  #: axes that make [B, C] a value of four axes


def move_channels_last(model: ir.Model) -> int:
    """Pass for ONNX Runtime. Returns the number of convolutions that take channels last."""
    if not any(node.op_type == "GroupNorm" for node in model.graph):
        return 0
    mover = Mover(model)
    for node in list(model.graph):
        mover.visit(node)
    for value, twin in mover.twins.items():
        producer = value.producer()
        if producer is not None and (value.uses() or value.is_graph_output()):
            mover.restore(value, twin)
    model.opset_imports[CONTRIB] = 1
    return mover.convolutions


class Mover:
    """Makes the twins, node by node in the graph's order."""

    def __init__(self, model: ir.Model) -> None:
        self.editor = Editor(model)
        self.twins: dict[ir.Value, ir.Value] = {}  #: value [B, C, H, W] -> the same [B, H, W, C]
        self.made: set[ir.Node] = set()
        self.convolutions = 0

    def visit(self, node: ir.Node) -> None:
        if node.domain:
            return
        if node.op_type == "Conv" and count_axes(node.inputs[1]) == 4:
            self.move_convolution(node)
        elif node.op_type == "Transpose":
            self.visit_transpose(node)
        elif node.op_type in ELEMENTWISE:
            self.move_elementwise(node)
        elif node.op_type == "Concat":
            self.move_concat(node)
        elif node.op_type == "Resize":
            self.move_resize(node)

    def find(self, value: ir.Value | None, before: ir.Node) -> ir.Value | None:
        """The twin of an input, if it has one or can cheaply get one."""
        if value is None:
            return None
        if value in self.twins:
            return self.twins[value]
        if is_weight(value):
            return self.turn_weight(value, before)
        producer = value.producer()
        kind = value.dtype
        if producer is not None and producer.op_type == "Cast" and producer.inputs[0] is not None and kind is not None:
            inner = self.find_unsqueezed(producer.inputs[0], before)
            return None if inner is None else self.editor.cast(before, inner, kind)
        return self.find_unsqueezed(value, before)

    def turn_weight(self, value: ir.Value, before: ir.Node) -> ir.Value | None:
        axes = count_axes(value)
        if axes == 0 or (value.const_value is not None and value.const_value.size == 1):
            return value
        if axes == 3:
            return self.editor.add(before, "Transpose", [value], {"perm": (1, 2, 0)}, dtype=value.dtype)
        return self.turn(value, before) if axes == 4 else None

    def turn(self, value: ir.Value, before: ir.Node) -> ir.Value:
        return self.editor.add(before, "Transpose", [value], {"perm": LAST}, dtype=value.dtype)

    def find_unsqueezed(self, value: ir.Value, before: ir.Node) -> ir.Value | None:
        """[B, C] with two axes of size 1 behind it, with these before the channels."""
        producer = value.producer()
        if producer is None or producer.op_type != "Unsqueeze":
            return None
        axes = read_constant(producer.inputs[1])
        if axes is None or axes.tolist() != UNSQUEEZED:
            return None
        given = self.editor.constant(UNSQUEEZED_LAST)
        return self.editor.add(before, "Unsqueeze", [producer.inputs[0], given], dtype=value.dtype)

    def keep(self, value: ir.Value, twin: ir.Value) -> None:
        self.twins[value] = twin
        shape = value.shape
        if shape is not None and len(shape) == 4:
            twin.shape = ir.Shape([shape[axis] for axis in LAST])

    def move_convolution(self, node: ir.Node) -> None:
        source, weight = node.inputs[0], node.inputs[1]
        assert source is not None and weight is not None
        twin = self.twins.get(source) or self.turn(source, node)
        self.twins.setdefault(source, twin)
        inputs = [twin, self.turn(weight, node), *node.inputs[2:]]
        made = self.editor.add(
            node, "NhwcConv", inputs, dict(node.attributes), dtype=node.outputs[0].dtype, domain=CONTRIB
        )
        self.keep(node.outputs[0], made)
        self.convolutions += 1

    def visit_transpose(self, node: ir.Node) -> None:
        """The two transposes around a GroupNorm, and those between feature maps and tokens."""
        order, source, result = read_ints(node, "perm"), node.inputs[0], node.outputs[0]
        if source is None:
            return
        if order == LAST and source in self.twins:
            result.replace_all_uses_with(self.twins[source])
        elif order == FIRST:
            self.keep(result, source)
        elif order == TOKENS:
            flattened = source.producer()
            if flattened is not None and flattened.op_type == "Reshape" and flattened.inputs[0] in self.twins:
                twin = self.twins[flattened.inputs[0]]
                shape = twin.shape
                if shape is None or not all(isinstance(size, int) for size in list(shape)[1:]):
                    return
                _, height, width, channels = shape
                tokens = self.editor.constant([0, int(height) * int(width), int(channels)])  # type: ignore[arg-type]
                made = self.editor.add(node, "Reshape", [twin, tokens], like=result)
                result.replace_all_uses_with(made)
                return
            self.spread_tokens(node)

    def spread_tokens(self, node: ir.Node) -> None:
        """Tokens [B, H * W, C], transposed and reshaped to [B, C, H, W]: their twin is one reshape away."""
        source = node.inputs[0]
        for user in node.outputs[0].consumers():
            shape = user.outputs[0].shape
            if user.op_type != "Reshape" or shape is None or len(shape) != 4:
                continue
            if not all(isinstance(size, int) for size in list(shape)[1:]):
                continue
            _, channels, height, width = shape
            spread = self.editor.constant([0, int(height), int(width), int(channels)])  # type: ignore[arg-type]
            made = self.editor.add(node, "Reshape", [source, spread], dtype=user.outputs[0].dtype)
            self.keep(user.outputs[0], made)

    def move_elementwise(self, node: ir.Node) -> None:
        if count_axes(node.outputs[0]) != 4 or not any(value in self.twins for value in node.inputs):
            return
        inputs = [self.find(value, node) for value in node.inputs]
        if None in inputs:
            return
        made = self.editor.add(node, node.op_type, inputs, dict(node.attributes), dtype=node.outputs[0].dtype)
        self.keep(node.outputs[0], made)

    def move_concat(self, node: ir.Node) -> None:
        inputs = [self.twins.get(value) for value in node.inputs if value is not None]
        if node.attributes["axis"].as_int() == 1 and None not in inputs:
            made = self.editor.add(node, "Concat", inputs, {"axis": 3}, dtype=node.outputs[0].dtype)
            self.keep(node.outputs[0], made)

    def move_resize(self, node: ir.Node) -> None:
        """By scales, which are a constant."""
        source, scales = node.inputs[0], read_constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if source not in self.twins or scales is None or len(scales) != 4 or len(node.inputs) > 3:
            return
        turned = self.editor.constant(np.ascontiguousarray(scales[list(LAST)]))
        made = self.editor.add(
            node,
            "Resize",
            [self.twins[source], node.inputs[1], turned],
            dict(node.attributes),
            dtype=node.outputs[0].dtype,
        )
        self.keep(node.outputs[0], made)

    def restore(self, value: ir.Value, twin: ir.Value) -> None:
        """Let what still uses `value` take it from its twin, unless one of the two is the other one's transpose."""
        producer, maker = value.producer(), twin.producer()
        assert producer is not None and maker is not None
        if producer.inputs[0] is twin or maker.inputs[0] is value:
            return
        made = self.editor.add(producer, "Transpose", [twin], {"perm": FIRST}, like=value)
        outputs = self.editor.graph.outputs
        for place, output in enumerate(outputs):
            if output is value:
                outputs[place] = made
                name, value.name = value.name, f"{value.name}.first"
                made.name = name
        value.replace_all_uses_with(made)
        move_behind(self.editor.graph, made, twin)


def move_behind(graph: ir.Graph, made: ir.Value, twin: ir.Value) -> None:
    """Put the node of `made` right behind that of `twin`."""
    node, source = made.producer(), twin.producer()
    assert node is not None and source is not None
    graph.remove(node)
    graph.insert_after(source, node)


def count_axes(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)
