"""Quality on held-out clips, beside bounds and other codecs.

    python -m bench.quality.run --bundle PATH --held-out FOLDER --ceiling FOLDER --curves

FOLDER holds `held-out-speech.npy`, `-music` and `-sound`: int16 [M, n] at 16 kHz. Every result is written to the
JSON as soon as it is computed. A run that is started again computes what is missing. `bench/quality/README.md` says how
to read it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from bench.harness.arguments import check_positive, require_package
from bench.harness.bundles import take_config
from bench.harness.printing import log
from bench.harness.results import RESULTS, describe_run
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.manifest import MANIFEST
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.cli.program import run_app
from sc_runtime.codec import Codec
from sc_runtime.errors import SettingsError
from sc_runtime.files import replacing
from sc_runtime.semanticodec.presets import Sampling, resolve_sampling
from sc_runtime.spec import DecodeOptions

from .baselines import BASELINES
from .chart import draw_curves, draw_quality
from .clips import HELD_OUT, METRICS, RECORDED, Domain, digest, load_domains
from .measure import CurvePlan, count_branches, list_samplings, measure_codebooks, measure_curves, measure_rows
from .metrics import explain_absence
from .results import GOALS, RECORDED_GOALS, Results, write_sampling
from .systems import Source, Systems
from .tables import print_results

VERSIONS = (
    "scipy",
    "soxr",
    "pystoi",
    "pesq",
    "visqol-python",
    "speechmos",
)  #: packages that metrics and resampling use

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    held_out: Annotated[Path, typer.Option(help="The folder of held-out-speech.npy, -music and -sound.")],
    bundle: Annotated[
        str | None, typer.Option(help="A bundle's folder or name; else $SC_RUNTIME_BUNDLE, else the newest.")
    ] = None,
    ceiling: Annotated[
        Path | None, typer.Option(help="A folder of ceiling-speech.npy and so on: the clips through VAE and HiFi-GAN.")
    ] = None,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Recordings, recorded-french.npy and so on, instead of held-out clips.")
    ] = False,
    metrics: Annotated[str, typer.Option(help="Metrics, comma-separated, or all that are installed.")] = "all",
    clips: Annotated[int | None, typer.Option(help="Clips of a domain, evenly chosen; by default all.")] = None,
    steps: Annotated[int | None, typer.Option(help="Diffusion steps, instead of the reference's 50.")] = None,
    curves: Annotated[
        bool, typer.Option("--curves", help="Quality against steps, solver, guidance and precision, and the presets.")
    ] = False,
    curve_clips: Annotated[int, typer.Option(help="Clips of a domain for the curves, of those above.")] = 8,
    curve_steps: Annotated[str, typer.Option(help="Steps of the curves.")] = "5,8,10,20,50",
    curve_guidance: Annotated[str, typer.Option(help="Guidances of the curves.")] = "1,1.5,2,3,4",
    curve_intervals: Annotated[
        str, typer.Option(help="Intervals of guidance of the curves; none to skip.")
    ] = "0-800,200-1000,400-1000",
    curve_precision: Annotated[
        str, typer.Option(help="Precisions of OpenVINO; none to skip.")
    ] = "float32,bfloat16,int8",
    backend: Annotated[str, typer.Option(help="What runs the networks.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; all by default.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The JSON; charts lie beside it. By default quality-BUNDLE or recorded-BUNDLE in bench/results."
        ),
    ] = None,
    no_chart: Annotated[bool, typer.Option("--no-chart", help="Write no PNG.")] = False,
) -> None:
    """Measure quality on held-out clips; print tables, write JSON and charts."""
    check_positive("--clips", clips)
    check_positive("--curve-clips", curve_clips)
    if not no_chart:
        require_package("matplotlib", "bench")
    sampling = resolve_sampling(DecodeOptions(steps=steps))
    precisions = [] if curve_precision == "none" else curve_precision.split(",")
    if not set(precisions) <= {"float32", "bfloat16", "int8"}:
        raise SettingsError(f"--curve-precision {curve_precision}", "float32,bfloat16,int8, some of them or none")
    plan = CurvePlan(list_samplings(sampling, curve_steps, curve_guidance, curve_intervals), precisions, curve_clips)
    domains = load_domains(held_out, ceiling, clips, parse_metrics(metrics), RECORDED if recorded else HELD_OUT)
    loaded = Bundle.load(locate_bundle(bundle))
    take_config(loaded)  # raises for another codec
    if loaded.manifest.precision != "float32":
        plan = replace(plan, precisions=[])  # the precision of its graphs is fixed
    codec = Codec(loaded, choose_backend(backend, threads, precision, loaded))
    count_branches(sampling, codec)  # raises for steps that cannot work
    out = out or RESULTS / f"{'recorded' if recorded else 'quality'}-{loaded.name}.json"
    run = describe_codec(codec)
    results = Results.open(out, describe_task(loaded, domains, sampling, backend, precision))
    log.print(f"Bundle {loaded.name}: {loaded.manifest.weights}")
    for metric in METRICS:
        if reason := explain_absence(metric):
            log.print(f"No {metric}: {reason}")

    sources = [Source(codec, domain) for domain in domains]
    with TemporaryDirectory() as folder:
        systems = Systems(codec, threads, Path(folder))
        for source in sources:
            measure_rows(source, systems, sampling, results)
        measure_codebooks(sources, results)
        for source in sources if curves else []:
            measure_curves(source, systems, plan, results)
    results.finish(run, curve_clips, RECORDED_GOALS if recorded else GOALS)
    print_results(results.document)
    log.print(f"Wrote {out}", soft_wrap=True)
    if not no_chart:
        for path, draw in list_charts(out, results.document):
            with replacing(path) as temporary:
                draw(results.document, temporary)
            log.print(f"Wrote {path}", soft_wrap=True)


def parse_metrics(text: str) -> list[str] | None:
    """Names of metrics, comma-separated; None for "all". Raises SettingsError."""
    names = text.split(",")
    if text == "all":
        return None
    if unknown := [name for name in names if name not in METRICS]:
        raise SettingsError(f"--metrics {','.join(unknown)}", f"all, or some of {', '.join(METRICS)}")
    return names


def describe_task(
    bundle: Bundle, domains: list[Domain], sampling: Sampling, backend: str, precision: str
) -> dict[str, Any]:
    """The settings that must be equal for results to be kept in one file."""
    config = take_config(bundle)
    return {
        "bundle": {
            "name": bundle.name,
            "weights": bundle.manifest.weights,
            "tps": config.tps,
            "vocab": config.vocab,
            "acoustic_vocab": config.acoustic_vocab,
            "bitrate": config.bitrate,
            "sha256": hash_file(bundle.path / MANIFEST),
        },
        "clips": {
            domain.name: {"clips": len(domain.clips), "samples": domain.clips.shape[1], "sha256": digest(domain.clips)}
            | ({"texts": list(domain.texts)} if domain.texts else {})
            for domain in domains
        },
        "sampling": write_sampling(sampling),
        "backend": {"backend": backend, "precision": precision},
    }


def describe_codec(codec: Codec) -> dict[str, Any]:
    """The conditions of the run: the machine, the device, all versions, and the metrics that are not installed."""
    run = describe_run(*VERSIONS)
    for package in dict.fromkeys([*(baseline.package for baseline in BASELINES), "pocketsphinx"]):
        if version := ask_debian(package):
            run["versions"][package] = version
    return run | {
        "device": f"{codec.backend.name}: {codec.backend.device}",
        "absent": {metric: reason for metric in METRICS if (reason := explain_absence(metric))},
    }


def ask_debian(package: str) -> str | None:
    """The version of a Debian package, None where there is no dpkg. c2enc does not print its own version."""
    command = ["dpkg-query", "-W", "-f=${Version}", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout or None


def list_charts(out: Path, document: dict[str, Any]) -> list[tuple[Path, Callable[[dict[str, Any], Path], None]]]:
    """The charts that the results allow: quality-NAME.png, and curves-NAME.png if there are curves."""
    charts: list[tuple[Path, Callable[[dict[str, Any], Path], None]]] = [(out.with_suffix(".png"), draw_quality)]
    if document["samplings"]:
        charts.append((out.with_name(f"curves-{out.stem.removeprefix('quality-')}.png"), draw_curves))
    return charts


if __name__ == "__main__":
    run_app(app)
