"""The products that the embedding of the diffusion step goes through, one for each residual block, as one product.

All take the same input, whatever the latent: 23 launches of almost no arithmetic become one and a split. In an FP16
graph each result is converted; their product is converted once instead.
"""

from __future__ import annotations

import onnx_ir as ir

from .editing import FLOATS, Editor, find_axis, is_weight

LEAST = 3  #: products that are worth joining


def join_step_products(model: ir.Model) -> int:
    """Pass: join every set of `Gemm` with one input and weights of one layout."""
    editor, changed = Editor(model), 0
    families: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type == "Gemm" and node.inputs[0] is not None and is_joinable(node):
            families.setdefault(node.inputs[0], []).append(node)
    for source, nodes in families.items():
        if len(nodes) < LEAST:
            continue
        sizes = [find_axis(node.inputs[1], 0) for node in nodes]
        before, kind = nodes[0], nodes[0].outputs[0].dtype
        weight = editor.add(before, "Concat", [node.inputs[1] for node in nodes], {"axis": 0}, dtype=kind)
        bias = editor.add(before, "Concat", [node.inputs[2] for node in nodes], {"axis": 0}, dtype=kind)
        product = editor.add(before, "Gemm", [source, weight, bias], {"transB": 1}, dtype=kind)
        casts = [find_cast(node.outputs[0]) for node in nodes]
        if (wanted := find_common_type(casts)) is not None:
            product = editor.cast(before, product, wanted)
        lengths = editor.constant([size or 0 for size in sizes])
        split = editor.add(
            before, "Split", [product, lengths], {"axis": 1}, dtype=product.dtype, outputs=len(nodes)
        ).producer()
        assert split is not None
        for node, part in zip(nodes, split.outputs, strict=True):
            if part is not split.outputs[0]:  # which has a name
                editor.name(part, "split")
            part.type, part.shape = product.type, node.outputs[0].shape
            node.outputs[0].replace_all_uses_with(part)
        if wanted is not None:
            for cast in casts:
                assert cast is not None and cast.inputs[0] is not None
                cast.inputs[0].type = ir.TensorType(wanted)
                cast.outputs[0].replace_all_uses_with(cast.inputs[0])
        changed += len(nodes)
    return changed


def find_cast(value: ir.Value) -> ir.Node | None:
    """The only use of `value`, past views, if it is a conversion to another floating-point type."""
    users = value.consumers()
    if len(users) != 1 or value.is_graph_output() or users[0].domain:
        return None
    if users[0].op_type == "Unsqueeze":
        return find_cast(users[0].outputs[0])
    return users[0] if users[0].op_type == "Cast" and users[0].outputs[0].dtype in FLOATS else None


def find_common_type(casts: list[ir.Node | None]) -> ir.DataType | None:
    """The type that all of `casts` convert to, or None."""
    kinds = {None if cast is None else cast.outputs[0].dtype for cast in casts}
    return kinds.pop() if len(kinds) == 1 else None


def is_joinable(node: ir.Node) -> bool:
    """Whether it is x times the transpose of a weight, plus a bias, and nothing else."""
    numbers = {
        name: node.attributes[name].value for name in ("alpha", "beta", "transA", "transB") if name in node.attributes
    }
    plain = numbers.get("alpha", 1.0) == numbers.get("beta", 1.0) == 1.0
    return (
        plain
        and not numbers.get("transA", 0)
        and numbers.get("transB", 0) == 1
        and len(node.inputs) == 3
        and all(is_weight(value) for value in node.inputs[1:])
    )
