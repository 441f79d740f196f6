"""Weights to a bundle: every graph traced, written and verified."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import Tensor

from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.manifest import BUILD, MANIFEST, FileEntry, GraphEntry, Manifest, lowers
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.codec import Codec
from sc_runtime.errors import BackendError, MissingExtraError
from sc_runtime.registry import find_model
from sc_runtime.samples import SPEECH_AND_MUSIC

from .int8 import round_graphs
from .plans import reuse_plans
from .precision import lower_precision, lower_specs
from .recipes import PACKAGES, ROUNDING_PACKAGES, write_recipe
from .registry import find_export
from .reuse import find_finished, has_recipe, list_donors, reuse_graphs
from .rewrite import save_variants
from .rounding import compare_fp16
from .spec import Origin, Report, Sizes, Tensors, Weights, list_origins, load_network, make_tensor, read_file
from .staging import staging
from .storage import shrink, store_half
from .trace import save_model, share_weights, trace
from .verify import Arrays, draw_inputs, measure_error, run_reference
from .weights import locate_weights

Case = tuple[Arrays, Arrays]  #: inputs, and the outputs that the torch network gives


def build_bundle(
    folder: Path,
    sizes: Sizes,
    vocabularies: tuple[int, ...],
    weights: Weights,
    *,
    size: str = "full",
    precision: str = "float32",
    force: bool = False,
    report: Report = lambda line: None,
) -> Bundle:
    """Write the bundle `folder`. `report` is called with a line before each step.

    Graphs of the same recipe are taken from `folder` or its neighbours instead of being built again, unless `force`.
    Everything is written to a folder beside `folder` and renamed into place; on any error nothing is left. Raises
    CheckpointError, VerificationError, BundleError, OutputError.
    """
    folder = folder.resolve()
    export = find_export(sizes.config.codec)
    spec = find_model(sizes.config.codec).spec
    traced = {name: "fp16" if lowers(precision, spec.graphs[name]) else "float32" for name in export.graphs}
    recipes = {
        name: write_recipe(name, sizes, weights, traced[name])
        for name, graph in export.graphs.items()
        if traced[name] == "float32" or not graph.shares
    }
    rounded = {name: write_recipe(name, sizes, weights, precision) for name in export.int8 if precision == "int8"}
    if not force and (built := find_finished(folder, recipes | rounded, vocabularies, sizes, weights)):
        return built
    report("Waiting for another build of the same bundle")
    with staging(folder) as stage:
        manifest = Manifest(
            codec=sizes.config.codec,
            settings=sizes.config.settings,
            vocabularies=vocabularies,
            weights=weights.description,
            command=describe_command(sizes, vocabularies, weights, size, precision),
            graphs={},
            files={},
            trained=weights.trained,
            precision=precision,
            made_with={package: version(package) for package in (*PACKAGES, *(ROUNDING_PACKAGES if rounded else ()))},
            sources=weights.sources,
        )
        builder = Builder(Bundle(stage, manifest), sizes, recipes, weights, report)
        builder.add_codebooks()
        missing = list(recipes)
        if not force:
            donors = list_donors(folder)
            # All graphs in int8 or none: the ranges of one come from decoding with the float32 forms of the others.
            held = all(any(has_recipe(donor, name, recipe) for donor in donors) for name, recipe in rounded.items())
            missing = reuse_graphs(builder.bundle, donors, recipes | rounded if held else recipes)
            rounded = {name: recipe for name, recipe in rounded.items() if not held or name in missing}
        builder.add_graphs(missing)
        if rounded:
            round_graphs(builder.bundle, rounded, report)
        graphs = {name: manifest.graphs[name] for name in recipes}
        manifest = dataclasses.replace(manifest, graphs=graphs, files=dict(sorted(manifest.files.items())))
        if weights.trained and precision != "fp16":
            report("Encoding the demo's recording in bfloat16")
            manifest = dataclasses.replace(manifest, equal_in_bfloat16=compare_bfloat16(Bundle(stage, manifest)))
        if weights.trained and precision == "fp16":
            report("Encoding the demo's recording and the held-out clips in float32 and in FP16")
            manifest = dataclasses.replace(
                manifest, equal_in_fp16=compare_fp16(Bundle(stage, manifest), sizes, weights)
            )
        (stage / MANIFEST).write_text(manifest.to_json())
        if not force:
            reuse_plans(Bundle(stage, manifest), [folder])
    return Bundle.load(folder)


class Builder:
    """Adds graphs and codebooks to the bundle that is being written."""

    def __init__(self, bundle: Bundle, sizes: Sizes, recipes: dict[str, str], weights: Weights, report: Report) -> None:
        self.bundle, self.sizes, self.recipes, self.weights, self.report = bundle, sizes, recipes, weights, report
        self.export = find_export(sizes.config.codec)

    def add_codebooks(self) -> None:
        self.report("Codebooks")
        vocabularies = self.bundle.manifest.vocabularies
        for name, array in self.export.make_codebooks(self.sizes, vocabularies, self.weights):
            path = self.bundle.path / f"{name}.npy"
            np.save(path, shrink(np.ascontiguousarray(array, np.float32)), allow_pickle=False)
            self.record(path)

    def add_graphs(self, names: list[str]) -> None:
        """Add the graphs `names`, grouped by checkpoint file and within a file by network."""
        files = list(dict.fromkeys(map(self.file_of, names)))
        for file in files:  # an error in the weights is raised now, not after minutes of tracing
            read_file(self.export, file, self.weights, self.sizes)
        for file in files:
            self.report(f"Reading the {file}'s weights")
            tensors = read_file(self.export, file, self.weights, self.sizes)
            inside = [name for name in names if self.file_of(name) == file]
            for network in dict.fromkeys(self.export.graphs[name].network for name in inside):
                self.add_network(
                    network, [name for name in inside if self.export.graphs[name].network == network], tensors
                )

    def add_network(self, network: str, graphs: list[str], tensors: Tensors) -> None:
        """Trace and verify the graphs of one network. Its torch copy is freed before a backend loads the graph."""
        self.report(f"{network}: running the torch network")
        cases = self.run_references(network, graphs, tensors)
        for name in graphs:
            started = time.perf_counter()
            self.write_graph(name, tensors)
            self.report(f"{name}: verifying")
            error = measure_error(self.bundle, name, cases.pop(name))
            entry = self.bundle.manifest.graphs[name]
            self.bundle.manifest.graphs[name] = dataclasses.replace(entry, error=error)
            self.report(f"{name}: done in {time.perf_counter() - started:.0f} s")

    def write_graph(self, name: str, tensors: Tensors) -> None:
        """Write the files of the graph `name` and put it into the manifest; it is not yet verified."""
        self.report(f"{name}: tracing")
        graph = self.export.graphs[name]
        inputs, outputs = graph.inputs(self.sizes), graph.outputs(self.sizes)
        find = partial(find_tensor, list_origins(graph, self.sizes), tensors)
        traced = trace(partial(graph.build, self.sizes), inputs, outputs, find)
        is_half = self.bundle.manifest.is_half(name)
        if is_half:
            lower_precision(traced.model)
            inputs, outputs = lower_specs(inputs), lower_specs(outputs)
        elif self.weights.half:
            store_half(traced.model)
        self.report(f"{name}: writing")
        shared = None
        if graph.shares:
            donor = self.bundle.path / f"{graph.shares}.onnx"
            shared = donor.with_name(self.bundle.manifest.graphs[graph.shares].files[-1])
            share_weights(traced.model, donor)
        paths = save_model(traced.model, self.bundle.path / f"{name}.onnx", shared)
        variants = save_variants(paths[0]) if is_half else {}
        paths[1:1] = variants.values()
        for path in paths:
            self.record(path)
        self.bundle.manifest.graphs[name] = GraphEntry(
            files=tuple(path.name for path in paths),
            variants={engine: path.name for engine, path in variants.items()},
            inputs=inputs,
            outputs=outputs,
            recipe=self.recipes[name],
            error=float("nan"),
            weights=locate_weights(paths[0], traced.weights),
        )

    def run_references(self, network: str, graphs: Iterable[str], tensors: Tensors) -> dict[str, list[Case]]:
        """Graph -> random inputs, and the torch network's outputs for them."""
        module = load_network(self.export.networks[network], self.sizes, tensors)
        cases: dict[str, list[Case]] = {}
        for name in graphs:
            graph = self.export.graphs[name]
            reference, outputs = graph.refer(module, self.sizes), graph.outputs(self.sizes)
            inputs = graph.inputs(self.sizes)
            cases[name] = [
                (feeds, run_reference(reference, feeds, outputs))
                for feeds in draw_inputs(lower_specs(inputs) if self.bundle.manifest.is_half(name) else inputs)
            ]
        del module, reference
        gc.collect()
        return cases

    def record(self, path: Path) -> None:
        self.bundle.manifest.files[path.name] = FileEntry(path.stat().st_size, hash_file(path))

    def file_of(self, graph: str) -> str:
        """The checkpoint file that holds the weights of `graph`."""
        return self.export.networks[self.export.graphs[graph].network].file


def find_tensor(origins: dict[str, Origin], tensors: Tensors, name: str) -> Tensor:
    return make_tensor(origins[name], tensors)


def compare_bfloat16(bundle: Bundle) -> float | None:
    """The share of the demo's tokens that stay equal in bfloat16; None if this machine cannot compute in bfloat16."""
    try:
        backends = [choose_backend("openvino", precision=precision) for precision in ("float32", "bfloat16")]
    except (BackendError, MissingExtraError):
        return None
    exact, rounded = (Codec(bundle, backend).encode(SPEECH_AND_MUSIC).codes for backend in backends)
    return float((exact == rounded).mean())


def name_bundle(sizes: Sizes, vocabularies: tuple[int, ...], label: str, size: str, precision: str = "float32") -> str:
    """Such as tps50-v32768-fp16, tps25-v4096-v32768-seeded1-tiny or unicodec. Usual values are left out."""
    config = sizes.config
    parts = [find_export(config.codec).name_bundle(config, vocabularies), label]
    parts += [part for part in (size, precision) if part not in ("full", "float32")]
    return "-".join(part for part in parts if part)


def describe_command(sizes: Sizes, vocabularies: tuple[int, ...], weights: Weights, size: str, precision: str) -> str:
    """The command that builds the bundle again."""
    config = sizes.config
    parts = [BUILD, find_export(config.codec).list_arguments(config, vocabularies)]
    if weights.arguments:
        parts.append(weights.arguments)
    if size != "full":
        parts.append(f"--size {size}")
    if precision != "float32":
        parts.append(f"--precision {precision}")
    return " ".join(parts)
