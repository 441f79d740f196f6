"""How long encoding and decoding take, by stage, beside the published procedure: `python bench/rtf.py`.

`bench/speed/README.md` says how to read what it prints.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # Python puts the folder of this file there

from bench.harness.arguments import check_positive, parse_batch, parse_seconds, require_package
from bench.harness.bundles import count_parameters, find_newest, find_seed
from bench.harness.printing import log, warn_if_busy
from bench.harness.processes import Child
from bench.harness.results import RESULTS, describe_command, describe_run, write_results
from bench.speed.chart import draw_chart
from bench.speed.peers import PEERS, Facts, FactsProgram
from bench.speed.peers_chart import draw_peers
from bench.speed.rows import Plan, count_steps, measure_direction
from bench.speed.sides import DIRECTIONS, Settings
from bench.speed.subjects import find_subject
from bench.speed.table import print_results
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.locate import BUNDLE_VARIABLE, locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.options import spread_options
from sc_runtime.cli.program import run_app
from sc_runtime.errors import SettingsError
from sc_runtime.files import replacing
from sc_runtime.semanticodec.model import DECODE_BATCH
from sc_runtime.semanticodec.presets import PRESETS, resolve_sampling
from sc_runtime.spec import DecodeOptions

FORMAT = 1  #: of the JSON
BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@spread_options("preset", "steps", "guidance", "eta", "solver")
def main(
    bundle: Annotated[
        str | None, typer.Option(help="A bundle's folder or name; else $SC_RUNTIME_BUNDLE, else the newest.")
    ] = None,
    seconds: Annotated[str, typer.Option(help="Durations of audio, comma-separated.")] = "5,10,30,60",
    *,
    options: DecodeOptions,
    backend: Annotated[str, typer.Option(help="What runs the runtime's networks.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of either side; all by default.")] = None,
    batch: Annotated[
        str | None, typer.Option(help="Windows the runtime runs together, such as 4,1 for encoding and decoding.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Most runs of each side for a row.")] = 3,
    row_seconds: Annotated[
        float, typer.Option(help="Seconds that a side may spend on a row; a longer decode is extrapolated.")
    ] = 60,
    measure_steps: Annotated[
        int, typer.Option(help="Steps that are timed where a decode is extrapolated; the rest cost the same.")
    ] = 5,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Time the published procedure (PyTorch eager) beside the runtime.")
    ] = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="Time other neural codecs, of transformers, beside the runtime.")
    ] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The baseline's weights, where the bundle's are not stand-ins.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The JSON; the chart lies beside it. By default bench/results/BUNDLE.json.")
    ] = None,
    no_chart: Annotated[bool, typer.Option("--no-chart", help="Write no PNG.")] = False,
) -> None:
    """Time encoding and decoding by stage; print a table, write JSON and a chart.

    The options of the sampler are the runtime's. The published side uses them too if the solver is DDIM, its only one;
    otherwise it uses the preset `reference`.
    """
    durations = parse_seconds(seconds)
    batches = parse_batch(batch) if batch else None
    choose_backend(backend, threads, precision)  # raises for one that cannot work
    sampling = resolve_sampling(options)
    published = sampling if sampling.solver == "ddim" else PRESETS["reference"]
    for each in (sampling, published):
        for count in (each.steps, measure_steps):
            count_steps(each, count)  # raises for one that cannot work
    check_positive("--repeats", repeats)
    if threads is not None:
        os.environ.update(dict.fromkeys(BLAS_THREADS, str(threads)))  # the sides' processes inherit them
    if not no_chart:
        require_package("matplotlib", "bench")
    if baseline:
        require_package("torch", "export")
    if peers:
        require_package("transformers", "peers")

    loaded = Bundle.load(locate_bundle(bundle) if bundle or os.environ.get(BUNDLE_VARIABLE) else find_newest())
    has_sampler = "steps" in loaded.spec.decode_options
    if options != DecodeOptions() and not has_sampler:
        raise SettingsError(f"settings of a sampler with {loaded.name}", f"none: {loaded.manifest.codec} has none")
    if baseline and checkpoint is None:
        find_seed(loaded)  # raises if the bundle's weights cannot be made again
    chosen = choose_backend(backend, threads, precision, loaded)
    encode_batch, decode_batch = batches or (chosen.encode_batch, DECODE_BATCH)
    suffix = "" if options.preset in (None, "reference") else f"-{options.preset}"
    out = out or RESULTS / f"{loaded.name}{suffix}.json"
    ours, theirs = (sampling, published) if has_sampler else (None, None)
    settings = Settings(
        loaded.path,
        ours,
        theirs,
        backend,
        precision,
        threads,
        encode_batch,
        decode_batch,
        checkpoint,
        peer_device="cpu" if chosen.gpu is None else "cuda",
    )
    plan = Plan(settings, loaded.choose_config(), find_subject(loaded), repeats, row_seconds, measure_steps)

    started = time.perf_counter()
    run = describe_run(*(["transformers"] if peers else []))
    log.print(f"Bundle {loaded.name}: {loaded.manifest.weights}")
    warn_if_busy(run["machine"])
    sides = ["runtime", *(["published"] if baseline else []), *(PEERS if peers else [])]
    rows = [row for direction in DIRECTIONS for row in measure_direction(direction, durations, sides, plan)]
    took = time.perf_counter() - started
    results = {"format": FORMAT} | run | describe_plan(plan, loaded) | {"took_s": took, "rows": rows}
    if peers:
        results["peers"] = describe_peers()
    print_results(results)
    write_results(out, results)
    log.print(f"Wrote {out}", soft_wrap=True)
    if not no_chart:
        with replacing(out.with_suffix(".png")) as temporary:
            draw_chart(results, temporary)
        log.print(f"Wrote {out.with_suffix('.png')}", soft_wrap=True)
        if peers:
            chart = out.with_name(f"{out.stem}-peers.png")
            with replacing(chart) as temporary:
                draw_peers(results, temporary)
            log.print(f"Wrote {chart}", soft_wrap=True)


def describe_peers() -> dict[str, Any]:
    """The facts and the arithmetic of each peer, for the JSON."""
    with Child("the facts of the peers", FactsProgram) as child:
        found: dict[str, tuple[Facts, dict[str, int]]] = child.ask("the facts of the peers")
    return {name: asdict(facts) | {"flop_per_second": flop} for name, (facts, flop) in found.items()}


def describe_plan(plan: Plan, bundle: Bundle) -> dict[str, Any]:
    """What is measured and how, for the JSON."""
    settings = plan.settings
    return {
        "command": describe_command("bench/rtf.py"),
        "bundle": {
            "name": bundle.name,
            "codec": plan.config.codec,
            "tps": plan.config.tps,
            "vocab": plan.config.vocab,
            "settings": bundle.manifest.settings,
            "weights": bundle.manifest.weights,
            "bitrate": plan.config.bitrate,
            "parameters": count_parameters(bundle),
        },
        "settings": {
            **(asdict(settings.sampling) if settings.sampling else {}),
            "published": asdict(settings.published_sampling) if settings.published_sampling else {},
            "backend": settings.backend,
            "precision": settings.precision,
            "threads": settings.threads,
            "batch": {"encode": settings.encode_batch, "decode": settings.decode_batch},
            "repeats": plan.repeats,
            "row_seconds": plan.row_seconds,
            "measure_steps": plan.measure_steps,
        },
    }


if __name__ == "__main__":
    run_app(app)
