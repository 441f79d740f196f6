"""Parts of `bench/gpu.py`: the GPU's ceilings, and the centroid search, checked and timed."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.harness.gpu import require_gpu, require_torch_gpu
from bench.harness.parts import RESERVED, Parts, Skipped
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.nearest import CudaNearestCentroid
from sc_runtime.errors import first_line

from .clocks import measure_rate, time_on_gpu
from .nearest import ROWS, measure_row, parse_rows
from .ways import list_gpu_ways

CASES = 1000  #: number of searches that are checked
COPIED_BYTES = 1 << 31
SHOWN = 20  #: wrong cases that are named


def measure_ceilings() -> dict[str, Any]:
    """FLOP/s of a large FP16 product, and bytes/s that a large copy reads and writes."""
    require_torch_gpu()
    import torch

    source = torch.empty(COPIED_BYTES, dtype=torch.int8, device="cuda").random_()
    target = torch.empty_like(source)
    seconds = time_on_gpu(lambda: target.copy_(source), 10)["warm_s"]["median"]
    return {"fp16_flop_per_s": measure_rate(20), "bytes_per_s": 2 * COPIED_BYTES / seconds}


def check_centroids(parts: Parts) -> dict[str, Any]:
    """Run the random and adversarial cases of the tests in other sizes, and compare with float64."""
    require_gpu()
    try:
        from tests import test_kernels as cases
    except ImportError as error:
        raise Skipped(f"the cases are in tests/test_kernels.py ({error})") from None
    gpu, wrong, exact = Device(), [], dict.fromkeys(cases.CASES, 0)
    for seed in range(CASES):
        kind = list(exact)[seed % len(exact)]
        generator = np.random.default_rng(seed)
        count, size = int(generator.integers(1, 33)), int(generator.integers(1, 700))
        width = int(generator.choice([1, 7, 16, 64, 192, 768]))
        codebook, queries = cases.CASES[kind](generator, count, size, width)
        try:
            cases.check_nearest(codebook, queries, CudaNearestCentroid(codebook, gpu).search(queries))
            exact[kind] += 1
        except AssertionError as error:
            wrong.append(f"{kind}, seed {seed}, {count} x {size} x {width}: {first_line(error)}")
        if parts.seconds_left < 2 * RESERVED:
            break
    return {"exact": sum(exact.values()), "wrong": len(wrong), "by_kind": exact, "first_wrong": wrong[:SHOWN]}


def time_centroids(parts: Parts) -> dict[str, Any]:
    """The rows of `bench.kernels.nearest`."""
    require_torch_gpu()
    rate, ways = parts.results["ceilings"]["fp16_flop_per_s"], list_gpu_ways(Device(), {})
    return {"rows": [measure_row(shape, ways, True, 5, rate) for shape in parse_rows(ROWS)]}
