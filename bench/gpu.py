"""Everything that a GPU is for, on the GPU at hand, in one JSON: `python bench/gpu.py`.

- The centroid search: exact on a thousand random and adversarial cases, and its time (see `bench.kernels.nearest`).
- Every graph, whole encodes and whole decodes on each backend for GPUs, against ONNX Runtime on the CPU.
- Encoding and decoding by stage, beside the published procedure (PyTorch eager, same GPU); memory; and each stage's
  floor: its arithmetic at the rate of a large FP16 product, or its weights at the rate of a large copy, whichever takes
  longer. Both rates are measured here.

What cannot run is skipped, and the JSON says why. The JSON is written after each part, so that a time limit loses only
the parts that follow. `--minutes` limits the whole.
"""

from __future__ import annotations

import re
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

with suppress(ImportError):
    import torch  # noqa: F401  # first, so that ONNX Runtime finds the CUDA libraries that torch loads

import typer

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # Python puts the folder of this file there

from bench.harness.arguments import parse_seconds
from bench.harness.bundles import find_half, take_config
from bench.harness.gpu import describe_gpu, read_free_memory
from bench.harness.parts import Parts, Skipped
from bench.harness.printing import log
from bench.harness.results import RESULTS, describe_command, describe_run
from bench.kernels.nearest import PACKAGES
from bench.kernels.on_gpu import check_centroids, measure_ceilings, time_centroids
from bench.quality.on_gpu import compare_graphs, compare_whole
from bench.speed.floors import count_work
from bench.speed.on_gpu import Plan, compare_speeds, time_published, time_runtime
from bench.speed.stages import StageClock, open_timed_codec
from sc_runtime.backends.select import ABSENCES, choose_backend
from sc_runtime.backends.tensorrt import backend as tensorrt
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.codec import Codec
from sc_runtime.semanticodec.presets import Sampling

FORMAT = 1  #: of the JSON
BACKENDS = ("tensorrt", "onnxruntime-cuda")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle's folder or name; else the newest FP16 one.")] = None,
    size: Annotated[str, typer.Option(help="full or tiny: what to look for, and to build if there is none.")] = "full",
    seconds: Annotated[str, typer.Option(help="Durations of audio, comma-separated.")] = "5,10,30,60",
    steps: Annotated[int, typer.Option(help="Of DDIM, on both sides.")] = 50,
    minutes: Annotated[float, typer.Option(help="For all parts together; building a bundle comes before.")] = 8.0,
    out: Annotated[Path | None, typer.Option(help="The JSON; by default bench/results/gpu-GPU.json.")] = None,
) -> None:
    """Run every part that can run here; print a summary and write the JSON."""
    loaded, gpu = Bundle.load(locate_bundle(bundle) if bundle else find_half(size)), describe_gpu()
    take_config(loaded)  # raises for another codec
    label = re.sub(r"\W+", "-", gpu["name"].lower()) if gpu else "none"
    plan = Plan(loaded, Sampling(steps=steps), parse_seconds(seconds))
    deadline = time.perf_counter() + 60 * minutes
    parts = Parts(out or RESULTS / f"gpu-{label}.json", deadline, describe_head(loaded, gpu))
    parts.run("ceilings", measure_ceilings)
    parts.run("work", partial(count_work, loaded))
    parts.run("centroids, exact", partial(check_centroids, parts))
    parts.run("centroids, time", partial(time_centroids, parts))
    for backend in BACKENDS:
        run_backend(backend, plan, parts)
    parts.run("published, speed", partial(time_published, plan, parts))
    parts.run("ratios", partial(compare_speeds, BACKENDS, parts))
    parts.print_summary()


def describe_head(bundle: Bundle, gpu: dict[str, Any] | None) -> dict[str, Any]:
    """What is measured on what, for the JSON."""
    manifest = bundle.manifest
    return {
        "format": FORMAT,
        **describe_run(*PACKAGES),
        "command": describe_command("bench/gpu.py"),
        "gpu": gpu,
        "bundle": {"name": bundle.name, "weights": manifest.weights, "precision": manifest.precision},
    }


def run_backend(backend: str, plan: Plan, parts: Parts) -> None:
    """The parts of one backend, which share a codec: its graphs, whole recordings, speed."""
    clock = StageClock()
    opened: list[Codec] = []
    parts.run(f"{backend}, opened", partial(open_codec, backend, plan.bundle, clock, opened))
    for codec in opened:
        parts.run(f"{backend}, graphs", partial(compare_graphs, codec))
        parts.run(f"{backend}, whole", partial(compare_whole, codec))
        parts.run(f"{backend}, speed", partial(time_runtime, codec, clock, plan, parts))


def open_codec(backend: str, bundle: Bundle, clock: StageClock, opened: list[Codec]) -> dict[str, Any]:
    """Add the codec on `backend` to `opened`. Plans are built first if the backend needs them and there are none."""
    if reason := ABSENCES[backend]():
        raise Skipped(reason)
    if backend == "tensorrt" and not tensorrt.has_plans(bundle):
        from sc_runtime.export.plans import build_plans

        build_plans(bundle, tensorrt.choose_target(bundle), report=log.print)
    opened.append(open_timed_codec(bundle, choose_backend(backend, bundle=bundle), clock))
    return {"device": opened[0].backend.device, "free_bytes": read_free_memory()}


if __name__ == "__main__":
    run_app(app)
