"""How many kernels one run of a graph launches, from its nodes alone."""

from __future__ import annotations

import onnx_ir as ir

VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Identity", "Shape", "Flatten")  #: give another shape to the same memory


def count_launches(graph: ir.Graph) -> int:
    """Nodes that compute on activations. Those on weights alone are folded when an engine loads the graph."""
    constant = set(graph.initializers.values())
    count = 0
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if all(value in constant for value in inputs):
            constant |= set(node.outputs)
        elif node.op_type not in VIEWS:
            count += 1
    return count
