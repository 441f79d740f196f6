"""Layer normalisation without conversions around it, and with the sum that it normalises inside it.

`LayerNormalization` computes in float32 whatever its input (`stash_type`), so the conversions that an FP16 graph has on
both sides of it only cost time. `com.microsoft.SkipLayerNormalization` normalises x + y + bias and returns the sum too,
which the next residual needs. ONNX Runtime adds in float32 there if its option `enable_skip_layer_norm_strict_mode` is
set, which the backend does.
"""

from __future__ import annotations

import onnx_ir as ir

from .editing import CONTRIB, Editor, find_producer, is_weight, skip_casts


def lower_layer_norms(model: ir.Model) -> int:
    """Pass for ONNX Runtime: layer normalisation of FP16 values as they are."""
    editor, changed = Editor(model), 0
    for node in list(model.graph):
        if node.op_type != "LayerNormalization" or node.domain or node.inputs[0] is None:
            continue
        source = skip_casts(node.inputs[0])
        users = node.outputs[0].consumers()
        if source is None or source is node.inputs[0] or any(user.op_type != "Cast" for user in users):
            continue
        kind = source.dtype
        if kind is None or any(user.outputs[0].dtype != kind for user in users):
            continue
        weights = [editor.cast(node, value, kind) for value in node.inputs[1:] if value is not None]
        made = editor.add(
            node, "LayerNormalization", [source, *weights], dict(node.attributes), like=node.outputs[0], dtype=kind
        )
        for user in users:
            user.outputs[0].replace_all_uses_with(made)
        changed += 1
    return changed


def join_residuals(model: ir.Model) -> int:
    """Pass for ONNX Runtime: x + (y + bias), then layer normalisation, as one node."""
    editor, changed = Editor(model), 0
    for node in list(model.graph):
        if node.op_type != "LayerNormalization" or node.domain or len(node.inputs) != 3:
            continue
        total = find_producer(node.inputs[0], "Add")
        if total is None or not has_three_axes(total):
            continue
        x, y = total.inputs
        bias, inner = find_bias(y)
        inputs = [x, inner if bias is not None else y, node.inputs[1], node.inputs[2], bias]
        attributes = {"epsilon": node.attributes["epsilon"].as_float()}
        result, addition = node.outputs[0], total.outputs[0]
        made = editor.add(
            total,
            "SkipLayerNormalization",
            inputs if bias is not None else inputs[:4],
            attributes,
            like=result,
            domain=CONTRIB,
            outputs=4,
        )
        fused = made.producer()
        assert fused is not None
        fused.outputs[1].name = fused.outputs[2].name = ""
        editor.name(fused.outputs[3], "sum")
        fused.outputs[3].type, fused.outputs[3].shape = addition.type, addition.shape
        result.replace_all_uses_with(made)
        addition.replace_all_uses_with(fused.outputs[3])
        changed += 1
    if changed:
        model.opset_imports[CONTRIB] = 1
    return changed


def has_three_axes(node: ir.Node) -> bool:
    """Whether both inputs are activations [B, length, channels]: the operator does not broadcast."""
    return all(
        value is not None and not is_weight(value) and value.shape is not None and len(value.shape) == 3
        for value in node.inputs
    )


def find_bias(value: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """The bias of y + bias and y, or None twice."""
    node = find_producer(value, "Add")
    if node is None or value is None or len(value.consumers()) != 1:
        return None, None
    for bias, inner in (tuple(node.inputs), tuple(reversed(node.inputs))):
        if bias is not None and is_weight(bias) and bias.shape is not None and len(bias.shape) == 1:
            return bias, inner
    return None, None
