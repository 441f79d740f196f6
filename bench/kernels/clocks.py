"""Timing one function: on the CPU by its clock, on a GPU by the GPU's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

FLUSHED_BYTES = 1 << 28  #: written between two cold runs: several times the L2
MATRIX = 8192  #: rows and columns of the matrices by which the GPU's rate is measured
CPU_SECONDS = 20.0  #: no further run begins after so many seconds


def time_on_cpu(run: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of at most `repeats` runs, after one that is not counted."""
    run()
    times: list[float] = []
    while len(times) < repeats and (not times or sum(times) < CPU_SECONDS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return times


def time_on_gpu(run: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Seconds of a run by the GPU's clock: `s` with the L2 cache overwritten before each run, `warm_s` without."""
    import torch

    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(10):
        run()
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for before, after in pairs:
        flushed.zero_()
        before.record()
        run()
        after.record()
    torch.cuda.synchronize()
    cold = [before.elapsed_time(after) / 1e3 for before, after in pairs]
    for before, after in pairs[:10]:
        before.record()
        for _ in range(10):
            run()
        after.record()
    torch.cuda.synchronize()
    warm = [before.elapsed_time(after) / 1e4 for before, after in pairs[:10]]
    return {"s": summarise(cold), "warm_s": summarise(warm)}


def time_kernels(run: Callable[[], object]) -> dict[str, float] | str:
    """Median seconds of each kernel of a search in warm runs, by torch's profiler, or why there are none."""
    import torch

    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(20):
                run()
            torch.cuda.synchronize()
        times: dict[str, list[float]] = {}
        for event in profile.events():
            times.setdefault(event.name, []).append(event.device_time_total / 1e6)
        return {name: median(times[name]) for name in ("prepare", "screen", "decide") if name in times}
    except Exception as error:  # no counters on this machine, or another profiler at work
        return f"not measured: {error}"


def measure_rate(repeats: int) -> float:
    """FLOP/s of a large FP16 matrix product with float32 sums, the median of `repeats` runs."""
    import torch

    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.float16) for _ in range(2))
    out = torch.empty_like(a)
    measured = time_on_gpu(lambda: torch.matmul(a, b, out=out), repeats)
    return 2 * MATRIX**3 / measured["s"]["median"]


def summarise(times: Sequence[float]) -> dict[str, Any]:
    """Median, least and greatest of `times`, and their number."""
    return {"median": median(times), "min": min(times), "max": max(times), "runs": len(times)}
