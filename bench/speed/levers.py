"""Each lever of CPU speed alone: backend, precision, batch, recordings together, keys and values, the short vocoder.

    python bench/levers.py --bundle tps100-v16384-seeded1 --int8 tps100-v16384-seeded1-int8

Every case is timed warm, cases of one lever taking turns; medians go to bench/results/levers-BUNDLE.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks in bench/ only

from bench.machine import ROOT, describe_commit, describe_machine, list_versions
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.codec import Codec
from sc_runtime.files import write_atomically
from sc_runtime.networks import Arrays

BACKENDS = {
    "onnxruntime float32": ("onnxruntime", "float32"),
    "openvino float32": ("openvino", "float32"),
    "openvino bfloat16": ("openvino", "bfloat16"),
}
WHOLE = 1024  #: frames of a window
RECORDINGS = 12  #: of one window each
SHORT = 256  #: frames made for the last 2.3 s of a recording

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle's folder or name.")] = None,
    int8: Annotated[str | None, typer.Option(help="The same, built with --precision int8.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of each case.")] = 3,
    out: Annotated[Path | None, typer.Option(help="The JSON.")] = None,
) -> None:
    """Time every lever alone and print what each is worth."""
    loaded = Bundle.load(locate_bundle(bundle))
    results: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": describe_commit(),
        "bundle": loaded.name,
        "machine": describe_machine(),
        "versions": list_versions(),
        "levers": {},
    }
    rounded = Bundle.load(locate_bundle(int8)) if int8 else None
    for lever, cases in list_levers(loaded, rounded).items():
        seconds = time_cases(cases, repeats)
        first = next(iter(seconds.values()))
        results["levers"][lever] = seconds
        table = Table(lever, "seconds", "times the first")
        for case, spent in seconds.items():
            table.add_row(case, f"{spent:.3f}", f"{first / spent:.2f}")
        Console(width=100).print(table)
    target = out or ROOT / "bench" / "results" / f"levers-{loaded.name}.json"
    write_atomically(target, (json.dumps(results, indent=1) + "\n").encode())


def list_levers(bundle: Bundle, rounded: Bundle | None) -> dict[str, dict[str, Callable[[], Callable[[], object]]]]:
    """Lever -> case -> a function that prepares it and returns what is to be timed. `rounded`: the bundle in int8."""

    def graph(
        name: str, backend: str, batch: int, frames: int = WHOLE, share: int = 1, of: Bundle = bundle
    ) -> Callable[[], Callable]:
        def prepare() -> Callable[[], object]:
            opened = choose_backend(BACKENDS[backend][0], precision=BACKENDS[backend][1]).open(of, name)
            feeds = draw_feeds(bundle, name, batch, frames)
            opened.run(feeds)
            return lambda: [opened.run(feeds) for _ in range(share)]

        return prepare

    levers: dict[str, dict[str, Callable[[], Callable[[], object]]]] = {}
    for name, batch in (
        ("audiomae", 1),
        ("acoustic_encoder", 1),
        ("tunet_step", 2),
        ("vae_decoder", 1),
        ("hifigan", 1),
    ):
        levers[f"{name}, batch {batch}: backend and precision"] = {case: graph(name, case, batch) for case in BACKENDS}
    if rounded:
        for name, batch in (("tunet_step", 2), ("vae_decoder", 1)):
            lever = f"{name}, batch {batch}: backend and precision"
            for precision in ("float32", "bfloat16"):  # of what is not rounded
                levers[lever][f"openvino int8 and {precision}"] = graph(
                    name, f"openvino {precision}", batch, of=rounded
                )
    levers[f"encoding {RECORDINGS} recordings of 10 s: each alone or windows of all together (auto)"] = {
        "alone": partial(prepare_encoding, bundle, together=False),
        "together": partial(prepare_encoding, bundle, together=True),
    }
    levers["acoustic_encoder, 4 windows: one by one or as a batch (openvino float32)"] = {
        "one by one": graph("acoustic_encoder", "openvino float32", 1, share=4),
        "a batch of 4": graph("acoustic_encoder", "openvino float32", 4),
    }
    levers["tunet_step, both branches: two calls or one (openvino bfloat16)"] = {
        "two calls": graph("tunet_step", "openvino bfloat16", 1, share=2),
        "one call": graph("tunet_step", "openvino bfloat16", 2),
    }
    levers["keys and values of 50 steps, both branches: in the loop or once (openvino bfloat16)"] = {
        "in the loop": graph("conditioning", "openvino bfloat16", 2, share=50),
        "once": graph("conditioning", "openvino bfloat16", 1),
    }
    levers["hifigan, the last 2.3 s of a recording: a whole window or what is needed (openvino bfloat16)"] = {
        "a whole window": graph("hifigan", "openvino bfloat16", 1),
        "what is needed": graph("hifigan", "openvino bfloat16", 1, frames=SHORT),
    }
    return levers


def prepare_encoding(bundle: Bundle, together: bool) -> Callable[[], object]:
    codec = Codec(bundle, choose_backend())
    generator = np.random.default_rng(0)
    recordings = [generator.uniform(-0.3, 0.3, 10 * codec.sample_rate).astype(np.float32) for _ in range(RECORDINGS)]

    def encode() -> object:
        if together:
            return list(codec.encode_many(recordings))
        return [codec.encode(recording) for recording in recordings]

    encode()
    return encode


def draw_feeds(bundle: Bundle, name: str, batch: int, frames: int) -> Arrays:
    generator = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {}
    for key, spec in bundle.manifest.graphs[name].inputs.items():
        shape = spec.resolve(batch=batch, frames=frames)
        integers = spec.dtype == "int64"
        feeds[key] = generator.integers(1, 1000, shape) if integers else generator.standard_normal(shape, np.float32)
    return feeds


def time_cases(cases: dict[str, Callable[[], Callable[[], object]]], repeats: int) -> dict[str, float]:
    """Median seconds of each case; the cases take turns, as machines are not equally fast all the time."""
    ready = {case: prepare() for case, prepare in cases.items()}
    spent: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case, run in ready.items():
            started = time.perf_counter()
            run()
            spent[case].append(time.perf_counter() - started)
    return {case: median(seconds) for case, seconds in spent.items()}


if __name__ == "__main__":
    run_app(app)
