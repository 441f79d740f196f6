"""The build command: parsing and printing. `builder.py` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from sc_runtime.bundle.locate import bundles_folder
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.errors import SettingsError

from .builder import build_bundle, name_bundle
from .checkpoint import REVISION
from .int8 import require_nncf
from .plans import BuiltPlan, build_plans, choose_targets
from .precision import PRECISIONS
from .registry import find_export
from .seeded import SeededWeights
from .spec import CodecExport, Weights

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
    revision: Annotated[
        str | None,
        typer.Option(help="A commit, tag or branch of the hub's repository. The bundle's manifest states the commit."),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            help='Of the networks: "full", "tiny" for tests and quick looks, "embedded" for the model in the package.'
        ),
    ] = "full",
    precision: Annotated[
        str,
        typer.Option(
            help="Precision of the graphs. float32. mixed, for GPUs: tokens in float32, sound in fp16. fp16, for GPUs: "
            "both in fp16, which changes tokens. int8, for OpenVINO on processors: some graphs in int8. auto: mixed "
            "with --engines, else float32."
        ),
    ] = "auto",
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
    if revision and (checkpoint or seeded is not None):
        raise SettingsError(f"--revision {revision} with other weights than the hub's", "--revision alone")
    precision = choose_precision(precision, engines)
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
        weights = export.fetch(sizes, vocabularies, revision or REVISION)
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


def choose_precision(name: str, engines: str | None) -> str:
    """The precision `name`; "auto" is "mixed" with `engines`, else "float32". Both keep tokens exact.

    Raises SettingsError for an unknown name.
    """
    if name == "auto":
        return "mixed" if engines else "float32"
    if name not in PRECISIONS:
        raise SettingsError(f"--precision {name}", f"one of auto, {', '.join(PRECISIONS)}")
    return name


def check_int8(export: CodecExport, codec: str, engines: str | None) -> None:
    """Raises SettingsError if int8 is impossible, MissingExtraError if NNCF or OpenVINO is not installed."""
    if not export.int8:
        expected = "float32, mixed or fp16: none of its graphs was measured in int8"
        raise SettingsError(f"--precision int8 of {codec}", expected)
    if engines:
        raise SettingsError(f"--engines {engines} with --precision int8", "--precision mixed: int8 is for processors")
    require_nncf()


def parse_vocabularies(text: str | None, published: tuple[int, ...]) -> tuple[int, ...]:
    """The vocabularies that `text` lists; without `text` the last of the `published`."""
    if text is None:
        return published[-1:]
    try:
        vocabularies = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        vocabularies = ()
    if not vocabularies or any(vocab not in published for vocab in vocabularies):
        raise SettingsError(f"--vocab {text}", f"one or more of {', '.join(map(str, published))}, comma-separated")
    return vocabularies


def print_table(console: Console, bundle: Bundle) -> None:
    table = Table("graph", "MB", "relative error against the exact network", title=bundle.name)
    for name, entry in bundle.manifest.graphs.items():
        table.add_row(name, f"{bundle.count_bytes(name) / 1e6:.1f}", f"{entry.error:.1e}")
    console.print(table)
    shares = {"bfloat16": bundle.manifest.equal_in_bfloat16, "FP16": bundle.manifest.equal_in_fp16}
    for kind, share in shares.items():
        if share is not None:
            console.print(f"Tokens that stay equal in {kind}: {share:.2%}")


def print_plans(console: Console, plans: list[BuiltPlan]) -> None:
    table = Table("plan", "for", "MB", "seconds", title="TensorRT")
    for plan in plans:
        table.add_row(plan.graph, str(plan.target), f"{plan.bytes / 1e6:.1f}", f"{plan.seconds:.1f}")
    console.print(table)


def run_arguments(arguments: list[str], program: str) -> int:
    """Run the build command with `arguments` as part of `program`. Returns the exit code. Exceptions pass through."""
    with torch.no_grad():
        return typer.main.get_command(app)(arguments, prog_name=program, standalone_mode=False) or 0


def run() -> None:
    torch.set_grad_enabled(False)
    run_app(app)


if __name__ == "__main__":
    run()
