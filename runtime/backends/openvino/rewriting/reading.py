"""What all passes share: reading and replacing parts of a model of OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np


def read_constant(output: Any) -> np.ndarray | None:
    """The content of a constant, also of one that is stored in float16 and converted to float32; None of others."""
    node = output.get_node()
    if node.get_type_name() == "Convert" and output.get_element_type().to_string() == "f32":
        stored = node.input_value(0).get_node()
        if stored.get_type_name() == "Constant" and stored.get_element_type().to_string() == "f16":
            return stored.data.astype(np.float32)
    return node.data if node.get_type_name() == "Constant" else None


def find_source(node: Any, place: int, kind: str) -> Any:
    """The operator that computes an input of `node` if it is of this type, else None."""
    source = node.input_value(place).get_node()
    return source if source.get_type_name() == kind else None


def count_users(node: Any) -> int:
    """How many inputs take the only output of `node`."""
    return len(node.output(0).get_target_inputs())


def replace(old: Any, new: Any) -> None:
    """Everything that takes the output `old` takes the output `new` instead."""
    for taker in old.get_target_inputs():
        taker.replace_source_output(new)


def list_ints(*values: int) -> Any:
    """A constant int64 [n]."""
    from openvino import opset13

    return opset13.constant(np.array(values, np.int64))
