"""Attention as one operator.

The exported graph spells it out: scaled queries times transposed keys, a softmax (in float32, with conversions on both
sides in an FP16 graph), times values. At 4096 positions the matrix between them is most of the traffic of a step. Fused
kernels never write it, and keep the softmax in float32 whatever the type of queries, keys and values.

For ONNX Runtime: `com.microsoft.MultiHeadAttention`. Where queries, keys and values are products of one input, the
three weights become one, head by head (heads, 3, channels), and the operator takes the packed product. Where the
network has one product for all three, in the order (3, heads, channels), its weights are put into that order. For
TensorRT: ONNX's `Attention` (opset 23), whose softmax_precision its parser refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .editing import (
    CONTRIB,
    Editor,
    find_axis,
    find_producer,
    find_user,
    is_weight,
    read_constant,
    read_ints,
    skip_casts,
)

OPSET = 23  #: has Attention
SPLIT_HEADS, KEYS, JOINED = (0, 2, 1, 3), (0, 2, 3, 1), (0, 1, 3, 2)  #: orders of axes that the export writes
STACKED = (2, 0, 3, 1, 4)  #: the same, from [B, length, 3, heads, channels] to [3, B, heads, length, channels]


@dataclass(frozen=True)
class Head:
    """Queries, keys or values: [B, length, heads * channels] before the heads are split, or given already split."""

    value: ir.Value
    is_split: bool


@dataclass(frozen=True)
class Found:
    """One attention of a graph. `output` is [B, length, heads * channels].

    stacked: the Reshape of one product to [B, length, 3, heads, channels], if queries, keys and values are its parts.
    """

    query: Head
    key: Head
    value: Head
    split: tuple[ir.Value, ir.Value | None, ir.Value]  #: queries, keys, values [B, heads, length, channels]
    heads: int
    channels: int
    scale: float
    joined: ir.Node  #: the Transpose that gives [B, length, heads, channels]
    output: ir.Node
    stacked: ir.Node | None = None


def find_attention(softmax: ir.Node) -> Found | None:
    """The attention around `softmax`, or None if it is spelled in another way."""
    scores = find_producer(skip_casts(softmax.inputs[0]), "MatMul")
    weighted = find_user(softmax.outputs[0], "MatMul")
    if scores is None or weighted is None or skip_casts(weighted.inputs[0]) is not softmax.outputs[0]:
        return None
    scaled, turned = find_producer(scores.inputs[0], "Mul"), find_producer(scores.inputs[1], "Transpose")
    joined = find_user(weighted.outputs[0], "Transpose")
    output = find_user(joined.outputs[0], "Reshape") if joined is not None else None
    if scaled is None or turned is None or joined is None or output is None:
        return None
    factor = read_constant(scaled.inputs[1])
    heads, channels = find_axis(scaled.inputs[0], 1), find_axis(scaled.inputs[0], 3)
    if factor is None or factor.size != 1 or not heads or not channels or read_ints(joined, "perm") != SPLIT_HEADS:
        return None
    if read_ints(turned, "perm") == JOINED:
        parts = (scaled.inputs[0], turned.inputs[0], weighted.inputs[1])
        if (stacked := find_stacked(*parts)) is not None:
            query, key, value = (Head(part, True) for part in parts if part is not None)
            split = (query.value, key.value, value.value)
            return Found(query, key, value, split, heads, channels, float(factor), joined, output, stacked)
    return find_apart(scaled, turned, weighted, joined, output, heads, channels, float(factor))


def find_stacked(*parts: ir.Value | None) -> ir.Node | None:
    """The Reshape of `Found.stacked`, if `parts` are its first, second and third part."""
    gathers = [find_producer(part, "Gather") for part in parts]
    turned = {gather.inputs[0] for gather in gathers if gather is not None}
    if None in gathers or len(turned) != 1:
        return None
    for place, gather in enumerate(gathers):
        assert gather is not None
        index = read_constant(gather.inputs[1])
        if gather.attributes["axis"].as_int() != 0 or index is None or index.tolist() != place:
            return None
    transpose = find_producer(turned.pop(), "Transpose")
    if transpose is None or read_ints(transpose, "perm") != STACKED:
        return None
    return find_producer(transpose.inputs[0], "Reshape")


def find_apart(
    scaled: ir.Node,
    turned: ir.Node,
    weighted: ir.Node,
    joined: ir.Node,
    output: ir.Node,
    heads: int,
    channels: int,
    scale: float,
) -> Found | None:
    """The attention whose queries, keys and values are values of their own."""
    query, value = find_head(scaled.inputs[0]), find_head(weighted.inputs[1])
    key = find_key(turned)
    if not (query and key and value) or query.is_split or key.is_split != value.is_split:
        return None
    assert scaled.inputs[0] is not None and weighted.inputs[1] is not None
    split = (scaled.inputs[0], key.value if key.is_split else None, weighted.inputs[1])
    return Found(query, key, value, split, heads, channels, scale, joined, output)


def find_head(value: ir.Value | None) -> Head | None:
    """[B, heads, length, channels], whose heads were split here or came split from another graph."""
    if value is None:
        return None
    turned = find_producer(value, "Transpose")
    if turned is None:
        return Head(value, True) if value.is_graph_input() else None
    reshaped = find_producer(turned.inputs[0], "Reshape")
    if reshaped is None or read_ints(turned, "perm") != SPLIT_HEADS or reshaped.inputs[0] is None:
        return None
    return Head(reshaped.inputs[0], False)


def find_key(turned: ir.Node) -> Head | None:
    """The same of the transposed keys."""
    order = read_ints(turned, "perm")
    if order == JOINED:
        return find_head(turned.inputs[0])
    reshaped = find_producer(turned.inputs[0], "Reshape")
    if order != KEYS or reshaped is None or reshaped.inputs[0] is None:
        return None
    return Head(reshaped.inputs[0], False)


def find_all(model: ir.Model) -> list[Found]:
    return [found for node in list(model.graph) if node.op_type == "Softmax" and (found := find_attention(node))]


def fuse_attention(model: ir.Model) -> int:
    """Pass for ONNX Runtime."""
    editor, changed = Editor(model), 0
    for found in find_all(model):
        inputs: list[ir.Value | None] = [found.query.value, found.key.value, found.value.value]
        packed = order_product(editor, found) if found.stacked else pack_products(editor, found)
        if packed is not None:
            inputs = [packed]
        elif found.stacked:
            continue
        changed += 1
        attributes = {"num_heads": found.heads, "scale": found.scale}
        result = found.output.outputs[0]
        made = editor.add(
            found.joined, "MultiHeadAttention", inputs, attributes, like=result, dtype=result.dtype, domain=CONTRIB
        )
        result.replace_all_uses_with(made)
    if changed:
        model.opset_imports[CONTRIB] = 1
    return changed


def order_product(editor: Editor, found: Found) -> ir.Value | None:
    """The product of `found.stacked` as [B, length, heads, 3, channels], if it is one with weights."""
    stacked = found.stacked
    assert stacked is not None
    bias, product = None, find_producer(stacked.inputs[0], "MatMul")
    if product is None and (added := find_producer(stacked.inputs[0], "Add")) is not None:
        product, bias = find_producer(added.inputs[0], "MatMul"), added.inputs[1]
        if not is_weight(bias):
            return None
    if product is None or not is_weight(product.inputs[1]):
        return None
    heads, channels, kind = found.heads, found.channels, found.query.value.dtype

    def order(weight: ir.Value | None, *before: int) -> ir.Value:
        """`weight` [*before, 3 * heads * channels] with rows of (heads, 3, channels)."""
        apart = editor.constant([*before, 3, heads, channels])
        rows = editor.add(stacked, "Reshape", [weight, apart], dtype=kind)
        axes = tuple(range(len(before)))
        exchanged = (*axes, len(axes) + 1, len(axes), len(axes) + 2)
        turned = editor.add(stacked, "Transpose", [rows], {"perm": exchanged}, dtype=kind)
        return editor.add(stacked, "Reshape", [turned, editor.constant([*before, -1])], dtype=kind)

    made = editor.add(stacked, "MatMul", [product.inputs[0], order(product.inputs[1], 0)], dtype=kind)
    if bias is not None:
        made = editor.add(stacked, "Add", [made, order(bias)], dtype=kind)
    return editor.add(stacked, "Reshape", [made, editor.constant([0, 0, heads, 3, channels])], dtype=kind)


def pack_products(editor: Editor, found: Found) -> ir.Value | None:
    """Queries, keys and values as one product [B, length, heads, 3, channels], if they are products of one input."""
    products = [find_producer(head.value, "MatMul") for head in (found.query, found.key, found.value)]
    if not all(product is not None and is_weight(product.inputs[1]) for product in products):
        return None
    sources = {product.inputs[0] for product in products if product is not None}
    if len(sources) != 1:
        return None
    first = min((node for node in products if node is not None), key=list(editor.graph).index)
    heads, channels, source = found.heads, found.channels, sources.pop()
    apart, together = editor.constant([0, heads, 1, channels]), editor.constant([0, 3 * heads * channels])
    weights = [
        editor.add(first, "Reshape", [node.inputs[1], apart], dtype=found.query.value.dtype)
        for node in products
        if node
    ]
    joined = editor.add(first, "Concat", weights, {"axis": 2}, dtype=weights[0].dtype)
    weight = editor.add(first, "Reshape", [joined, together], dtype=joined.dtype)
    product = editor.add(first, "MatMul", [source, weight], dtype=found.query.value.dtype)
    shape = editor.constant([0, 0, heads, 3, channels])
    return editor.add(first, "Reshape", [product, shape], dtype=product.dtype)


def use_attention_operator(model: ir.Model) -> int:
    """Pass for TensorRT."""
    editor, all_found = Editor(model), find_all(model)
    for found in all_found:
        query, key, value = found.split
        if key is None:
            shape = editor.constant([0, 0, found.heads, found.channels])
            apart = editor.add(found.joined, "Reshape", [found.key.value, shape], dtype=query.dtype)
            key = editor.add(found.joined, "Transpose", [apart], {"perm": SPLIT_HEADS}, dtype=query.dtype)
        attributes = {"scale": found.scale}
        before = found.joined
        made = editor.add(before, "Attention", [query, key, value], attributes, like=query, dtype=query.dtype)
        before.replace_input_with(0, made)
    if all_found:
        model.opset_imports[""] = OPSET
        model.graph.opset_imports[""] = OPSET
    return len(all_found)
