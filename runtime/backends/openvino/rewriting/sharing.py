"""Operators whose inputs are equal for several rows of a batch run once for these rows.

In guided diffusion all branches of a window have the same latent and timestep. Only their conditioning differs.
"""

from __future__ import annotations

from typing import Any

Key = tuple[str, int]  #: the unique name of an operator, and the number of one of its outputs


def share_rows(few: Any, many: Any, shared: frozenset[str]) -> tuple[Any, int]:
    """A model that computes for few rows what depends on the inputs `shared` alone, and the rest for many rows.

    few, many: the same model, its shapes fixed for few rows and for a multiple of them. Its rows are independent.
    shared: names of the inputs that have few rows in the new model. Their rows [a, b] stand for [a, b, a, b, ...].

    The new model consists of parts of both. Returns it, and the number of tensors that are repeated.
    """
    from openvino import Model
    from openvino import opset13 as operators

    (ratio,) = {find_ratio(*pair) for pair in zip(list_inputs(few), list_inputs(many), strict=True)}
    fixed: set[Key] = set()  # what depends on no input
    common: dict[Key, Any] = {}  # an output in `many` that depends on shared inputs alone -> the same in `few`
    repeated: dict[Key, Any] = {}
    for less, more in pair_operators(few, many):
        given = {find_key(place.get_source_output()) for place in more.inputs()} - fixed
        outputs = list(zip(less.outputs(), more.outputs(), strict=True))
        is_input = more.get_type_name() == "Parameter"
        is_common = is_shared(more, shared) if is_input else given <= common.keys()
        if not given and not is_input:
            fixed |= {find_key(output) for _, output in outputs}
        elif is_common and all(find_ratio(*pair) == ratio for pair in outputs):
            common |= {find_key(output): source for source, output in outputs}
        else:
            for place in more.inputs():
                key = find_key(place.get_source_output())
                if key in common:
                    if key not in repeated:
                        repeated[key] = operators.concat([common[key]] * ratio, 0).output(0)
                    place.replace_source_output(repeated[key])
    inputs = [place for place in few.get_parameters() if is_shared(place, shared)]
    inputs += [place for place in many.get_parameters() if not is_shared(place, shared)]
    return Model(many.get_results(), inputs), len(repeated)


def list_inputs(model: Any) -> list[Any]:
    return [place.output(0) for place in model.get_parameters()]


def pair_operators(few: Any, many: Any) -> list[tuple[Any, Any]]:
    """Each operator of `many`, in order, with the one of `few` that does the same.

    Operators have no lasting names, so their order counts. If it is not the same, only the inputs have a partner; all
    others are paired with themselves.
    """
    some, all_of_them = few.get_ordered_ops(), many.get_ordered_ops()
    if [each.get_type_name() for each in some] == [each.get_type_name() for each in all_of_them]:
        return list(zip(some, all_of_them, strict=True))
    inputs = dict(zip(map(find_key, list_inputs(many)), few.get_parameters(), strict=True))
    return [(inputs.get(find_key(each.output(0)), each), each) for each in all_of_them]


def find_ratio(few: Any, many: Any) -> int:
    """The rows of `many` divided by the rows of `few`. 0 if the shapes differ otherwise, or if they do not divide."""
    if not (few.get_shape() and many.get_shape()):
        return 0
    (rows, *row), (all_rows, *other) = few.get_shape(), many.get_shape()
    return all_rows // rows if row == other and all_rows % rows == 0 else 0


def find_key(output: Any) -> Key:
    return output.get_node().get_name(), output.get_index()


def is_shared(parameter: Any, shared: frozenset[str]) -> bool:
    return bool(parameter.output(0).get_names() & shared)
