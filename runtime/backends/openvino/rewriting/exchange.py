"""Feature maps of few columns, with rows and columns exchanged.

OpenVINO's convolutions run along the columns. The T-UNet's maps have 16 to 2 of them and 256 to 32 rows. With kernels,
strides and pads exchanged too, the result is the same. Attention over positions takes them in any order, if it is the
same for all of its inputs. Measured on Zen 5 in bfloat16: a convolution over 32 × 2 positions of 320 channels 0.94 ms,
over 2 × 32 positions 0.40 ms; one guided step 285 ms before, 258 ms after (CPU time of both cores).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .reading import list_ints, read_constant, replace

NARROW = 8  #: columns; maps that are wider everywhere stay as they are
COLUMNS_FIRST = (0, 1, 3, 2)

Shuffle = tuple[int, int, int]  #: (c, H, W): an axis counts c × H × W entries, with columns outside of rows
State = dict[int, Shuffle]  #: what is different about a value: the axes that are shuffled, and how. Empty: nothing
MAPS: State = {2: (0, 0, 0), 3: (0, 0, 0)}  #: [B, C, H, W] with rows and columns exchanged

#: Operators that compute each entry from the entries at the same place.
ENTRYWISE = {"Add", "Subtract", "Multiply", "Divide", "Sigmoid", "Swish", "Erf", "Gelu", "Tanh", "Relu", "Convert"}


class UnclearError(Exception):
    """The model has an operator whose result after the exchange does not follow from the rules below."""


def exchange_axes(model: Any) -> int:
    """Exchange rows and columns of all feature maps, or of none. Returns the number of convolutions changed."""
    maps = [
        node.input_value(0).shape
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Convolution" and len(node.input_value(0).shape) == 4
    ]
    if not maps or min(shape[3] for shape in maps) >= NARROW or any(shape[2] <= shape[3] for shape in maps):
        return 0
    plan = Exchange()
    try:
        for node in model.get_ordered_ops():
            plan.visit(node)
    except UnclearError:
        return 0
    plan.apply()
    return len(plan.convolutions)


class Exchange:
    """Follows the maps through a model, operator by operator; collects what is to change, and changes it."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, int], State] = {}  #: by the operator's name and the index of the output
        self.parameters: list[Any] = []
        self.convolutions: list[Any] = []
        self.constants: list[Any] = []  #: inputs that take a map that is a constant
        self.targets: list[Any] = []  #: Reshapes that make maps
        self.results: list[Any] = []

    def find(self, output: Any) -> State:
        return self.states.get((output.get_node().get_name(), output.get_index()), {})

    def visit(self, node: Any) -> None:
        """Find the state of what `node` computes. Raises UnclearError."""
        kind, inputs = node.get_type_name(), [self.find(output) for output in node.input_values()]
        if kind == "Parameter":
            users = [user.get_node().get_type_name() for user in node.output(0).get_target_inputs()]
            state: State = MAPS if "Convolution" in users and len(node.output(0).shape) == 4 else {}
            if state:
                self.parameters.append(node)
        elif not any(inputs) and kind != "Convolution":
            return
        elif kind in ENTRYWISE:
            state = self.follow_entries(node, inputs)
        elif kind in RULES:
            state = RULES[kind](self, node, inputs)
        else:
            raise UnclearError(kind)
        for output in node.outputs():
            self.states[node.get_name(), output.get_index()] = state

    def follow_entries(self, node: Any, inputs: list[State]) -> State:
        state = next(filter(None, inputs))
        rank = len(node.output(0).shape)
        for place, given in enumerate(inputs):
            shape = [1] * rank + list(node.input_value(place).shape)
            if given and given != state:
                raise UnclearError(node)
            if not given and any(shape[len(shape) - rank + axis] != 1 for axis in state):
                if state != MAPS or read_constant(node.input_value(place)) is None or len(shape) != rank + 4:
                    raise UnclearError(node)
                self.constants.append(node.input(place))
        return state

    def follow_convolution(self, node: Any, inputs: list[State]) -> State:
        if inputs[0] != MAPS or read_constant(node.input_value(1)) is None:
            raise UnclearError(node)
        self.convolutions.append(node)
        return MAPS

    def follow_doubling(self, node: Any, inputs: list[State]) -> State:
        if inputs[0] != MAPS or node.get_attributes()["shape_calculation_mode"] != "scales":
            raise UnclearError(node)
        (_, _, rows, columns), made = node.input_value(0).shape, node.output(0).shape
        if made[2] * columns != made[3] * rows:
            raise UnclearError(node)
        return MAPS

    def follow_reshape(self, node: Any, inputs: list[State]) -> State:
        given, made = list(node.input_value(0).shape), list(node.output(0).shape)
        if inputs[0] == MAPS:
            per_group = made[-1] // (given[2] * given[3])
            if len(made) != 3 or made[0] != given[0] or made[1] * per_group != given[1]:
                raise UnclearError(node)
            return {2: (per_group, given[2], given[3])}
        ((axis, shuffle),) = inputs[0].items() if len(inputs[0]) == 1 else ((-1, (0, 0, 0)),)
        if axis == 2 and len(made) == 4 and made == [given[0], given[1] * shuffle[0], *shuffle[1:]]:
            self.targets.append(node)
            return MAPS
        if axis < 0 or given[: axis + 1] != made[: axis + 1]:
            raise UnclearError(node)
        return inputs[0]

    def follow_transpose(self, node: Any, inputs: list[State]) -> State:
        order = read_constant(node.input_value(1))
        if order is None or inputs[0] == MAPS:
            raise UnclearError(node)
        return {list(order).index(axis): shuffle for axis, shuffle in inputs[0].items()}

    def follow_product(self, node: Any, inputs: list[State]) -> State:
        """Rows of the first factor times columns of the second; the axis that is summed over must fit."""
        axes = []
        for place, given, flag in zip((0, 1), inputs, ("transpose_a", "transpose_b"), strict=True):
            rank = len(node.input_value(place).shape)
            if given == MAPS or any(axis < rank - 2 for axis in given):
                raise UnclearError(node)
            pair = [given.get(rank - 2), given.get(rank - 1)]
            axes.append(pair[::-1] if node.get_attributes()[flag] else pair)
        (row, summed), (summed_too, column) = axes
        if summed != summed_too:
            raise UnclearError(node)
        rank = len(node.output(0).shape)
        return {axis: shuffle for axis, shuffle in ((rank - 2, row), (rank - 1, column)) if shuffle}

    def follow_same(self, node: Any, inputs: list[State]) -> State:
        """Sums over whole axes: their order does not matter, and the others stay in theirs."""
        if inputs[0] == MAPS:
            raise UnclearError(node)
        return inputs[0]

    def follow_channels(self, node: Any, inputs: list[State]) -> State:
        """Concat and Split along an axis that is in order."""
        if node.get_type_name() == "Concat":
            axis, given = node.get_attributes()["axis"], inputs
        else:
            axis, given = int(read_constant(node.input_value(1))), inputs[:1]  # type: ignore[arg-type]
        state, rank = given[0], len(node.output(0).shape)
        if any(other != state for other in given) or axis % rank in state:
            raise UnclearError(node)
        return state

    def follow_result(self, node: Any, inputs: list[State]) -> State:
        if inputs[0] != MAPS:
            raise UnclearError(node)
        self.results.append(node)
        return {}

    def apply(self) -> None:
        from openvino import opset13

        for node in self.parameters:
            users = node.output(0).get_target_inputs()
            turned = opset13.transpose(node, list_ints(*COLUMNS_FIRST)).output(0)
            for user in users:
                user.replace_source_output(turned)
        for place in self.constants:
            place.replace_source_output(
                opset13.transpose(place.get_source_output(), list_ints(*COLUMNS_FIRST)).output(0)
            )
        for node in self.targets:
            batch, channels, rows, columns = node.output(0).shape
            node.input(1).replace_source_output(list_ints(batch, channels, columns, rows).output(0))
        for node in self.convolutions:
            settings, weight = node.get_attributes(), read_constant(node.input_value(1))
            assert weight is not None
            kernel = opset13.constant(np.ascontiguousarray(weight.swapaxes(2, 3)))
            numbers = [list(settings[name])[::-1] for name in ("strides", "pads_begin", "pads_end", "dilations")]
            made = opset13.convolution(node.input_value(0), kernel, *numbers, settings["auto_pad"])
            replace(node.output(0), made.output(0))
        for node in self.results:
            turned = opset13.transpose(node.input_value(0), list_ints(*COLUMNS_FIRST)).output(0)
            node.input(0).replace_source_output(turned)


RULES = {
    "Convolution": Exchange.follow_convolution,
    "Interpolate": Exchange.follow_doubling,
    "Reshape": Exchange.follow_reshape,
    "Transpose": Exchange.follow_transpose,
    "MatMul": Exchange.follow_product,
    "MVN": Exchange.follow_same,
    "Softmax": Exchange.follow_same,
    "Concat": Exchange.follow_channels,
    "Split": Exchange.follow_channels,
    "Result": Exchange.follow_result,
}
