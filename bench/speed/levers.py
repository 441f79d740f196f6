"""What each lever of CPU speed is worth alone: backend, precision, batch, and so on.

    python -m bench.speed.levers --bundle tps100-v16384-seeded1 --int8 tps100-v16384-seeded1-int8

Every case is timed warm, and the cases of one lever take turns. Medians go to bench/results/levers-BUNDLE.json.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from bench.harness.printing import make_table, open_console
from bench.harness.results import RESULTS, describe_run, write_results
from bench.harness.timing import time_in_turns
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.codec import Codec
from sc_runtime.networks import Arrays

BACKENDS = {
    "onnxruntime float32": ("onnxruntime", "float32"),
    "openvino float32": ("openvino", "float32"),
    "openvino bfloat16": ("openvino", "bfloat16"),
}
WHOLE = 1024  #: frames of a window
SHORT = 256  #: frames for the last 2.3 s of a recording
RECORDINGS = 12  #: each of one window

Prepare = Callable[[], Callable[[], object]]  #: loads what a case needs and returns the function to time

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle's folder or name.")] = None,
    int8: Annotated[str | None, typer.Option(help="The same, built with --precision int8.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of each case.")] = 3,
    out: Annotated[Path | None, typer.Option(help="The JSON.")] = None,
) -> None:
    """Time every lever alone; print a table of each, write JSON."""
    loaded = Bundle.load(locate_bundle(bundle))
    results: dict[str, Any] = describe_run() | {"bundle": loaded.name, "levers": {}}
    rounded = Bundle.load(locate_bundle(int8)) if int8 else None
    for lever, cases in list_levers(loaded, rounded).items():
        ready = {case: prepare() for case, prepare in cases.items()}
        seconds = {case: median(spent) for case, spent in time_in_turns(ready, repeats).items()}
        first = next(iter(seconds.values()))
        results["levers"][lever] = seconds
        table = make_table("", lever, "seconds", "times the first", left=(lever,))
        for case, spent in seconds.items():
            table.add_row(case, f"{spent:.3f}", f"{first / spent:.2f}")
        open_console().print(table)
    write_results(out or RESULTS / f"levers-{loaded.name}.json", results)


def list_levers(bundle: Bundle, rounded: Bundle | None) -> dict[str, dict[str, Prepare]]:
    """Lever -> case -> how it is prepared. `rounded` is the bundle in int8."""

    def graph(name: str, backend: str, batch: int, frames: int = WHOLE, share: int = 1, of: Bundle = bundle) -> Prepare:
        def prepare() -> Callable[[], object]:
            opened = choose_backend(BACKENDS[backend][0], precision=BACKENDS[backend][1]).open(of, name)
            feeds = draw_feeds(bundle, name, batch, frames)
            return lambda: [opened.run(feeds) for _ in range(share)]

        return prepare

    levers: dict[str, dict[str, Prepare]] = {}
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
            for precision in ("float32", "bfloat16"):  # of the layers that are not rounded
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

    return encode


def draw_feeds(bundle: Bundle, name: str, batch: int, frames: int) -> Arrays:
    generator = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {}
    for key, spec in bundle.manifest.graphs[name].inputs.items():
        shape = spec.resolve(batch=batch, frames=frames)
        integers = spec.dtype == "int64"
        feeds[key] = generator.integers(1, 1000, shape) if integers else generator.standard_normal(shape, np.float32)
    return feeds


if __name__ == "__main__":
    run_app(app)
