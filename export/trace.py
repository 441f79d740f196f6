"""Torch module to ONNX file, without ever holding its weights: traced on fake tensors, weights written one by one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
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
}  #: any sizes but 1, which tracing would take for a constant


def trace(
    build: Callable[[], nn.Module],
    inputs: dict[str, TensorSpec],
    outputs: dict[str, TensorSpec],
    find: Callable[[str], Tensor],
) -> ir.Model:
    """The ONNX model of the module that `build` makes; every weight a promise that `find(name)` keeps on saving."""
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
    for name, value in model.graph.initializers.items():
        if name in program.exported_program.state_dict or name in program.exported_program.constants:
            promise_weight(value, find, name)
    fold_transposes(model)
    onnxscript.optimizer.optimize_ir(model)
    strip_metadata(model)
    return model


def share_weights(model: ir.Model, donor: Path) -> None:
    """Have the weights of `model` that the graph in the file `donor` has too be read from that graph's data file."""
    theirs = ir.load(donor).graph.initializers
    for name, value in model.graph.initializers.items():
        found = theirs[name].const_value if name in theirs else None
        if isinstance(found, ir.ExternalTensor) and (found.dtype, found.shape) == (value.dtype, value.shape):
            value.const_value = found


def save_model(model: ir.Model, path: Path, shared: Path | None = None) -> list[Path]:
    """Write the graph and its weights beside it, or none where they lie in the file `shared`; returns both files."""
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


def promise_weight(value: ir.Value, find: Callable[[str], Tensor], name: str) -> None:
    shape, dtype = value.shape, value.dtype
    assert shape is not None and dtype is not None

    def fetch() -> ir.Tensor:
        array = find(name).detach().contiguous().numpy()
        assert array.shape == tuple(shape), f"{name}: {array.shape} for {shape}"
        return ir.Tensor(array, name=name)

    value.const_value = ir.LazyTensor(fetch, dtype=dtype, shape=shape, name=name)


def fold_transposes(model: ir.Model) -> None:
    """Turn Transpose(weight) into a weight: a runtime would do it at every load, holding both."""
    graph = model.graph
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.name not in graph.initializers or source.const_value is None:
            continue
        name = f"{source.name}.transposed"
        if name not in graph.initializers:
            permutation = list(node.attributes["perm"].as_ints())
            graph.register_initializer(transpose_weight(name, source, source.const_value, permutation))
        node.outputs[0].replace_all_uses_with(graph.initializers[name])
        graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def transpose_weight(name: str, value: ir.Value, weight: ir.TensorProtocol, permutation: list[int]) -> ir.Value:
    """The `weight` of `value` with its axes in the order of `permutation`, as another promise."""
    sizes = weight.shape.numpy()
    shape = ir.Shape([sizes[axis] for axis in permutation])

    def fetch() -> ir.Tensor:
        return ir.Tensor(np.ascontiguousarray(weight.numpy().transpose(permutation)), name=name)

    promise = ir.LazyTensor(fetch, dtype=weight.dtype, shape=shape, name=name)
    return ir.Value(name=name, shape=shape, type=value.type, const_value=promise)


def strip_metadata(model: ir.Model) -> None:
    """Drop what tracing noted of this machine's files and stack."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


class quiet_exporter:
    """Silences the exporter's remarks on packages that this project does not use."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("torch.onnx")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *exception: object) -> None:
        self.logger.setLevel(self.level)
