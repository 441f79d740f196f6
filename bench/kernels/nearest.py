"""How long the exact centroid search takes, beside other searches for nearest vectors.

    python -m bench.kernels.nearest --device cpu

On a GPU it times kernels/nearest.cu, `torch.cdist(…).argmin` (the published code's search), the expansion into squared
norms and one matrix product, and FAISS if it is installed. The floor is the time of one FP16 pass at this GPU's rate
for large matrix products, which is measured too. On the CPU it times `NearestCentroid`, the same with OpenVINO's matrix
product, and the others. Ways that cannot run here are skipped; the table and the JSON state why.
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.harness.arguments import check_positive
from bench.harness.printing import log, make_table, open_console, warn_if_busy
from bench.harness.results import RESULTS, describe_command, describe_run, write_results
from sc_runtime.centroids import NearestCentroid
from sc_runtime.cli.program import run_app
from sc_runtime.cuda.device import Device
from sc_runtime.errors import BackendError, MissingExtraError, SettingsError

from .clocks import measure_rate, summarise, time_kernels, time_on_cpu, time_on_gpu
from .ways import KERNEL, Prepare, list_cpu_ways, list_gpu_ways

FORMAT = 1  #: of the JSON
#: Queries x centroids x width: a window's semantic search at 100, 50 and 25 tps, its acoustic one, and a minute's.
ROWS = "512x32768x768,256x32768x1536,128x32768x3072,512x8192x768,3072x32768x768"
PACKAGES = ("cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "faiss-cpu", "faiss-gpu", "triton")
NOISE = 0.7  #: standard deviation of a query about its centroid; that of a centroid's components is 1

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Shape:
    """`count` queries against `size` centroids of `width` components."""

    count: int
    size: int
    width: int

    def __str__(self) -> str:
        return f"{self.count}x{self.size}x{self.width}"

    @property
    def flop(self) -> int:
        return 2 * self.count * self.size * self.width


@app.command()
def main(
    rows: Annotated[str, typer.Option(help="Queries x centroids x width, comma-separated.")] = ROWS,
    repeats: Annotated[int, typer.Option(help="Most timed runs of each way; 20 times as many on a GPU.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="The JSON; by default bench/results/nearest-DEVICE.json.")] = None,
) -> None:
    """Time every way to search on every row; print a table and write JSON."""
    shapes = parse_rows(rows)
    check_positive("--repeats", repeats)
    started = time.perf_counter()
    run = describe_run(*PACKAGES)
    gpu, absence = find_gpu(device)
    warn_if_busy(run["machine"])
    kind = "cpu" if gpu is None else "gpu"
    skipped: dict[str, str] = {"everything on a GPU": absence} if absence else {}
    ways = list_cpu_ways(skipped) if gpu is None else list_gpu_ways(gpu, skipped)
    rate = measure_rate(repeats * 4) if gpu else None
    results: dict[str, Any] = run | {
        "format": FORMAT,
        "command": describe_command("-m", "bench.kernels.nearest"),
        "gpu": describe_gpu(gpu) if gpu else None,
        "fp16_flop_per_s": rate,
        "skipped": skipped,
        "rows": [measure_row(shape, ways, gpu is not None, repeats, rate) for shape in shapes],
    }
    results["took_s"] = round(time.perf_counter() - started, 1)
    print_results(results)
    target = out or RESULTS / f"nearest-{kind}.json"
    write_results(target, results)
    log.print(f"Wrote {target}", soft_wrap=True)


def find_gpu(device: str) -> tuple[Device | None, str | None]:
    """The GPU to measure, or None and the reason. Raises BackendError if one was asked for and cannot be measured."""
    if device not in ("auto", "cpu", "gpu"):
        raise SettingsError(f"--device {device}", "auto, cpu or gpu")
    if device == "cpu":
        return None, "--device cpu"
    try:
        gpu = Device()
        if importlib.util.find_spec("torch") is None:
            raise BackendError("torch, whose events time the GPU, is not installed", "torch with CUDA")
        import torch

        if not torch.cuda.is_available():
            raise BackendError("torch, whose events time the GPU, finds none", "torch with CUDA")
    except (BackendError, MissingExtraError) as error:
        if device == "gpu":
            raise
        return None, str(error)
    return gpu, None


def measure_row(
    shape: Shape, ways: dict[str, Prepare], on_gpu: bool, repeats: int, rate: float | None
) -> dict[str, Any]:
    """Seconds of every way on one row, and the share of its answers that equal those of float64."""
    generator = np.random.default_rng(0)
    codebook = generator.standard_normal((shape.size, shape.width), dtype=np.float32)
    meant = generator.integers(shape.size, size=shape.count)
    queries = codebook[meant] + np.float32(NOISE) * generator.standard_normal((shape.count, shape.width), np.float32)
    exact = NearestCentroid(codebook).search(queries)
    row: dict[str, Any] = {"shape": str(shape), "flop": shape.flop, "ways": {}}
    if rate:
        row["floor_s"] = shape.flop / rate
    for name, prepare in ways.items():
        log.print(f"{shape}: {name}")
        task = prepare(codebook, queries)
        measured = time_on_gpu(task.run, 20 * repeats) if on_gpu else {"s": summarise(time_on_cpu(task.run, repeats))}
        row["ways"][name] = measured | {"equal": float(np.mean(task.fetch() == exact))}
        if name == KERNEL:
            row["ways"][name]["kernels_s"] = time_kernels(task.run)
        del task  # frees the GPU's memory before the next way takes some
    return row


def describe_gpu(gpu: Device) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "arch": gpu.arch,
        "multiprocessors": gpu.processors,
        "memory_bytes": properties.total_memory,
        "cuda_of_torch": torch.version.cuda,
    }


def print_results(results: dict[str, Any]) -> None:
    gpu = results["gpu"]
    title = f"Exact nearest centroid on {gpu['name'] if gpu else results['machine']['cpu']}"
    text = ("queries x centroids\nx width", "way")
    figures = ("ms", "min–max", "ms, L2\nwarm", "TFLOP/s", "times the\nfloor", "times faster\nthan cdist", "equal")
    table = make_table(title, *text, *figures, left=text)
    for row in results["rows"]:
        cdist = row["ways"].get("torch.cdist")
        for index, (name, way) in enumerate(row["ways"].items()):
            spent = way["s"]
            table.add_row(
                row["shape"] if index == 0 else "",
                name,
                show_ms(spent["median"]),
                f"{show_ms(spent['min'])}–{show_ms(spent['max'])}",
                show_ms(way["warm_s"]["median"]) if "warm_s" in way else "",
                f"{row['flop'] / spent['median'] / 1e12:.3g}",
                f"{spent['median'] / row['floor_s']:.2f}" if "floor_s" in row else "",
                f"{cdist['s']['median'] / spent['median']:.2f}" if cdist else "",
                f"{way['equal']:.2%}",
                end_section=index + 1 == len(row["ways"]),
            )
    console = open_console()
    console.print(table)
    if results["fp16_flop_per_s"]:
        console.print(f"The floor: one FP16 pass at {results['fp16_flop_per_s'] / 1e12:.0f} TFLOP/s, measured here.")
    for what, reason in results["skipped"].items():
        console.print(f"Skipped {what}: {reason}", soft_wrap=True)


def show_ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def parse_rows(text: str) -> list[Shape]:
    shapes = []
    for part in text.split(","):
        try:
            count, size, width = (int(number) for number in part.split("x"))
        except ValueError:
            count = size = width = 0
        if min(count, size, width) < 1:
            raise SettingsError(f"--rows {text}", "queries x centroids x width, such as 512x32768x768")
        shapes.append(Shape(count, size, width))
    return shapes


if __name__ == "__main__":
    run_app(app)
