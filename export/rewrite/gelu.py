"""GELU as one operator: x / 2 (1 + erf(x / sqrt 2)), which the exporter writes as five."""

from __future__ import annotations

import math

import onnx_ir as ir

from .editing import CONTRIB, Editor, find_producer, find_user, read_constant


def fuse_gelu(model: ir.Model) -> int:
    """Pass for ONNX Runtime."""
    editor, changed = Editor(model), 0
    for node in list(model.graph):
        if node.op_type == "Erf" and (found := find_gelu(node)) is not None:
            source, result = found
            made = editor.add(node, "Gelu", [source], like=result, domain=CONTRIB)
            result.replace_all_uses_with(made)
            changed += 1
    if changed:
        model.opset_imports[CONTRIB] = 1
    return changed


def find_gelu(erf: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """x and GELU(x) around `erf`, or None if it is part of something else."""
    divided, added = find_producer(erf.inputs[0], "Div"), find_user(erf.outputs[0], "Add")
    if divided is None or added is None or not holds(divided.inputs[1], math.sqrt(2)):
        return None
    source, product = divided.inputs[0], find_user(added.outputs[0], "Mul")
    if source is None or product is None or not holds(find_other(added, erf.outputs[0]), 1.0):
        return None
    factor = find_other(product, added.outputs[0])
    if factor is source:  # x (1 + erf) and then a half
        last = find_user(product.outputs[0], "Mul")
        if last is None or not holds(find_other(last, product.outputs[0]), 0.5):
            return None
        return source, last.outputs[0]
    half = find_producer(factor, "Mul")  # half of x, and then (1 + erf)
    if half is not None and source in half.inputs and holds(find_other(half, source), 0.5):
        return source, product.outputs[0]
    if holds(factor, 0.5):  # half of (1 + erf), and then x
        last = find_user(product.outputs[0], "Mul")
        if last is not None and find_other(last, product.outputs[0]) is source:
            return source, last.outputs[0]
    return None


def find_other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The input of a node of two that is not `value`."""
    first, second = node.inputs
    return second if first is value else first


def holds(value: ir.Value | None, number: float) -> bool:
    """Whether a value is the constant `number`, to half precision."""
    constant = read_constant(value)
    return constant is not None and constant.size == 1 and math.isclose(float(constant.item()), number, rel_tol=1e-3)
