"""How long encoding and decoding take, by stage, beside the published procedure: `python bench/rtf.py`.

`bench/README.md` says how to read what it prints.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks in bench/ only

from bench.machine import ROOT, describe_commit, describe_machine, list_versions
from bench.speed.chart import draw_chart, format_ratio
from bench.speed.sides import DIRECTIONS, Run, Settings, Worker
from bench.speed.subjects import SUBJECTS, Subject, find_seed
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.locate import BUNDLE_VARIABLE, list_bundles, locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.config import CodecConfig
from sc_runtime.errors import BundleError, MissingExtraError, SettingsError
from sc_runtime.files import replacing, write_atomically
from sc_runtime.registry import find_model
from sc_runtime.semanticodec.config import Schedule
from sc_runtime.semanticodec.model import DECODE_BATCH
from sc_runtime.semanticodec.presets import PRESETS, Sampling, resolve_sampling
from sc_runtime.semanticodec.samplers import SOLVERS
from sc_runtime.semanticodec.schedule import choose_timesteps
from sc_runtime.spec import DecodeOptions

FORMAT = 1  #: of the JSON
RESULTS = ROOT / "bench" / "results"
SEEDED_BUILD = ("--tps", "50", "--seeded", "1")  #: the bundle to build where there is none
BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
WIDTH = 140  #: columns of the table where there is no terminal to ask
SIDES = ("runtime", "published")
HEADERS = {"acoustic_encoder": "acoustic\nencoder", "conditioning": "condi-\ntioning", "vae_decoder": "vae\ndecoder"}

log = Console(stderr=True, highlight=False)
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[
        str | None, typer.Option(help="A bundle's folder or name; else $SC_RUNTIME_BUNDLE, else the newest.")
    ] = None,
    seconds: Annotated[str, typer.Option(help="Durations of audio, comma-separated.")] = "5,10,30,60",
    preset: Annotated[
        str,
        typer.Option(help="Of the runtime: reference, balanced, fast; the published side keeps to 50 steps of DDIM."),
    ] = "reference",
    steps: Annotated[int | None, typer.Option(help="Diffusion steps, instead of the preset's.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance; 1 runs one branch.")] = None,
    eta: Annotated[float | None, typer.Option(help="Fresh noise at each step: 0 to 1.")] = None,
    solver: Annotated[str | None, typer.Option(help="ddim, dpm or unipc, instead of the preset's.")] = None,
    backend: Annotated[str, typer.Option(help="What runs the runtime's networks.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of either side; all by default.")] = None,
    batch: Annotated[
        str | None, typer.Option(help="Windows the runtime runs together, such as 4,1 for encoding and decoding.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Runs a row at most, each side.")] = 3,
    row_seconds: Annotated[
        float,
        typer.Option(help="What a side may spend on a row: a decode that takes longer is extrapolated (below)."),
    ] = 60,
    measure_steps: Annotated[
        int, typer.Option(help="Steps that are timed where a decode is extrapolated; the rest cost the same.")
    ] = 5,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Time the published procedure (PyTorch eager) beside the runtime.")
    ] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The baseline's weights, where the bundle's are no stand-ins.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The JSON; the chart lies beside it. By default bench/results/BUNDLE.json.")
    ] = None,
    no_chart: Annotated[bool, typer.Option("--no-chart", help="Write no PNG.")] = False,
) -> None:
    """Time encoding and decoding by stage; print a table, write JSON and a chart."""
    durations = parse_seconds(seconds)
    batches = parse_batch(batch) if batch else None
    choose_backend(backend, threads, precision)  # raises for one that cannot work
    sampling = resolve_sampling(DecodeOptions(preset, steps=steps, guidance=guidance, eta=eta, solver=solver))
    published = sampling if sampling.solver == "ddim" else PRESETS["reference"]
    for each in (sampling, published):
        for count in (each.steps, measure_steps):
            count_steps(each, count)  # raises for one that cannot work
    is_sampler_set = preset != "reference" or any(value is not None for value in (steps, guidance, eta, solver))
    if repeats < 1:
        raise SettingsError(f"--repeats {repeats}", "at least 1")
    if threads is not None:
        os.environ.update(dict.fromkeys(BLAS_THREADS, str(threads)))  # of the sides' processes
    require("matplotlib", "bench", wanted=not no_chart)
    require("torch", "export", wanted=baseline)

    path = locate_bundle(bundle) if bundle or os.environ.get(BUNDLE_VARIABLE) else find_newest()
    loaded = Bundle.load(path)
    has_sampler = "steps" in loaded.spec.decode_options
    if is_sampler_set and not has_sampler:
        raise SettingsError(f"settings of a sampler with {loaded.name}", f"none: {loaded.manifest.codec} has none")
    if baseline and checkpoint is None:
        find_seed(loaded)  # raises where the weights are not to be had
    chosen = choose_backend(backend, threads, precision, loaded)
    encode_batch, decode_batch = batches or (chosen.encode_batch, DECODE_BATCH)
    suffix = "" if preset == "reference" else f"-{preset}"
    out = out or RESULTS / f"{loaded.name}{suffix}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = (sampling, published) if has_sampler else (None, None)
    settings = Settings(path, ours, theirs, backend, precision, threads, encode_batch, decode_batch, checkpoint)
    plan = Plan(settings, loaded.choose_config(), SUBJECTS[loaded.manifest.codec], repeats, row_seconds, measure_steps)

    started = time.perf_counter()
    machine = describe_machine()
    log.print(f"Bundle {loaded.name}: {loaded.manifest.weights}")
    if machine["load_before"] and machine["load_before"] > 0.3 * machine["cores"]:
        log.print(f"Something else keeps this machine busy (load {machine['load_before']}): the numbers will show it.")
    sides = ["runtime", "published"] if baseline else ["runtime"]
    rows = [row for direction in DIRECTIONS for row in measure_direction(direction, durations, sides, plan)]
    took = time.perf_counter() - started
    results = describe_run(plan, loaded, machine, took) | {"rows": rows}
    print_results(results)
    write_atomically(out, (json.dumps(round_floats(results), indent=1) + "\n").encode())
    log.print(f"Wrote {out}", soft_wrap=True)
    if not no_chart:
        with replacing(out.with_suffix(".png")) as temporary:
            draw_chart(results, temporary)
        log.print(f"Wrote {out.with_suffix('.png')}", soft_wrap=True)


@dataclass(frozen=True)
class Plan:
    """What is measured how often, and what may be extrapolated."""

    settings: Settings
    config: CodecConfig
    subject: Subject
    repeats: int
    row_seconds: float
    measure_steps: int

    def choose_sampling(self, side: str) -> Sampling | None:
        return self.settings.sampling if side == "runtime" else self.settings.published_sampling

    def count_windows(self, direction: str, seconds: float) -> int:
        """Windows that are run for a recording of that length."""
        positions = self.config.count_positions(round(seconds * self.config.sample_rate))
        if direction == "encode":
            return self.subject.count_encoded(positions, self.config)
        return find_model(self.config.codec).count_windows(positions, self.config)


def describe_run(plan: Plan, bundle: Bundle, machine: dict[str, Any], took: float) -> dict[str, Any]:
    """What was measured, on what and how, for the JSON."""
    settings = plan.settings
    return {
        "format": FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "took_s": took,
        "commit": describe_commit(),
        "command": " ".join(["python", "bench/rtf.py", *sys.argv[1:]]),
        "machine": machine,
        "versions": list_versions(),
        "bundle": {
            "name": bundle.name,
            "codec": plan.config.codec,
            "tps": plan.config.tps,
            "vocab": plan.config.vocab,
            "settings": bundle.manifest.settings,
            "weights": bundle.manifest.weights,
        },
        "settings": {
            **(dataclasses.asdict(settings.sampling) if settings.sampling else {}),
            "published": dataclasses.asdict(settings.published_sampling) if settings.published_sampling else {},
            "backend": settings.backend,
            "precision": settings.precision,
            "threads": settings.threads,
            "batch": {"encode": settings.encode_batch, "decode": settings.decode_batch},
            "repeats": plan.repeats,
            "row_seconds": plan.row_seconds,
            "measure_steps": plan.measure_steps,
        },
    }


class SideRow:
    """The runs of one side for one row of the table."""

    def __init__(self, worker: Worker, seconds: float, plan: Plan) -> None:
        self.worker, self.seconds, self.plan = worker, seconds, plan
        self.sampling = plan.choose_sampling(worker.side)
        self.steps = self.sampling.steps if self.sampling else 1
        self.runs: list[Run] = []
        self.estimate: float | None = None
        self.spent = 0.0

    @property
    def factor(self) -> float:
        """How many times the loop that was timed goes into the whole loop."""
        if self.sampling is None:
            return 1.0
        return count_steps(self.sampling, self.sampling.steps) / count_steps(self.sampling, self.steps)

    def prepare(self) -> None:
        """Time a decode of few steps first. The row stays with it where the whole would take too long."""
        if self.worker.direction == "encode" or not self.sampling or self.plan.measure_steps >= self.sampling.steps:
            return
        self.steps = self.plan.measure_steps
        run = self.run_once()
        self.estimate = sum(extrapolate(run.stages, self.factor).values())
        if self.estimate <= self.plan.row_seconds:
            self.steps, self.runs, self.spent = self.sampling.steps, [], 0.0

    def run_once(self) -> Run:
        run = self.worker.run(self.seconds, self.steps)
        self.runs.append(run)
        self.spent += run.total
        log.print(
            f"{self.worker.direction} {self.seconds:g} s, {self.worker.side}: {run.total:.2f} s"
            + (f" for {self.steps} steps" if self.worker.direction == "decode" and self.sampling else "")
        )
        return run

    def repeat(self, count: int) -> None:
        """Make it `count` runs, if there is time for one more."""
        if len(self.runs) < count and (not self.runs or self.spent + self.runs[-1].total <= self.plan.row_seconds):
            self.run_once()

    def summarise(self) -> dict[str, Any]:
        """The side's part of a row, for the JSON."""
        named = self.plan.subject.stages[self.worker.direction]
        names = dict.fromkeys([*named, *(name for run in self.runs for name in run.stages)])
        stages = [extrapolate({name: run.stages.get(name, 0.0) for name in names}, self.factor) for run in self.runs]
        totals = [sum(run.values()) for run in stages]
        how = "measured"
        if self.sampling and self.steps != self.sampling.steps:
            timed, whole = (count_steps(self.sampling, steps) for steps in (self.steps, self.sampling.steps))
            how = f"extrapolated from {timed} of {whole} steps"
        result: dict[str, Any] = {
            "how": how,
            "total_s": median(totals),
            "spread_s": [min(totals), max(totals)],
            "rtf": median(totals) / self.seconds,
            "stages_s": {name: median(run[name] for run in stages) for name in names},
            "peak_rss_bytes": self.runs[-1].peak_bytes,
            "device": self.runs[0].device,
            "runs": [
                {"timed_s": run.total, "total_s": total, "stages_s": whole}
                for run, total, whole in zip(self.runs, totals, stages, strict=True)
            ],
        }
        if how == "measured" and self.estimate is not None:
            result["estimate_s"] = self.estimate
        return result


def measure_direction(direction: str, durations: list[float], sides: list[str], plan: Plan) -> list[dict[str, Any]]:
    """The rows of encoding or decoding, shortest first: a process's peak memory never falls."""
    rows = []
    batches = {"encode": plan.settings.encode_batch, "decode": plan.settings.decode_batch}
    warm: set[tuple[str, float]] = set()
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(side, direction, plan.settings)) for side in sides]
        for seconds in durations:
            for worker in workers:
                batch = batches[direction] if worker.side == "runtime" else 1
                few = min(seconds, plan.subject.window_seconds * batch)
                if (worker.side, few) not in warm:
                    log.print(f"{direction} {few:g} s, {worker.side}: warming up")
                    worker.run(few, 1)
                    warm.add((worker.side, few))
            entries = [SideRow(worker, seconds, plan) for worker in workers]
            for entry in entries:
                entry.prepare()
            for count in range(1, plan.repeats + 1):
                for entry in entries:
                    entry.repeat(count)
            rows.append(summarise_row(direction, seconds, entries, plan))
    return rows


def summarise_row(direction: str, seconds: float, entries: list[SideRow], plan: Plan) -> dict[str, Any]:
    """One row of the results; with two sides also their ratios and how far what they computed is the same."""
    row: dict[str, Any] = {
        "direction": direction,
        "seconds": seconds,
        "windows": plan.count_windows(direction, seconds),
        **{entry.worker.side: entry.summarise() for entry in entries},
    }
    if len(entries) == 2:
        runtime, published = entries
        row["ratio"] = compare(row["runtime"], row["published"])
        ours, theirs = runtime.runs[0].output, published.runs[0].output
        if direction == "encode":
            row["equal_tokens"] = float((ours == theirs).mean())
        elif (runtime.sampling, runtime.steps) == (published.sampling, published.steps):
            row["relative_error"] = float(((ours - theirs) ** 2).sum() ** 0.5 / (theirs**2).sum() ** 0.5)
    return row


def count_steps(sampling: Sampling, steps: int) -> int:
    """The steps that are run when `steps` of the sampling's solver are asked for.

    Raises SettingsError for a count that cannot work, before minutes are spent.
    """
    return len(choose_timesteps(steps, Schedule(), SOLVERS[sampling.solver].spacing)) - 1


def extrapolate(stages: Mapping[str, float], factor: float) -> dict[str, float]:
    """`stages` with a loop `factor` times as long."""
    return {name: seconds * factor if name == "tunet" else seconds for name, seconds in stages.items()}


def compare(runtime: Mapping[str, Any], published: Mapping[str, Any]) -> dict[str, Any]:
    """How many times the published procedure's time and memory are the runtime's, of the medians.

    The published T-UNet projects its conditioning in every call: it is compared with our conditioning and loop.
    """
    ours, theirs = dict(runtime["stages_s"]), published["stages_s"]
    if "tunet" in ours:
        ours["tunet"] += ours.pop("conditioning", 0.0)
    return {
        "total": published["total_s"] / runtime["total_s"],
        "peak_rss": published["peak_rss_bytes"] / runtime["peak_rss_bytes"],
        "stages": {name: theirs[name] / ours[name] for name in ours if theirs.get(name) and ours[name]},
    }


def print_results(results: Mapping[str, Any]) -> None:
    """One table a direction, on standard output, and what to know about the numbers."""
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=WIDTH)
    for direction in DIRECTIONS:
        rows = [row for row in results["rows"] if row["direction"] == direction]
        stages = [*rows[0]["runtime"]["stages_s"]]
        title = f"{direction}, seconds by stage ({results['bundle']['name']})"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        names = ("audio", "side", *stages, "total", "min–max", "runs", "RTF", "peak MB", "how")
        for name in names:
            table.add_column(HEADERS.get(name, name), justify="left" if name in ("side", "how") else "right")
        for row in rows:
            for side in SIDES:
                if side in row:
                    table.add_row(*format_side(row, side, stages))
            if "ratio" in row:
                table.add_row(*format_ratios(row["ratio"], stages), style="bold")
            table.add_section()
        console.print(table)
    console.print(f"RTF: seconds of work per second of audio. All of it took {results['took_s'] / 60:.1f} min.")
    hows = {row[side]["how"] for row in results["rows"] for side in SIDES if side in row}
    if hows != {"measured"}:
        console.print("“m of n”: the T-UNet loop was timed over m of its n steps and multiplied; all else in full.")
    tokens = [row["equal_tokens"] for row in results["rows"] if "equal_tokens" in row]
    errors = [row["relative_error"] for row in results["rows"] if "relative_error" in row]
    if tokens:
        console.print(f"Tokens that are the same on both sides: {min(tokens):.2%} in the worst row.")
    if errors:
        console.print(f"Decoded waveforms of both sides: relative difference {max(errors):.1e} in the worst row.")


def format_side(row: Mapping[str, Any], side: str, stages: list[str]) -> list[str]:
    entry = row[side]
    spread = "–".join(map(format_seconds, entry["spread_s"]))
    return [
        f"{row['seconds']:g} s" if side == "runtime" else "",
        side,
        *(format_seconds(entry["stages_s"][name]) if entry["stages_s"].get(name) else "" for name in stages),
        format_seconds(entry["total_s"]),
        spread if len(entry["runs"]) > 1 else "",
        str(len(entry["runs"])),
        f"{entry['rtf']:.3g}",
        f"{entry['peak_rss_bytes'] / 1e6:.0f}",
        entry["how"].removeprefix("extrapolated from ").removesuffix(" steps"),
    ]


def format_ratios(ratio: Mapping[str, Any], stages: list[str]) -> list[str]:
    shown = {name: format_ratio(value) for name, value in ratio["stages"].items() if name != "rest"}
    cells = [shown.get(name, "") for name in stages]
    return ["", "ratio", *cells, format_ratio(ratio["total"]), "", "", "", format_ratio(ratio["peak_rss"]), ""]


def format_seconds(seconds: float) -> str:
    """Three digits, but never below a millisecond."""
    digits = 3 if seconds < 1 else 2 if seconds < 10 else 1 if seconds < 100 else 0
    return f"{seconds:.{digits}f}"


def find_newest() -> Path:
    """The newest built bundle; a full-size one of stand-in weights is built first where there is none.

    The embedded model is not what the published procedure is compared with, and costs a hundredth of it.
    """
    if not list_bundles():
        command = [sys.executable, "-m", "sc_runtime.export.build", *SEEDED_BUILD]
        shown = " ".join(["python", *command[1:]])
        log.print("No bundle is built: building one of stand-in weights, which cost the same time as real ones.")
        log.print(shown)
        if subprocess.run(command, check=False).returncode:  # it has said why
            raise BundleError("no bundle to measure", "one that is built", f"run {shown}")
    return list_bundles()[0]


def require(package: str, extra: str, *, wanted: bool) -> None:
    if wanted and importlib.util.find_spec(package) is None:
        raise MissingExtraError(
            f"{package} is not installed", f"the extra `{extra}`", f"pip install 'sc-runtime[{extra}]'"
        )


def round_floats(value: Any) -> Any:
    """`value`, a tree of dictionaries and lists, with six digits a number."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: round_floats(entry) for key, entry in value.items()}
    return [round_floats(entry) for entry in value] if isinstance(value, list) else value


def parse_seconds(text: str) -> list[float]:
    """Durations, shortest first."""
    try:
        durations = sorted({float(part) for part in text.split(",")})
    except ValueError:
        durations = []
    if not durations or not all(1e-3 <= seconds < 1e6 for seconds in durations):
        raise SettingsError(f"--seconds {text}", "durations above 0, comma-separated, such as 5,10,30,60")
    return durations


def parse_batch(text: str) -> tuple[int, int]:
    """Windows run together: "4,1" for encoding and decoding, "4" for both."""
    try:
        encode, _, decode = text.partition(",")
        batches = int(encode), int(decode or encode)
    except ValueError:
        batches = 0, 0
    if min(batches) < 1:
        raise SettingsError(f"--batch {text}", "windows of encoding and decoding, such as 4,1")
    return batches


if __name__ == "__main__":
    run_app(app)
