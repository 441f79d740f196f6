"""How long the exact centroid search takes, beside what else finds nearest vectors: `python bench/nearest.py`.

On a GPU: kernels/nearest.cu, `torch.cdist(…).argmin` (what the published code runs), the expansion into squared norms
and one matrix product, FAISS where it is installed, and the floor: one FP16 pass at the rate at which this GPU is
measured to multiply large matrices. On the CPU: `NearestCentroid` and the same others. What cannot run here is skipped,
and the table and the JSON say why.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks in bench/ only

from bench.machine import ROOT, describe_commit, describe_machine, list_versions
from bench.rtf import round_floats
from sc_runtime.centroids import NearestCentroid
from sc_runtime.cli.program import run_app
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.nearest import CudaNearestCentroid
from sc_runtime.errors import BackendError, MissingExtraError, SettingsError
from sc_runtime.files import write_atomically

FORMAT = 1  #: of the JSON
#: Queries x centroids x width: a window's semantic search at 100, 50 and 25 tps, its acoustic one, and a minute's.
ROWS = "512x32768x768,256x32768x1536,128x32768x3072,512x8192x768,3072x32768x768"
PACKAGES = ("cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "faiss-cpu", "faiss-gpu", "triton")
MATRIX = 8192  #: rows and columns of the matrices that measure the GPU's rate
FLUSHED_BYTES = 1 << 28  #: written between two cold runs, several times the L2
NOISE = 0.7  #: deviation of a query from its centroid, whose components have deviation 1
WIDTH = 130  #: columns of the table where there is no terminal to ask
CPU_SECONDS = 20.0  #: what a way may spend on a row, once it has run once

log = Console(stderr=True, highlight=False)
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


@dataclass(frozen=True)
class Task:
    """A way to search, ready: `run` does it once, `fetch` gives the indices of the last run."""

    run: Callable[[], object]
    fetch: Callable[[], np.ndarray]
    held: object = None  #: what a captured run needs to stay alive


Prepare = Callable[[np.ndarray, np.ndarray], Task]  #: from codebook and queries


@app.command()
def main(
    rows: Annotated[str, typer.Option(help="Queries x centroids x width, comma-separated.")] = ROWS,
    repeats: Annotated[int, typer.Option(help="Timed runs of a way at most; 20 times as many on a GPU.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="The JSON; by default bench/results/nearest-DEVICE.json.")] = None,
) -> None:
    """Time every way to search on every row; print a table and write JSON."""
    shapes = parse_rows(rows)
    if repeats < 1:
        raise SettingsError(f"--repeats {repeats}", "at least 1")
    started = time.perf_counter()
    machine = describe_machine()
    gpu, absence = find_gpu(device)
    if machine["load_before"] and machine["load_before"] > 0.3 * machine["cores"]:
        log.print(f"Something else keeps this machine busy (load {machine['load_before']}): the numbers will show it.")
    kind = "cpu" if gpu is None else "gpu"
    skipped: dict[str, str] = {"everything on a GPU": absence} if absence else {}
    ways = list_cpu_ways(skipped) if gpu is None else list_gpu_ways(gpu, skipped)
    rate = measure_rate(repeats * 4) if gpu else None
    results: dict[str, Any] = {
        "format": FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": describe_commit(),
        "command": " ".join(["python", "bench/nearest.py", *sys.argv[1:]]),
        "machine": machine,
        "gpu": describe_gpu(gpu) if gpu else None,
        "versions": list_versions(*PACKAGES),
        "fp16_flop_per_s": rate,
        "skipped": skipped,
        "rows": [measure_row(shape, ways, gpu is not None, repeats, rate) for shape in shapes],
    }
    results["took_s"] = round(time.perf_counter() - started, 1)
    print_results(results)
    target = out or ROOT / "bench" / "results" / f"nearest-{kind}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, (json.dumps(round_floats(results), indent=1) + "\n").encode())
    log.print(f"Wrote {target}", soft_wrap=True)


def find_gpu(device: str) -> tuple[Device | None, str | None]:
    """The GPU to measure, or None and why not. Raises BackendError where one was asked for and cannot be measured."""
    if device not in ("auto", "cpu", "gpu"):
        raise SettingsError(f"--device {device}", "auto, cpu or gpu")
    if device == "cpu":
        return None, "--device cpu"
    try:
        gpu = Device()
        if importlib.util.find_spec("torch") is None:
            raise BackendError("torch is not installed, whose events time the GPU", "torch with CUDA")
        import torch

        if not torch.cuda.is_available():
            raise BackendError("torch finds no GPU, whose events time it", "torch with CUDA")
    except (BackendError, MissingExtraError) as error:
        if device == "gpu":
            raise
        return None, str(error)
    return gpu, None


# --- ways to search -------------------------------------------------------------------------------------------------


def list_cpu_ways(skipped: dict[str, str]) -> dict[str, Prepare]:
    ways: dict[str, Prepare] = {"NearestCentroid": prepare_twin}
    if importlib.util.find_spec("torch"):
        ways |= {"torch.cdist": prepare_torch("cpu", search_cdist), "expansion": prepare_torch("cpu", search_expanded)}
    else:
        skipped["torch.cdist, expansion"] = "torch is not installed"
    if importlib.util.find_spec("faiss"):
        ways["faiss.IndexFlatL2"] = prepare_faiss
    else:
        skipped["faiss"] = "faiss is not installed"
    return ways


def list_gpu_ways(gpu: Device, skipped: dict[str, str]) -> dict[str, Prepare]:
    ways: dict[str, Prepare] = {
        "kernels/nearest.cu": lambda codebook, queries: prepare_kernel(gpu, codebook, queries),
        "torch.cdist": prepare_torch("cuda", search_cdist),
        "expansion": prepare_torch("cuda", search_expanded),
    }
    if importlib.util.find_spec("faiss") is None:
        skipped["faiss"] = "faiss is not installed"
        return ways
    import faiss

    if hasattr(faiss, "GpuIndexFlatL2"):
        ways["faiss.GpuIndexFlatL2 (with copies)"] = prepare_faiss_gpu
    else:
        skipped["faiss"] = "the installed faiss has no GPU part"
    return ways


def prepare_twin(codebook: np.ndarray, queries: np.ndarray) -> Task:
    search = NearestCentroid(codebook)
    return keep_result(lambda: search.search(queries))


def prepare_faiss(codebook: np.ndarray, queries: np.ndarray) -> Task:
    import faiss

    index = faiss.IndexFlatL2(codebook.shape[1])
    index.add(codebook)
    return keep_result(lambda: index.search(queries, 1)[1][:, 0])


def prepare_faiss_gpu(codebook: np.ndarray, queries: np.ndarray) -> Task:
    import faiss

    resources = faiss.StandardGpuResources()
    index = faiss.GpuIndexFlatL2(resources, codebook.shape[1])
    index.add(codebook)
    return keep_result(lambda: index.search(queries, 1)[1][:, 0])


def keep_result(search: Callable[[], np.ndarray]) -> Task:
    found: list[np.ndarray] = [np.empty(0)]

    def run() -> None:
        found[0] = search()

    return Task(run, lambda: found[0])


def prepare_torch(device: str, search: Callable[..., Any]) -> Prepare:
    """A search by torch on `device`; on a GPU it is captured once, and a run replays it."""

    def prepare(codebook: np.ndarray, queries: np.ndarray) -> Task:
        import torch

        centroids, given = torch.from_numpy(codebook).to(device), torch.from_numpy(queries).to(device)
        squares = centroids.square().sum(dim=1)
        nearest = torch.empty(len(queries), dtype=torch.int64, device=device)

        def run() -> None:
            nearest.copy_(search(given, centroids, squares))

        return Task(run if device == "cpu" else capture(run), lambda: nearest.cpu().numpy(), held=run)

    return prepare


def search_cdist(queries: Any, centroids: Any, squares: Any) -> Any:
    """As the published code has it (REFERENCE.md)."""
    import torch

    return torch.cdist(queries, centroids).argmin(dim=1)


def search_expanded(queries: Any, centroids: Any, squares: Any) -> Any:
    """‖q‖² − 2·q·c + ‖c‖² in float32."""
    return (queries.square().sum(dim=1, keepdim=True) - 2 * queries @ centroids.T + squares).argmin(dim=1)


def prepare_kernel(gpu: Device, codebook: np.ndarray, queries: np.ndarray) -> Task:
    import torch

    search = CudaNearestCentroid(codebook, gpu)
    search.reserve(len(queries))
    given = torch.from_numpy(queries).cuda()
    nearest = torch.empty(len(queries), dtype=torch.int32, device="cuda")

    def run() -> None:
        stream = torch.cuda.current_stream().cuda_stream
        search.search_on_device(given.data_ptr(), len(queries), nearest.data_ptr(), stream)

    return Task(capture(run), lambda: nearest.cpu().numpy(), held=run)


def capture(run: Callable[[], object]) -> Callable[[], object]:
    """`run` as a CUDA graph, so that its launches cost no time on the host."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_row(
    shape: Shape, ways: dict[str, Prepare], on_gpu: bool, repeats: int, rate: float | None
) -> dict[str, Any]:
    """Times in seconds of every way on one row, and how many of its answers are those of float64."""
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
        measured = time_on_gpu(task, 20 * repeats) if on_gpu else {"s": summarise(time_on_cpu(task, repeats))}
        row["ways"][name] = measured | {"equal": float(np.mean(task.fetch() == exact))}
        if name == "kernels/nearest.cu":
            row["ways"][name]["kernels_s"] = time_kernels(task)
        del task
    return row


def time_on_cpu(task: Task, repeats: int) -> list[float]:
    """Seconds of each run, after one that is not counted."""
    task.run()
    times: list[float] = []
    while len(times) < repeats and (not times or sum(times) < CPU_SECONDS):
        started = time.perf_counter()
        task.run()
        times.append(time.perf_counter() - started)
    return times


def time_on_gpu(task: Task, repeats: int) -> dict[str, Any]:
    """Seconds a run by the GPU's own clock: `cold` with the L2 overwritten before each, `warm` one after another."""
    import torch

    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(10):
        task.run()
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for before, after in pairs:
        flushed.zero_()
        before.record()
        task.run()
        after.record()
    torch.cuda.synchronize()
    cold = [before.elapsed_time(after) / 1e3 for before, after in pairs]
    warm = []
    for before, after in pairs[:10]:
        before.record()
        for _ in range(10):
            task.run()
        after.record()
    torch.cuda.synchronize()
    warm = [before.elapsed_time(after) / 1e4 for before, after in pairs[:10]]
    return {"s": summarise(cold), "warm_s": summarise(warm)}


def time_kernels(task: Task) -> dict[str, float] | str:
    """Median seconds of each of the three kernels in warm runs, by torch's profiler, or why there are none."""
    import torch

    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(20):
                task.run()
            torch.cuda.synchronize()
        times: dict[str, list[float]] = {}
        for event in profile.events():
            times.setdefault(event.name, []).append(event.device_time_total / 1e6)
        return {name: median(times[name]) for name in ("prepare", "screen", "decide") if name in times}
    except Exception as error:  # no counters on this machine, or another profiler at work
        return f"not measured: {error}"


def measure_rate(repeats: int) -> float:
    """FLOP/s of one large FP16 matrix product with float32 sums, the median of several: what the floor is taken at."""
    import torch

    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.float16) for _ in range(2))
    out = torch.empty_like(a)
    measured = time_on_gpu(Task(lambda: torch.matmul(a, b, out=out), lambda: np.empty(0)), repeats)
    return 2 * MATRIX**3 / measured["s"]["median"]


def summarise(times: list[float]) -> dict[str, Any]:
    return {"median": median(times), "min": min(times), "max": max(times), "runs": len(times)}


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
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("queries x centroids\nx width", no_wrap=True)
    table.add_column("way", no_wrap=True)
    headers = ("ms", "min–max", "ms, L2\nwarm", "TFLOP/s", "times the\nfloor", "times faster\nthan cdist", "equal")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
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
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=WIDTH)
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
