"""Group normalisation as one operator.

The exporter writes it as instance normalisation of the groups, between two reshapes, with the gain and the offset of
each channel behind it. ONNX Runtime runs that as a batch normalisation with four memory sets and, in an FP16 graph, two
conversions. For ONNX Runtime: `com.microsoft.GroupNorm`, which takes channels last, computes in float32 and can apply
SiLU. For TensorRT: ONNX's `GroupNormalization` (opset 21), which it computes in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .editing import CONTRIB, Editor, find_axis, find_producer, find_user, is_weight, skip_casts

OPSET = 21  #: its GroupNormalization has a gain for each channel
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  #: orders of axes that bring channels to the end, and back


@dataclass(frozen=True)
class Found:
    """One group normalisation of `source` [B, C, H, W]. `result` is its output, after SiLU if there is one."""

    source: ir.Value
    gain: ir.Value
    offset: ir.Value
    groups: int
    epsilon: float
    plain: ir.Value  #: the output before SiLU
    result: ir.Value
    before: ir.Node


def find_group_norm(node: ir.Node) -> Found | None:
    """The group normalisation around the InstanceNormalization `node`, or None."""
    reshaped = find_producer(skip_casts(node.inputs[0]), "Reshape")
    restored = find_user(node.outputs[0], "Reshape")
    scaled = find_user(restored.outputs[0], "Mul") if restored is not None else None
    shifted = find_user(scaled.outputs[0], "Add") if scaled is not None else None
    if reshaped is None or scaled is None or shifted is None or reshaped.inputs[0] is None:
        return None
    gain, offset, source = scaled.inputs[1], shifted.inputs[1], reshaped.inputs[0]
    groups = find_axis(node.inputs[0], 1)
    if gain is None or offset is None or not is_weight(gain) or not is_weight(offset) or groups is None:
        return None
    if source.shape is None or len(source.shape) != 4 or not is_plain(node):
        return None
    plain = shifted.outputs[0]
    return Found(
        source, gain, offset, groups, node.attributes["epsilon"].as_float(), plain, find_silu(plain) or plain, reshaped
    )


def is_plain(node: ir.Node) -> bool:
    """Whether the instance normalisation has neither gain nor offset of its own."""
    weights = [value.const_value for value in node.inputs[1:] if value is not None]
    if len(weights) != 2 or None in weights:
        return False
    gain, offset = (weight.numpy() for weight in weights if weight is not None)
    return bool(np.all(gain == 1) and np.all(offset == 0))


def find_silu(value: ir.Value) -> ir.Value | None:
    """x * sigmoid(x), if that is all that is made of `value`."""
    users = value.consumers()
    gate = next((user for user in users if user.op_type == "Sigmoid"), None)
    product = next((user for user in users if user.op_type == "Mul"), None)
    if gate is None or product is None or len(users) != 2 or value.is_graph_output():
        return None
    return product.outputs[0] if set(product.inputs) == {value, gate.outputs[0]} else None


def find_all(model: ir.Model) -> list[Found]:
    nodes = [node for node in model.graph if node.op_type == "InstanceNormalization"]
    return [found for node in nodes if (found := find_group_norm(node))]


def fuse_group_norm(model: ir.Model) -> int:
    """Pass for ONNX Runtime. `layout.move_channels_last` removes the transposes between neighbours."""
    editor, all_found = Editor(model), find_all(model)
    for found in all_found:
        flat, before = editor.constant([-1]), found.before
        weights = [
            editor.cast(before, editor.add(before, "Reshape", [value, flat], dtype=value.dtype), ir.DataType.FLOAT)
            for value in (found.gain, found.offset)
        ]
        last = editor.add(before, "Transpose", [found.source], {"perm": LAST}, dtype=found.source.dtype)
        silu = found.result is not found.plain
        attributes = {
            "groups": found.groups,
            "epsilon": found.epsilon,
            "activation": int(silu),
            "channels_last": 1,
        }
        made = editor.add(before, "GroupNorm", [last, *weights], attributes, dtype=last.dtype, domain=CONTRIB)
        first = editor.add(before, "Transpose", [made], {"perm": FIRST}, like=found.result, dtype=last.dtype)
        found.result.replace_all_uses_with(first)
    if all_found:
        model.opset_imports[CONTRIB] = 1
    return len(all_found)


def use_group_normalization(model: ir.Model) -> int:
    """Pass for TensorRT."""
    editor, all_found = Editor(model), find_all(model)
    for found in all_found:
        flat, before, kind = editor.constant([-1]), found.before, found.source.dtype
        assert kind is not None
        weights = [
            editor.cast(before, editor.add(before, "Reshape", [value, flat], dtype=value.dtype), kind)
            for value in (found.gain, found.offset)
        ]
        attributes = {"num_groups": found.groups, "epsilon": found.epsilon, "stash_type": ir.DataType.FLOAT.value}
        made = editor.add(
            before, "GroupNormalization", [found.source, *weights], attributes, like=found.plain, dtype=kind
        )
        found.plain.replace_all_uses_with(made)
    if all_found:
        version = max(model.opset_imports[""], OPSET)
        model.opset_imports[""] = version
        model.graph.opset_imports[""] = version
    return len(all_found)
