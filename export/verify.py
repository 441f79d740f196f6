"""Every exported graph against its float32 torch network, on random inputs at two batch sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from sc_runtime.accuracy import relative_error
from sc_runtime.backends.onnxruntime import OnnxRuntimeBackend
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import VerificationError
from sc_runtime.files import temporary_file
from sc_runtime.networks import Graph
from sc_runtime.spec import TensorSpec

#: Sizes of the dynamic axes.
CASES = (
    {"batch": 1, "frames": 1024, "samples": 48_011, "positions": 150},
    {"batch": 3, "frames": 160, "samples": 7000, "positions": 9},
)
TOLERANCE = 1e-4  #: relative error ||a - b|| / ||b||, float32 graphs
FP16_TOLERANCE = 1e-2  #: the same, FP16 graphs
CHOICES = 0.05  #: share of positions for which an FP16 graph with an ArgMax may choose another expert
LARGE = 10  #: an FP16 graph must not overflow on inputs this many times the usual ones

Arrays = dict[str, np.ndarray]


def draw_inputs(inputs: dict[str, TensorSpec]) -> Iterator[Arrays]:
    """Random inputs for each of CASES: standard normal, diffusion steps for integers."""
    generator = np.random.default_rng(0)
    for axes in CASES:
        feeds: Arrays = {}
        for name, spec in inputs.items():
            shape = spec.resolve(**axes)
            if spec.dtype == "int64":
                feeds[name] = generator.integers(1, 1000, shape)
            else:
                feeds[name] = generator.standard_normal(shape, np.float32).astype(spec.dtype)
        yield feeds


def run_reference(module: nn.Module, feeds: Arrays, outputs: dict[str, TensorSpec]) -> Arrays:
    """The outputs of the torch network, computed in float32 from `feeds` of any type."""
    tensors = map(torch.from_numpy, feeds.values())
    with torch.inference_mode():
        result = module(*(tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors))
    result = result if isinstance(result, tuple) else (result,)
    return {name: tensor.numpy() for name, tensor in zip(outputs, result, strict=True)}


def measure_error(bundle: Bundle, name: str, cases: list[tuple[Arrays, Arrays]]) -> float:
    """Largest relative error of graph `name` over (feeds, expected) pairs.

    An FP16 graph is run with every value rounded (`open_rounded`), and also on inputs `LARGE` times as large. If it
    chooses between experts, the share `CHOICES` of positions that are furthest from the truth does not count: rounding
    decides between experts that are about equally likely. Raises VerificationError if the error is over the tolerance
    or a value is not finite.
    """
    half = bundle.manifest.is_half(name)
    tolerance = FP16_TOLERANCE if half else TOLERANCE
    graph = open_rounded(bundle, name) if half else OnnxRuntimeBackend().open(bundle, name)
    spare = CHOICES if half and chooses(bundle.find_graph(name)) else 0.0
    worst = 0.0
    for feeds, expected in cases:
        found = graph.run(feeds)
        for output, truth in expected.items():
            if found[output].shape != truth.shape or not np.isfinite(found[output]).all():
                raise VerificationError(
                    f"graph {name}, output {output}: shape {found[output].shape} or values not finite",
                    f"finite values of shape {truth.shape}",
                )
            worst = max(worst, relative_error(*keep_nearest(found[output], truth, spare)))
    if worst > tolerance:
        raise VerificationError(
            f"graph {name}: relative error {worst:.2e} against its torch network",
            f"at most {tolerance:.0e}",
            "no bundle was written; build with --precision float32"
            if half
            else "no bundle was written; this is a bug of the export or of the backend",
        )
    if half:
        check_range(graph, name, cases[0][0])
    return worst


def chooses(path: Path) -> bool:
    return any(node.op_type == "ArgMax" for node in ir.load(path).graph)


def keep_nearest(found: np.ndarray, truth: np.ndarray, spare: float) -> tuple[np.ndarray, np.ndarray]:
    """The rows (last axis) of both arrays, without those that are furthest apart: the share `spare`, rounded up."""
    rows, others = (array.reshape(-1, array.shape[-1]) for array in (found, truth))
    distances = np.linalg.norm(np.subtract(rows, others, dtype=np.float64), axis=1)
    nearest = distances.argsort()[: len(rows) - math.ceil(spare * len(rows))]
    return rows[nearest], others[nearest]


def check_range(graph: Graph, name: str, feeds: Arrays) -> None:
    """Raises VerificationError if `graph` overflows on inputs `LARGE` times `feeds`."""
    large = {key: value * value.dtype.type(LARGE) if value.dtype.kind == "f" else value for key, value in feeds.items()}
    for output, found in graph.run(large).items():
        if not np.isfinite(found).all():
            raise VerificationError(
                f"graph {name}, output {output}: not finite on inputs {LARGE} times the usual",
                "finite values; half precision ends at 65504",
                "no bundle was written; build with --precision float32",
            )


def open_rounded(bundle: Bundle, name: str) -> Graph:
    """The FP16 graph `name`, to be run on the CPU with every half-precision value rounded to half precision.

    ONNX Runtime has few half-precision operators for the CPU. It puts the others between casts, and drops casts that
    follow each other, so a value that a GPU would round passes as float32. Here two operators that ONNX Runtime has in
    half precision, and that change nothing, follow each half-precision value. The inside of an operator stays float32.
    That holds for the LSTM too, which TensorRT takes apart: emulated with every state and gate rounded, the full-size
    LSTM of 100 tps has an error of 1.6e-3 instead of 9e-4.
    """
    path = bundle.find_graph(name)
    with temporary_file(path.parent, ".rounded.onnx") as rounded:  # beside the weights, which it shares
        save_rounded(ir.load(path), rounded)
        return OnnxRuntimeBackend().load(rounded, bundle, name)


def save_rounded(model: ir.Model, path: Path) -> None:
    graph = model.graph
    axis = ir.tensor(np.zeros(1, np.int64), name="rounding_axis")
    axes = ir.Value(name=axis.name, shape=ir.Shape([1]), type=ir.TensorType(axis.dtype), const_value=axis)
    graph.register_initializer(axes)
    for node in list(graph):
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT16 or not value.uses():
                continue
            longer = ir.node("Unsqueeze", [value, axes])
            rounded = ir.node("Squeeze", [longer.outputs[0], axes])
            for i, made in enumerate((longer, rounded)):
                made.outputs[0].name, made.outputs[0].type = f"{value.name}.rounded{i}", value.type
            value.replace_all_uses_with(rounded.outputs[0])
            longer.replace_input_with(0, value)
            graph.insert_after(node, [longer, rounded])
    ir.save(model, path)
