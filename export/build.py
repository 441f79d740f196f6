"""The build command: weights in, a verified bundle out, whole or not at all."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from filelock import FileLock
from rich.console import Console
from rich.table import Table

from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.locate import bundles_folder, list_bundles
from sc_runtime.bundle.manifest import MALFORMED, MANIFEST, FileEntry, GraphEntry, Manifest
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.cli.program import run_app
from sc_runtime.codec import Codec
from sc_runtime.errors import BackendError, BundleError, CodecError, MissingExtraError, OutputError, SettingsError
from sc_runtime.export.semanticodec.checkpoint import SeededWeights
from sc_runtime.files import link_or_copy
from sc_runtime.samples import SPEECH_AND_MUSIC

from .int8 import require_nncf, round_graphs
from .plans import BuiltPlan, build_plans, choose_targets, reuse_plans
from .precision import PRECISIONS, lower_precision, lower_specs
from .recipes import PACKAGES, ROUNDING_PACKAGES, write_recipe
from .registry import CodecExport, Network, Sizes, Tensors, Weights, find_export, read_tensors
from .storage import shrink, store_half
from .trace import save_model, share_weights, trace
from .verify import draw_inputs, measure_error, run_reference
from .weights import locate_weights

Report = Callable[[str], None]

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    codec: Annotated[str, typer.Option(help="semanticodec or unicodec.")] = "semanticodec",
    tps: Annotated[
        int | None, typer.Option(help="Tokens per second of SemantiCodec: 25, 50 (the default) or 100.")
    ] = None,
    vocab: Annotated[
        str | None,
        typer.Option(
            help="SemantiCodec's semantic vocabularies, comma-separated: 4096, 8192, 16384, 32768 (the default); the "
            "last is the bundle's default."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A local folder (UniCodec: file) in the published layout, instead of the hub."),
    ] = None,
    seeded: Annotated[
        int | None, typer.Option(help="Stand-in weights of this seed, instead of the hub: no download, no meaning.")
    ] = None,
    size: Annotated[str, typer.Option(help='"full", or "tiny" networks for tests and quick looks.')] = "full",
    precision: Annotated[
        str,
        typer.Option(
            help="Of the graphs: float32; fp16 with float32 islands, for GPUs; or int8 where that is harmless, for "
            "OpenVINO on processors."
        ),
    ] = "float32",
    engines: Annotated[
        str | None,
        typer.Option(help="Compile the graphs to plans too: tensorrt for the GPU at hand, rtx with or without one."),
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="GPUs that --engines rtx is for, comma-separated; by default the one at hand, else 8.9."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The bundle's folder; by default engines/NAME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again what is built already.")] = False,
) -> None:
    """Trace a codec's checkpoint to ONNX, verify every graph, and write a bundle for sc-runtime."""
    console = Console(stderr=True, highlight=False)
    if checkpoint and seeded is not None:
        raise SettingsError("--checkpoint and --seeded together", "one source of weights")
    if precision not in PRECISIONS:
        raise SettingsError(f"--precision {precision}", f"one of {', '.join(PRECISIONS)}")
    export = find_export(codec)
    if precision == "int8":
        check_int8(export, codec, engines)
    targets = choose_targets(engines, compute_capability)
    vocabularies = parse_vocabularies(vocab, export.vocabularies)
    sizes = export.choose_sizes(size, tps, vocabularies[-1])
    if size != "full" and not checkpoint and seeded is None:
        raise SettingsError(f"--size {size} with the published weights", "--size full", "or add --seeded 1")
    weights: Weights
    if seeded is not None:
        weights = SeededWeights(seeded)
    elif checkpoint:
        with console.status("Reading the checkpoint"):
            weights = export.open_local(checkpoint, sizes)
    else:
        if console.is_terminal:  # no status here: the hub's client draws its own bars
            console.print("Fetching the published weights")
        weights = export.fetch(sizes, vocabularies)
    folder = out or bundles_folder() / name_bundle(sizes, vocabularies, weights.label, size, precision)
    with console.status("") as status:
        bundle = build_bundle(
            folder, sizes, vocabularies, weights, size=size, precision=precision, force=force, report=status.update
        )
        plans = [plan for target in targets for plan in build_plans(bundle, target, force=force, report=status.update)]
    print_table(console, bundle)
    if plans:
        print_plans(console, plans)
    console.print(f"Bundle: {bundle.path}", soft_wrap=True)


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
    """Write the bundle `folder`; `report` hears what is being done.

    Graphs of the same recipe are taken from `folder` or its neighbours instead of being built again. Everything is
    written to a folder beside `folder` and renamed into place; on any error nothing is left. Raises CheckpointError,
    VerificationError, BundleError, OutputError.
    """
    folder = folder.resolve()
    export = find_export(sizes.config.codec)
    traced = "float32" if precision == "int8" else precision
    recipes = {
        name: write_recipe(name, sizes, weights, traced)
        for name, graph in export.graphs.items()
        if traced == "float32" or not graph.shares
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
        )
        builder = Builder(Bundle(stage, manifest), sizes, recipes, weights, report)
        builder.add_codebooks()
        missing = list(recipes)
        if not force:
            donors = list_donors(folder)
            others = builder.reuse_graphs(donors, recipes | rounded)
            missing = builder.reuse_graphs(donors, {name: recipes[name] for name in others})
            rounded = {name: recipe for name, recipe in rounded.items() if name in others}
        builder.check_weights(missing)
        for file in dict.fromkeys(map(builder.file_of, missing)):
            builder.add_file(file, [name for name in missing if builder.file_of(name) == file])
        if rounded:
            round_graphs(builder.bundle, rounded, report)
        graphs = {name: manifest.graphs[name] for name in recipes}
        manifest = dataclasses.replace(manifest, graphs=graphs, files=dict(sorted(manifest.files.items())))
        if weights.trained and traced == "float32":
            report("Encoding the demo's sample in bfloat16")
            manifest = dataclasses.replace(manifest, equal_in_bfloat16=compare_bfloat16(Bundle(stage, manifest)))
        (stage / MANIFEST).write_text(manifest.to_json())
        if not force:
            reuse_plans(Bundle(stage, manifest), [folder])
    return Bundle.load(folder)


def compare_bfloat16(bundle: Bundle) -> float | None:
    """The share of the demo's tokens that stay equal in bfloat16; None where nothing here computes in it."""
    try:
        backends = [choose_backend("openvino", precision=precision) for precision in ("float32", "bfloat16")]
    except (BackendError, MissingExtraError):
        return None
    exact, rounded = (Codec(bundle, backend).encode(SPEECH_AND_MUSIC).codes for backend in backends)
    return float((exact == rounded).mean())


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` if the block succeeds, and is removed if it does not.

    One build of `folder` at a time, by a lock that dies with its process: so what a killed build has left is nobody's,
    and goes. Raises BundleError where `folder` holds something else than a bundle, OutputError for every OSError.
    """
    stage, old = (folder.with_name(f".{folder.name}.{role}") for role in ("partial", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            settle(folder, old)
            if stage.exists():
                shutil.rmtree(stage)
            if folder.exists() and any(folder.iterdir()) and not is_bundle(folder):
                raise BundleError(
                    f"{folder} holds something else than a bundle", "an empty or new folder", "choose another --out"
                )
            stage.mkdir()
            try:
                yield stage
                if folder.exists():
                    folder.rename(old)
                stage.rename(folder)
            finally:
                settle(folder, old)
                shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        if isinstance(error, CodecError):
            raise
        raise OutputError(f"{folder}: {error.strerror or error}", "a place that can be written to") from error


def settle(folder: Path, old: Path) -> None:
    """Put `old`, which was set aside for a new `folder`, back if there is none, and remove it if there is."""
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def is_bundle(folder: Path) -> bool:
    """Whether a build made `folder`, whole or damaged since: what else has a manifest.json is not to be replaced."""
    return (folder / MANIFEST).is_file() and any(folder.glob("*.onnx"))


class Builder:
    """Adds graphs and codebooks to the bundle being written."""

    def __init__(self, bundle: Bundle, sizes: Sizes, recipes: dict[str, str], weights: Weights, report: Report) -> None:
        self.bundle, self.sizes, self.recipes, self.weights, self.report = bundle, sizes, recipes, weights, report
        self.export = find_export(sizes.config.codec)

    @property
    def is_half(self) -> bool:
        return self.bundle.manifest.precision == "fp16"

    def reuse_graphs(self, donors: list[Bundle], recipes: dict[str, str]) -> list[str]:
        """Take every graph of `recipes` that a donor holds of the same recipe; returns the names of the others."""
        missing = []
        for name, recipe in recipes.items():
            found = (donor for donor in donors if has_recipe(donor, name, recipe) and self.fits(donor, name))
            if donor := next(found, None):
                entry = donor.manifest.graphs[name]
                for file in entry.files:
                    if file not in self.bundle.manifest.files:
                        link_or_copy(donor.path / file, self.bundle.path / file)
                        self.bundle.manifest.files[file] = donor.manifest.files[file]
                self.bundle.manifest.graphs[name] = entry
            else:
                missing.append(name)
        return missing

    def fits(self, donor: Bundle, graph: str) -> bool:
        """Whether the weights that `graph` shares with another are those that are here already."""
        shares, ours, theirs = self.export.graphs[graph].shares, self.bundle.manifest.files, donor.manifest
        return not shares or all(
            ours.get(file) == theirs.files[file] for file in theirs.graphs[graph].files if file.startswith(shares)
        )

    def check_weights(self, graphs: list[str]) -> None:
        """Whatever is wrong with the weights of `graphs` is said now, not after minutes of tracing."""
        for file in dict.fromkeys(map(self.file_of, graphs)):
            read_tensors(file, self.weights, self.sizes)

    def add_file(self, file: str, graphs: list[str]) -> None:
        """The `graphs` whose weights lie in one checkpoint file."""
        self.report(f"Reading the {file}'s weights")
        tensors = read_tensors(file, self.weights, self.sizes)
        for network in dict.fromkeys(self.export.graphs[name].network for name in graphs):
            self.add_network(network, [name for name in graphs if self.export.graphs[name].network == network], tensors)

    def add_network(self, network_name: str, graphs: list[str], tensors: Tensors) -> None:
        """Trace and verify the graphs of one network; its torch copy is gone before a backend loads the graph."""
        network = self.export.networks[network_name]
        self.report(f"{network_name}: running the torch network")
        cases = self.run_references(network, graphs, tensors)
        for name in graphs:
            graph = self.export.graphs[name]
            started = time.perf_counter()
            self.report(f"{name}: tracing")
            inputs, outputs = graph.inputs(self.sizes), graph.outputs(self.sizes)
            find = partial(graph.find, network, tensors, self.sizes)
            traced = trace(partial(graph.trace, self.sizes), inputs, outputs, find)
            model = traced.model
            if self.is_half:
                lower_precision(model)
                inputs, outputs = lower_specs(inputs), lower_specs(outputs)
            elif self.weights.half:
                store_half(model)
            self.report(f"{name}: writing")
            shared = None
            if graph.shares:
                donor = self.bundle.path / f"{graph.shares}.onnx"
                shared = donor.with_name(self.bundle.manifest.graphs[graph.shares].files[-1])
                share_weights(model, donor)
            paths = save_model(model, self.bundle.path / f"{name}.onnx", shared)
            for path in paths:
                self.record(path)
            files = tuple(path.name for path in paths)
            weights = locate_weights(paths[0], traced.weights)
            entry = GraphEntry(files, inputs, outputs, self.recipes[name], float("nan"), weights)
            self.bundle.manifest.graphs[name] = entry
            self.report(f"{name}: verifying")
            error = measure_error(self.bundle, name, cases.pop(name))
            self.bundle.manifest.graphs[name] = dataclasses.replace(entry, error=error)
            self.report(f"{name}: done in {time.perf_counter() - started:.0f} s")

    def run_references(self, network: Network, graphs: list[str], tensors: Tensors) -> dict[str, list]:
        module = network.load(self.sizes, tensors)
        cases: dict[str, list] = {}
        for name in graphs:
            graph = self.export.graphs[name]
            reference, outputs = graph.reference(module, self.sizes), graph.outputs(self.sizes)
            inputs = graph.inputs(self.sizes)
            cases[name] = [
                (feeds, run_reference(reference, feeds, outputs))
                for feeds in draw_inputs(lower_specs(inputs) if self.is_half else inputs)
            ]
        del module, reference
        gc.collect()
        return cases

    def add_codebooks(self) -> None:
        self.report("Codebooks")
        vocabularies = self.bundle.manifest.vocabularies
        for name, array in self.export.make_codebooks(self.sizes, vocabularies, self.weights):
            path = self.bundle.path / f"{name}.npy"
            np.save(path, shrink(np.ascontiguousarray(array, np.float32)), allow_pickle=False)
            self.record(path)

    def record(self, path: Path) -> None:
        self.bundle.manifest.files[path.name] = FileEntry(path.stat().st_size, hash_file(path))

    def file_of(self, graph: str) -> str:
        """The checkpoint file that holds the weights of `graph`."""
        return self.export.networks[self.export.graphs[graph].network].file


def check_int8(export: CodecExport, codec: str, engines: str | None) -> None:
    """Raises SettingsError where int8 graphs cannot be, MissingExtraError without what makes them."""
    if not export.int8:
        raise SettingsError(f"--precision int8 of {codec}", "float32 or fp16: of no graph of it was int8 measured")
    if engines:
        raise SettingsError(f"--engines {engines} with --precision int8", "--precision fp16: int8 is for processors")
    require_nncf()


def parse_vocabularies(text: str | None, published: tuple[int, ...]) -> tuple[int, ...]:
    """By default the last of the `published`."""
    if text is None:
        return published[-1:]
    try:
        vocabularies = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        vocabularies = ()
    if not vocabularies or any(vocab not in published for vocab in vocabularies):
        raise SettingsError(f"--vocab {text}", f"one or more of {', '.join(map(str, published))}, comma-separated")
    return vocabularies


def name_bundle(sizes: Sizes, vocabularies: tuple[int, ...], label: str, size: str, precision: str = "float32") -> str:
    """Such as tps50-v32768-fp16, tps25-v4096-v32768-seeded1-tiny, unicodec: what is not the usual shows in it."""
    config = sizes.config
    parts = [find_export(config.codec).name(config, vocabularies), label]
    parts += [part for part in (size, precision) if part not in ("full", "float32")]
    return "-".join(part for part in parts if part)


def describe_command(sizes: Sizes, vocabularies: tuple[int, ...], weights: Weights, size: str, precision: str) -> str:
    config = sizes.config
    parts = ["python -m export.build", find_export(config.codec).tell_arguments(config, vocabularies)]
    if weights.arguments:
        parts.append(weights.arguments)
    if size != "full":
        parts.append(f"--size {size}")
    if precision != "float32":
        parts.append(f"--precision {precision}")
    return " ".join(parts)


def list_donors(folder: Path) -> list[Bundle]:
    """Bundles in and beside `folder`, damaged ones too: the graphs they hold are checked one by one."""
    donors = []
    for path in [folder, *list_bundles(folder.parent)]:
        try:
            donors.append(Bundle(path, Manifest.from_json((path / MANIFEST).read_text())))
        except (OSError, *MALFORMED):
            continue
    return donors


def has_recipe(bundle: Bundle, graph: str, recipe: str) -> bool:
    """Whether `bundle` holds `graph` made from the same recipe, unaltered."""
    entry = bundle.manifest.graphs.get(graph)
    if entry is None or entry.recipe != recipe:
        return False
    try:
        bundle.find_graph(graph)
    except (CodecError, OSError):
        return False
    return True


def find_finished(
    folder: Path, recipes: dict[str, str], vocabularies: tuple[int, ...], sizes: Sizes, weights: Weights
) -> Bundle | None:
    """The bundle in `folder` when it is already what would be built."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        bundle = Bundle.load(folder)
        for file in bundle.manifest.files:
            bundle.verify(file)
        same = {name: entry.recipe for name, entry in bundle.manifest.graphs.items()} == recipes
        same &= bundle.manifest.vocabularies == vocabularies
        same = same and all(
            np.array_equal(bundle.load_codebook(name), array)
            for name, array in find_export(sizes.config.codec).make_codebooks(sizes, vocabularies, weights)
        )
    except (CodecError, OSError):  # whatever it is, building will meet it again or mend it
        return None
    return bundle if same else None


def print_table(console: Console, bundle: Bundle) -> None:
    table = Table("graph", "MB", "relative error against the exact network", title=bundle.name)
    for name, entry in bundle.manifest.graphs.items():
        size = sum(bundle.manifest.files[file].bytes for file in entry.files) / 1e6
        table.add_row(name, f"{size:.1f}", f"{entry.error:.1e}")
    console.print(table)


def print_plans(console: Console, plans: list[BuiltPlan]) -> None:
    table = Table("plan", "for", "MB", "seconds", title="TensorRT")
    for plan in plans:
        table.add_row(plan.graph, str(plan.target), f"{plan.bytes / 1e6:.1f}", f"{plan.seconds:.1f}")
    console.print(table)


def run() -> None:
    torch.set_grad_enabled(False)
    run_app(app)


if __name__ == "__main__":
    run()
