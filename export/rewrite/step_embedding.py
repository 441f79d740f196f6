"""The embedding of the diffusion step, which depends on the step alone.

It ends in a product for each residual block, all of the same input. They become one product and a split. In an FP16
graph each result is converted; their product is converted once instead.

For ONNX Runtime the embedding then becomes a row of a table: 13 launches of a T-UNet call become one. The table's nodes
have only weights and the steps as inputs, and ONNX Runtime computes them when it loads the graph: 0.2 s at full size
(two busy cores). So nothing is added to a bundle. On a GPU the table has 8.3 MB at full size in FP16, in place of 4.6
MB of weights. TensorRT-RTX does not compute it beforehand: the plan has the products, with 1000 rows. So the variant
for TensorRT has no table. The table has run on an H200, the variant for TensorRT on no GPU.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .editing import FLOATS, Editor, find_axis, is_weight

LEAST = 3  #: products that are worth joining
STEPS = 1000  #: rows of the table: the steps 0 to 999 of the noise schedule of every checkpoint
#: Operators that an embedding is made of. Row b of their results depends on row b of their inputs alone.
ROWWISE = ("Cast", "Concat", "Cos", "Gemm", "Mul", "Sigmoid", "Sin", "Unsqueeze")


def tabulate_steps(model: ir.Model) -> int:
    """Pass, after `join_step_products`: what follows from one step a row becomes a row of a table. Returns the tables.

    A step that the schedule does not have has no row: an engine refuses it, or takes another row or zeros.
    """
    editor, changed = Editor(model), 0
    for step in model.graph.inputs:
        if step.dtype != ir.DataType.INT64 or step.shape is None or len(step.shape) != 1:
            continue
        embedding = find_rowwise(model.graph, step)
        if not any(node.op_type == "Gemm" for node in embedding):
            continue
        steps = editor.constant(np.arange(STEPS))
        for node in embedding:
            for value in node.outputs:
                users = set(value.consumers()) - set(embedding)
                others = [user for user in model.graph if user in users]
                if not others:
                    continue
                row = editor.add(others[0], "Gather", [value, step], {"axis": 0}, like=value)
                for user in others:
                    replace_input(user, value, row)
                value.shape = None if value.shape is None else ir.Shape([STEPS, *value.shape[1:]])
                changed += 1
            replace_input(node, step, steps)
    return changed


def find_rowwise(graph: ir.Graph, step: ir.Value) -> list[ir.Node]:
    """The nodes that compute row b of their results from `step`[b] and weights alone, in order."""
    constant, derived = set(graph.initializers.values()), {step}
    found: list[ir.Node] = []
    for node in graph:
        inputs = {value for value in node.inputs if value is not None}
        if inputs <= constant:
            constant |= set(node.outputs)
        elif node.op_type in ROWWISE and not node.domain and inputs <= constant | derived and keeps_rows(node, step):
            derived |= set(node.outputs)
            found.append(node)
    return found


def keeps_rows(node: ir.Node, step: ir.Value) -> bool:
    """Whether the rows of the results, where their shape is known, are those of `step`."""
    assert step.shape is not None
    shapes = [value.shape for value in node.outputs]
    outputs = not any(value.is_graph_output() for value in node.outputs)
    return outputs and all(shape is None or (len(shape) and shape[0] == step.shape[0]) for shape in shapes)


def replace_input(node: ir.Node, before: ir.Value, after: ir.Value) -> None:
    for place, value in enumerate(node.inputs):
        if value is before:
            node.replace_input_with(place, after)


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
