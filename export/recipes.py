"""What a graph is made from, as a hash: equal recipes give equal graphs, so that one is built once and shared."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sc_runtime.bundle.store import hash_file
from sc_runtime.samples import SPEECH_AND_MUSIC
from sc_runtime.semanticodec.presets import PRESETS

from .int8 import PRESET
from .registry import Graph, Sizes, Weights, find_export
from .trace import OPSET

PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir")  #: whose versions shape a graph
ROUNDING_PACKAGES = ("nncf", "openvino")  #: and those that are int8
SOURCES = ("trace.py",)  #: of this package that shape every graph
LOWERING = {"fp16": "precision.py", "int8": "int8.py"}  #: that shape those of another precision than float32
STORAGE = "storage.py"  #: that shapes those of float16 weights


def write_recipe(name: str, sizes: Sizes, weights: Weights, precision: str = "float32") -> str:
    """A hash of everything the graph `name` is made from: weights, sizes that it reads, its sources, the exporter."""
    export = find_export(sizes.config.codec)
    graph = export.graphs[name]
    digest = hashlib.sha256()
    digest.update(repr((name, OPSET, list_sizes(graph, sizes), weights.identity)).encode())
    digest.update(repr([version(package) for package in PACKAGES]).encode())
    if precision == "int8":  # its ranges are those of a decoding, by all that the codec is
        digest.update(repr((sizes, [version(package) for package in ROUNDING_PACKAGES])).encode())
        digest.update(hash_file(SPEECH_AND_MUSIC).encode() + repr(PRESETS[PRESET]).encode())
    sources = [*SOURCES, *export.networks[graph.network].sources]
    if precision != "float32":
        sources.append(LOWERING[precision])
    if weights.half and precision != "fp16":
        sources.append(STORAGE)
    for source in sources:
        digest.update((Path(__file__).parent / source).read_bytes())
    return digest.hexdigest()


@cache
def list_sizes(graph: Graph, sizes: Sizes) -> tuple[tuple[str, Any], ...]:
    """Every size that the modules and tensors of `graph` read, with its value.

    Noted while they are made, not listed by hand: a list would be wrong one day, and a stale graph taken for a new one.
    """
    values: dict[str, Any] = {}
    noted = Noted(sizes, values)
    with torch.device("meta"):
        graph.inputs(noted)
        graph.outputs(noted)
        graph.trace(noted)
    return tuple(sorted(values.items()))


class Noted:
    """Stands in for a record of settings, and notes what is read of it under the record's name and the field's."""

    def __init__(self, record: object, values: dict[str, Any]) -> None:
        self._record, self._values = record, values

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._record, name)
        if dataclasses.is_dataclass(value):
            return Noted(value, self._values)
        self._values[f"{type(self._record).__name__}.{name}"] = value
        return value
