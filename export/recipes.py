"""What a graph is made from, as a hash: equal recipes give equal graphs, so that one is built once and shared."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sc_runtime.bundle.store import hash_file
from sc_runtime.samples import SPEECH_AND_MUSIC
from sc_runtime.semanticodec.presets import PRESETS

from .calibration import PRESET
from .code import FOLDER, describe_code
from .registry import find_export
from .spec import Graph, Sizes, Weights, list_origins

PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir")  #: whose versions shape a graph
ROUNDING_PACKAGES = ("nncf", "openvino")  #: whose versions shape an int8 graph too
LOWERING = {
    "float32": (),
    "fp16": ("precision", "rewrite.engines"),
    "int8": ("calibration",),
}  #: precision -> modules that make it


def write_recipe(
    name: str, sizes: Sizes, weights: Weights, precision: str = "float32", *, folder: Path = FOLDER
) -> str:
    """A hash of everything that the graph `name` is made from.

    That is: the weights and their published names, the sizes that are read, the inputs and outputs, the classes of the
    traced module's parts, the versions of the packages, and the code: that of these parts, of the functions that make
    tensors, of the tracing and of the precision. The code is found from imports (`code.py`) in the export's `folder`.
    """
    export = find_export(sizes.config.codec)
    description = describe_graph(export.graphs[name], sizes)
    modules = {"trace", *LOWERING[precision], *description.modules}
    facts: list[object] = [name, description.facts, weights.identity, [version(package) for package in PACKAGES]]
    if precision == "int8":  # the ranges come from a decoding, which runs the whole codec
        facts += [sizes, export.int8[name], [version(package) for package in ROUNDING_PACKAGES]]
        facts += [hash_file(SPEECH_AND_MUSIC), PRESETS[PRESET]]
    if weights.half and precision != "fp16":
        modules.add("storage")
    facts.append(describe_code(modules, apart=[str(name_module(type(sizes).__module__))], folder=folder))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Description:
    """What a graph is made from at given sizes: facts, and the modules of the export that make it."""

    facts: tuple[object, ...]
    modules: frozenset[str]
    sizes: dict[str, Any]  #: every size that was read, with its value


@cache
def describe_graph(graph: Graph, sizes: Sizes) -> Description:
    """The sizes that a graph depends on are noted while they are read: a list by hand would be wrong one day."""
    read: dict[str, Any] = {}
    noted: Any = Noted(sizes, read)
    with torch.device("meta"):
        module = graph.build(noted)
    parts = [(path, type(part)) for path, part in module.named_modules()]
    origins = list_origins(graph, noted)
    makers = {name: describe_maker(origin.make) for name, origin in origins.items() if origin.make}
    facts = (
        graph.inputs(noted),
        graph.outputs(noted),
        [(path, kind.__qualname__) for path, kind in parts],
        [(name, dict(origin.shapes), makers.get(name)) for name, origin in origins.items()],
        sorted(read.items()),
    )
    sources = {kind.__module__ for _, kind in parts} | {maker[0] for maker in makers.values()}
    return Description(facts, frozenset(filter(None, map(name_module, sources))), read)


def describe_maker(make: Callable[..., torch.Tensor]) -> tuple[str, str, tuple[object, ...]]:
    """Module, name and bound arguments of a function."""
    bound = make.args if isinstance(make, partial) else ()
    function: Any = make.func if isinstance(make, partial) else make
    return function.__module__, function.__qualname__, bound


def name_module(module: str) -> str | None:
    """The name of a module relative to the export; None for one outside, such as torch's.

    The file decides: the export is `export` or `sc_runtime.export`, depending on how it was started.
    """
    path = Path(sys.modules[module].__file__ or "").resolve()
    if not path.is_relative_to(FOLDER.resolve()):
        return None
    return ".".join(path.relative_to(FOLDER.resolve()).with_suffix("").parts)


class Noted:
    """Stands in for a record of settings. Notes each field that is read, under the record's name and the field's."""

    def __init__(self, record: object, values: dict[str, Any]) -> None:
        self._record, self._values = record, values

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._record, name)
        if dataclasses.is_dataclass(value):
            return Noted(value, self._values)
        self._values[f"{type(self._record).__name__}.{name}"] = value
        return value
