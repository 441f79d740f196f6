"""Torch module to ONNX file. It is traced on fake tensors, and its weights are read and written one by one."""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sc_runtime.spec import TensorSpec

OPSET = 18
TRACED_AXES = {
    "batch": 2,
    "frames": 96,
    "samples": 2000,
    "positions": 40,
}  #: any sizes except 1, which would become a constant


@dataclass(frozen=True)
class StoredWeight:
    """The initializer that holds one tensor of a traced module."""

    initializer: str
    shape: tuple[int, ...]  #: of the module's tensor
    permutation: tuple[int, ...] | None  #: order of the initializer's axes; None: that of the module's tensor


@dataclass(frozen=True)
class TracedGraph:
    """An ONNX model and the module's tensors that it uses, by name."""

    model: ir.Model
    weights: dict[str, StoredWeight]


def trace(
    build: Callable[[], nn.Module],
    inputs: dict[str, TensorSpec],
    outputs: dict[str, TensorSpec],
    find: Callable[[str], Tensor],
) -> TracedGraph:
    """The graph of the module that `build` makes. Its weights are promises: `find(name)` is called on saving."""
    with FakeTensorMode(), warnings.catch_warnings(), quiet_exporter():
        warnings.simplefilter("ignore")
        module = build().eval()
        arguments = tuple(
            torch.zeros(spec.resolve(**TRACED_AXES), dtype=getattr(torch, spec.dtype)) for spec in inputs.values()
        )
        program = torch.onnx.export(
            module,
            arguments,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_shapes=describe_axes(module, inputs),
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None and program.exported_program is not None
    model = program.model
    weights = {}
    for name, value in model.graph.initializers.items():
        if name in program.exported_program.state_dict or name in program.exported_program.constants:
            weights[name] = promise_weight(value, find, name)
    weights = fold_transposes(model, weights)
    onnxscript.optimizer.optimize_ir(model)
    strip_metadata(model)
    return TracedGraph(model, follow_weights(model, weights, find))


def follow_weights(
    model: ir.Model, weights: Mapping[str, StoredWeight], find: Callable[[str], Tensor]
) -> dict[str, StoredWeight]:
    """`weights` with the initializers that hold them after the optimizer has run.

    The optimizer merges small initializers that are equal. It also renames an initializer that it reshapes; such a
    tensor is found again by its values. A tensor that is part of a computed constant is left out.
    """
    initializers = model.graph.initializers
    lost = {name: weight for name, weight in weights.items() if weight.initializer not in initializers}
    most = max((math.prod(weight.shape) for weight in lost.values()), default=0)
    holders: dict[tuple[ir.DataType, bytes], str] = {}
    for name, value in initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.size <= most:
            holders.setdefault((tensor.dtype, tensor.tobytes()), name)
    found = dict(weights)
    for name, weight in lost.items():
        array = find(name).detach().numpy()
        order = weight.permutation or range(array.ndim)
        tensor = ir.tensor(np.ascontiguousarray(array.transpose(order)))
        del found[name]
        if holder := holders.get((tensor.dtype, tensor.tobytes())):
            found[name] = dataclasses.replace(weight, initializer=holder)
    return found


def share_weights(model: ir.Model, donor: Path) -> None:
    """Make `model` read its weights from the data of the graph in the file `donor`, where that has them too."""
    theirs = ir.load(donor).graph.initializers
    for name, value in model.graph.initializers.items():
        found = theirs[name].const_value if name in theirs else None
        if isinstance(found, ir.ExternalTensor) and (found.dtype, found.shape) == (value.dtype, value.shape):
            value.const_value = found


def save_model(model: ir.Model, path: Path, shared: Path | None = None) -> list[Path]:
    """Write the graph, and its weights beside it unless they lie in the file `shared`. Returns both files."""
    if shared:
        ir.save(model, path)
        return [path, shared]
    data = path.with_name(path.name + ".data")
    ir.save(model, path, external_data=data.name)
    return [path, data] if data.exists() else [path]


def describe_axes(module: nn.Module, inputs: dict[str, TensorSpec]) -> tuple:
    """Dynamic axes of every argument, in the nesting of the module's signature (`*context` is one tuple)."""
    dimensions = {axis: torch.export.Dim(axis) for axis in TRACED_AXES}
    axes = tuple(
        {i: dimensions[axis] for i, axis in enumerate(spec.shape) if isinstance(axis, str)} for spec in inputs.values()
    )
    named = module.forward.__code__.co_argcount - 1
    return axes if named == len(axes) else (*axes[:named], axes[named:])


def promise_weight(value: ir.Value, find: Callable[[str], Tensor], name: str) -> StoredWeight:
    """Make `value` hold the tensor `name`. `find(name)` is called when the model is saved."""
    shape, dtype = value.shape, value.dtype
    assert shape is not None and dtype is not None

    def fetch() -> ir.Tensor:
        array = find(name).detach().contiguous().numpy()
        assert array.shape == tuple(shape), f"{name}: {array.shape} for {shape}"
        return ir.Tensor(array, name=name)

    value.const_value = ir.LazyTensor(fetch, dtype=dtype, shape=shape, name=name)
    return StoredWeight(name, tuple(shape.numpy()), None)


def fold_transposes(model: ir.Model, weights: Mapping[str, StoredWeight]) -> dict[str, StoredWeight]:
    """Replace Transpose(weight) by a transposed weight. A runtime would transpose at every load, and hold both.

    Returns those of `weights` that the graph uses, with the initializers that hold them now.
    """
    graph = model.graph
    transposed: dict[tuple[str, tuple[int, ...]], ir.Value] = {}
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.const_value is None or source.name not in graph.initializers:
            continue
        permutation = tuple(node.attributes["perm"].as_ints())
        key = (str(source.name), permutation)
        if key not in transposed:
            reversing = permutation == tuple(reversed(range(len(permutation))))
            suffix = "" if reversing else "_" + "_".join(map(str, permutation))
            name = f"{source.name}.transposed{suffix}"
            transposed[key] = transpose_weight(name, source, source.const_value, permutation)
            graph.register_initializer(transposed[key])
        node.outputs[0].replace_all_uses_with(transposed[key])
        graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
    used = {name: weight for name, weight in weights.items() if name in graph.initializers}
    for (name, permutation), value in transposed.items():
        if name in weights and name not in used:
            used[name] = StoredWeight(value.name or "", weights[name].shape, permutation)
    return used


def transpose_weight(name: str, value: ir.Value, weight: ir.TensorProtocol, permutation: tuple[int, ...]) -> ir.Value:
    """The `weight` of `value` with its axes in the order of `permutation`, as another promise."""
    sizes = weight.shape.numpy()
    shape = ir.Shape([sizes[axis] for axis in permutation])

    def fetch() -> ir.Tensor:
        return ir.Tensor(np.ascontiguousarray(weight.numpy().transpose(permutation)), name=name)

    promise = ir.LazyTensor(fetch, dtype=weight.dtype, shape=shape, name=name)
    return ir.Value(name=name, shape=shape, type=value.type, const_value=promise)


def strip_metadata(model: ir.Model) -> None:
    """Drop the file names and stack traces of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


class quiet_exporter:
    """Silences the exporter's warnings about packages that this project does not use."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("torch.onnx")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *exception: object) -> None:
        self.logger.setLevel(self.level)
