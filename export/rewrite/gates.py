"""Gated products, GEGLU, as two products: (x V + b) GELU(x W + c) without a split of [x V + b, x W + c].

The split moves the widest values of a transformer block once more through memory: 1.2 of 15.8 ms in a T-UNet call of 32
branches on an H100. Bias and GELU become one operator too.
"""

from __future__ import annotations

import onnx_ir as ir

from .editing import CONTRIB, Editor, find_axis, find_producer, is_weight

GELU = "Gelu"


def split_gates(model: ir.Model) -> int:
    """Pass for ONNX Runtime, after `fuse_gelu`. Returns the number of gates."""
    editor, changed = Editor(model), 0
    for node in list(model.graph):
        if node.op_type == "Split" and (found := find_gate(node)) is not None:
            source, weight, bias = found
            size = find_axis(bias, 0)
            assert size is not None
            gelu = node.outputs[1].consumers()[0]
            halves = [take_half(editor, node, weight, 1, size, place) for place in (0, 1)]
            biases = [take_half(editor, node, bias, 0, size, place) for place in (0, 1)]
            values, gates = (editor.add(node, "MatMul", [source, half], like=node.outputs[0]) for half in halves)
            added = editor.add(node, "Add", [values, biases[0]], like=node.outputs[0])
            gated = editor.add(node, "BiasGelu", [gates, biases[1]], like=gelu.outputs[0], domain=CONTRIB)
            node.outputs[0].replace_all_uses_with(added)
            gelu.outputs[0].replace_all_uses_with(gated)
            changed += 1
    return changed


def find_gate(split: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """x, weights [K, 2 N] and bias [2 N], if `split` halves their product and its second half goes to GELU alone."""
    if len(split.outputs) != 2 or len(split.outputs[1].consumers()) != 1:
        return None
    gelu, added = split.outputs[1].consumers()[0], find_producer(split.inputs[0], "Add")
    if (gelu.op_type, gelu.domain) != (GELU, CONTRIB) or added is None or len(added.outputs[0].consumers()) != 1:
        return None
    product = find_producer(added.inputs[0], "MatMul")
    bias = added.inputs[1]
    if product is None or bias is None or not is_weight(bias) or not is_weight(product.inputs[1]):
        return None
    source, weight = product.inputs
    width, halves = find_axis(bias, 0), [find_axis(value, 2) for value in split.outputs]
    if source is None or weight is None or width is None or halves != [width // 2] * 2:
        return None
    return source, weight, bias


def take_half(editor: Editor, before: ir.Node, weight: ir.Value, axis: int, size: int, place: int) -> ir.Value:
    """The first or the second half of `weight` along `axis`, which is `size` long. Engines compute it at load."""
    start, end = place * size // 2, (place + 1) * size // 2
    given = [editor.constant([number]) for number in (start, end, axis)]
    return editor.add(before, "Slice", [weight, *given], dtype=weight.dtype)
