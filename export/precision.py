"""A float32 graph becomes an FP16 graph, with float32 islands where half precision is too coarse or too narrow.

TensorRT 11 has no switch for this: an engine computes in the types that the graph states. Half precision has 11 bits
and ends at 65504. Products with weights can be rounded to it, because tensor cores add up in float32. The following
stays float32, and nothing else:

- normalisations (`ISLANDS`): a sum of squares over up to a quarter of a million values passes 65504;
- softmax (`ISLANDS`): exponentials, and their sum over up to 4096 positions, span more than half precision does. The
  cost in speed, if TensorRT does not fuse the attention around it, has not been measured;
- all that is computed from whole numbers alone, from the diffusion step and from positions (`find_counted`): angles
  reach 999 and 2250 rad, where half precision has steps of 0.5 and 2. The layers that follow the sinusoids stay float32
  too, because they are hardly any arithmetic. Measured: without this island the error of the T-UNet is 1.2e-2, with it
  2.6e-3 (full size, 100 tps, stand-in weights). UniCodec's encoder has 3.0e-3 and 1.9e-3, over 17 s of audio;
- the graphs' inputs and outputs, except the keys and values that go from `conditioning` to every `tunet_step`
  (`lower_specs`): callers see float32 as before, and in the loop only the latent is converted.

Islands that gained nothing at full size were removed. UniCodec's decoder has an error of 2.5e-3 with its phases,
magnitudes and inverse STFT in half precision, 2.4e-3 with them in float32 (phases ten times as wide: 1.07e-2 and
1.05e-2): the rounding there is small beside the error of its inputs. For the gates of UniCodec's mixture of experts
float32 gained nothing either: rounded gates choose another expert in 7 of 10 168 cases, float32 gates in 9. These are
cases in which two experts are about equally likely, and the position is then off by 18 %. Float32 convolutions, at many
times the cost, would leave 3 cases. Without the positions' island there are 18.

The converters that exist (onnxconverter-common, its copy in ONNX Runtime, ModelOpt AutoCast) need the whole model in
memory as one protobuf, which cannot hold 7 GB of weights. This one passes on the promises of `trace`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sc_runtime.spec import TensorSpec

PRECISIONS = ("float32", "mixed", "fp16", "int8")
ISLANDS = ("InstanceNormalization", "LayerNormalization", "Softmax")  #: operators computed in float32
KEYS_AND_VALUES = ("key_", "value_")  #: prefixes of the inputs and outputs that are float16
ACTIVATIONS = {"Resize": 1}  #: how many of an operator's inputs, from the first, are of its type; by default all
TYPELESS = ("Shape", "Cast")  #: operators that take any type, and whose output type does not change

LOW, HIGH = ir.DataType.FLOAT16, ir.DataType.FLOAT


def lower_specs(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The inputs or outputs of a graph in its FP16 form."""
    return {
        name: dataclasses.replace(spec, dtype="float16") if name.startswith(KEYS_AND_VALUES) else spec
        for name, spec in specs.items()
    }


def lower_precision(model: ir.Model) -> None:
    """Make `model`, float32 as `trace` gives it, an FP16 graph with float32 islands; weights stay promises."""
    graph = model.graph
    islands = find_counted(graph) | {node for node in graph if node.op_type in ISLANDS}
    caster = Caster(graph)
    outputs = [(value, LOW if (value.name or "").startswith(KEYS_AND_VALUES) else HIGH) for value in graph.outputs]
    for value in graph.inputs:
        if value.dtype == HIGH and (value.name or "").startswith(KEYS_AND_VALUES):
            value.dtype = LOW
    for node in list(graph):
        if node.op_type in TYPELESS:
            continue
        wanted = HIGH if node in islands else LOW
        for i, source in enumerate(node.inputs[: ACTIVATIONS.get(node.op_type)]):
            if source is not None and source.dtype in (LOW, HIGH) and source.dtype != wanted:
                node.replace_input_with(i, caster.cast(source, wanted))
        for value in node.outputs:
            if value.dtype == HIGH:
                value.dtype = wanted
    for i, (value, wanted) in enumerate(outputs):
        if value.dtype != wanted:
            name, value.name = value.name, f"{value.name}.inside"
            made = caster.cast(value, wanted)
            graph.outputs[i], made.name = made, name
    caster.take_names()


def find_counted(graph: ir.Graph) -> set[ir.Node]:
    """The nodes whose float32 values derive from integers alone: from the diffusion step and from sizes."""
    inputs = set(graph.inputs)
    counted = {value for value in inputs if value.dtype != HIGH}
    found: set[ir.Node] = set()
    for node in graph:
        sources = [value for value in node.inputs if value in inputs or (value is not None and value.producer())]
        if node.op_type != "Shape" and not (sources and counted.issuperset(sources)):
            continue
        if node.outputs[0].dtype == HIGH:
            if node.op_type != "Cast" and all(value.dtype != HIGH for value in sources):
                continue  # weights, repeated to some size
            found.add(node)
        counted |= set(node.outputs)
    return found


class Caster:
    """Converts values to another type, each once: weights by another promise, computed values by a Cast."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if (value, dtype) not in self.made:
            name = f"{value.name}.{dtype.name.lower()}"
            if value.name in self.graph.initializers and value.const_value is not None:
                made = cast_weight(name, value.const_value, dtype)
                self.graph.register_initializer(made)
            else:
                made = self.insert(name, value, dtype)
            self.made[value, dtype] = made
        return self.made[value, dtype]

    def take_names(self) -> None:
        """Drop the weights that nothing uses any more, and give their names to those that replace them."""
        initializers = self.graph.initializers
        for (value, _), made in self.made.items():
            name = value.name
            if name is not None and name in initializers and not value.uses():
                del initializers[name]
                made.name = name

    def insert(self, name: str, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A Cast right behind the node that computes `value`, so that it comes before every use."""
        node = ir.node("Cast", [value], attributes={"to": dtype}, name=f"cast_{name}")
        made = node.outputs[0]
        made.name, made.shape, made.type = name, value.shape, ir.TensorType(dtype)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        return made


def cast_weight(name: str, weight: ir.TensorProtocol, dtype: ir.DataType) -> ir.Value:
    """The `weight` in another type, as another promise. Numbers past the type's range become infinite."""
    shape = ir.Shape(weight.shape.numpy())

    def fetch() -> ir.Tensor:
        with np.errstate(over="ignore"):  # what became infinite is found when the graph is verified
            return ir.Tensor(weight.numpy().astype(dtype.numpy()), name=name)

    promise = ir.LazyTensor(fetch, dtype=dtype, shape=shape, name=name)
    return ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=promise)
