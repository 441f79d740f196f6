"""ONNX Runtime's operators that its CPU provider lacks, in terms of ONNX's own: what the rewritten graphs mean."""

from __future__ import annotations

import onnx_ir as ir

from sc_runtime.export.rewrite.editing import CONTRIB, Editor, remove_unused
from sc_runtime.export.rewrite.group_norm import FIRST, LAST

OPSET = 21  #: has GroupNormalization with a gain for each channel


def expand_operators(model: ir.Model, kind: ir.DataType = ir.DataType.FLOAT) -> None:
    """Replace `NhwcConv`, `GroupNorm` and `MultiHeadAttention` of a packed product by nodes of ONNX.

    kind: type of the activations. GroupNorm computes in float32 in any case, as ONNX Runtime's does.
    """
    editor = Editor(model)
    for node in list(model.graph):
        if node.domain != CONTRIB:
            continue
        if node.op_type == "NhwcConv":
            expand_convolution(editor, node)
        elif node.op_type == "GroupNorm":
            expand_group_norm(editor, node, kind)
        elif node.op_type == "MultiHeadAttention" and len(node.inputs) == 1:
            expand_packed(editor, node)
    version = max(model.opset_imports[""], OPSET)
    model.opset_imports[""] = model.graph.opset_imports[""] = version
    remove_unused(model)


def expand_convolution(editor: Editor, node: ir.Node) -> None:
    """[B, H, W, C] and weights [M, kH, kW, C]."""
    first, weight = (editor.add(node, "Transpose", [value], {"perm": FIRST}, like=None) for value in node.inputs[:2])
    made = editor.add(node, "Conv", [first, weight, *node.inputs[2:]], dict(node.attributes))
    replace(node, editor.add(node, "Transpose", [made], {"perm": LAST}))


def expand_group_norm(editor: Editor, node: ir.Node, kind: ir.DataType) -> None:
    assert node.attributes["channels_last"].as_int() == 1
    first = editor.add(node, "Transpose", [node.inputs[0]], {"perm": FIRST}, dtype=kind)
    first = editor.cast(node, first, ir.DataType.FLOAT)
    attributes = {"num_groups": node.attributes["groups"].as_int(), "epsilon": node.attributes["epsilon"].as_float()}
    made = editor.add(node, "GroupNormalization", [first, *node.inputs[1:]], attributes, dtype=first.dtype)
    if node.attributes["activation"].as_int():
        made = editor.add(node, "Mul", [made, editor.add(node, "Sigmoid", [made])], dtype=first.dtype)
    replace(node, editor.add(node, "Transpose", [editor.cast(node, made, kind)], {"perm": LAST}))


def expand_packed(editor: Editor, node: ir.Node) -> None:
    """[B, length, heads, 3, channels] -> queries, keys and values [B, length, heads * channels]."""
    parts = []
    for part in range(3):
        taken = editor.add(node, "Gather", [node.inputs[0], editor.constant([part])], {"axis": 3})
        parts.append(editor.add(node, "Reshape", [taken, editor.constant([0, 0, -1])]))
    replace(node, editor.add(node, "MultiHeadAttention", parts, dict(node.attributes), domain=CONTRIB))


def replace(node: ir.Node, made: ir.Value) -> None:
    node.outputs[0].replace_all_uses_with(made)
