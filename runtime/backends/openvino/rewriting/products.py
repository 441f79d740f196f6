"""Matrix products whose results need no copy."""

from __future__ import annotations

from typing import Any

from .reading import count_users, find_source, list_ints, read_constant, replace

SPLIT_HEADS, KEYS, TURNED = [0, 2, 1, 3], [0, 2, 3, 1], [0, 1, 3, 2]  #: orders of axes that the export writes


def separate_products(model: Any) -> int:
    """x W + b that is split in two becomes two products, each with half of W and b (GEGLU's value and gate).

    OpenVINO 2026.4 has no fast kernel for the split: it runs `ref_any`, 3 ms of the T-UNet's 250.
    """
    from openvino import opset13

    changed = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Split" or node.get_output_size() != 2:
            continue
        added, axis = find_source(node, 0, "Add"), read_constant(node.input_value(1))
        product = added and find_source(added, 0, "MatMul")
        if product is None or axis is None or count_users(added) != 1 or count_users(product) != 1:
            continue
        rank = len(node.get_input_partial_shape(0))
        weight, bias = product.input_value(1), added.input_value(1)
        arrays = read_constant(weight), read_constant(bias)
        if int(axis) % rank != rank - 1 or any(array is None for array in arrays) or len(weight.shape) != 2:
            continue
        rows = product.get_attributes()
        weights = opset13.split(weight, opset13.constant(0 if rows["transpose_b"] else 1), 2).outputs()
        biases = opset13.split(bias, opset13.constant(len(bias.shape) - 1), 2).outputs()
        for half, output in enumerate(node.outputs()):
            x = product.input_value(0)
            made = opset13.matmul(x, weights[half], rows["transpose_a"], rows["transpose_b"])
            replace(output, opset13.add(made, biases[half]).output(0))
        changed += 1
    return changed


def multiply_by_keys(model: Any) -> int:
    """Queries times transposed keys becomes one product that reads the keys as they are, without a transposed copy."""
    from openvino import opset13

    changed = 0
    for node in model.get_ordered_ops():
        turned = find_source(node, 1, "Transpose") if node.get_type_name() == "MatMul" else None
        if turned is None or node.get_attributes()["transpose_b"]:
            continue
        order = read_constant(turned.input_value(1))
        if order is None:
            continue
        keys = turned.input_value(0)
        if list(order) == KEYS:
            keys = opset13.transpose(keys, list_ints(*SPLIT_HEADS)).output(0)
        elif list(order) != TURNED:
            continue
        made = opset13.matmul(node.input_value(0), keys, node.get_attributes()["transpose_a"], True)
        replace(node.output(0), made.output(0))
        changed += 1
    return changed
