"""Parts of `bench/gpu.py`: the GPU's ceilings, the centroid search and the solver, checked and timed."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from bench.harness.gpu import NO_GPU, choose_torch_device, open_device, time_calls
from bench.harness.parts import Session, Skipped
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.nearest import CudaNearestCentroid
from sc_runtime.cuda.solver import SolverKernel
from sc_runtime.errors import first_line
from sc_runtime.semanticodec.config import LATENT_SHAPE, Schedule
from sc_runtime.semanticodec.noise import PHILOX_DOMAIN, SeededNoise
from sc_runtime.semanticodec.presets import PRESETS
from sc_runtime.semanticodec.resident import DEPTH, LATENT_BYTES, LATENT_SIZE, MOST_ROWS, ROW, tabulate
from sc_runtime.semanticodec.samplers import SOLVERS
from sc_runtime.semanticodec.schedule import choose_timesteps, compute_alphas_cumprod

from .clocks import measure_rate, time_on_gpu
from .nearest import ROWS, measure_row, parse_rows
from .ways import list_cpu_ways, list_gpu_ways

COPIED_BYTES = 1 << 31
SHOWN = 20  #: wrong cases that are named
SEEDS = 30  #: small cases of each kind
#: Full sizes: queries, centroids, width. Several tiles of queries, several blocks of them, sizes that fill no tile.
FULL = ((513, 8191, 768), (128, 32768, 3072), (256, 32768, 1536), (512, 32768, 768), (5000, 4096, 768))
TINY = ((3, 300, 32), (130, 40, 16))
CHUNK_BYTES = 1 << 31  #: of the float64 differences that are made at a time
REHEARSED_ROWS = "8x64x16"


def measure_ceilings(session: Session) -> dict[str, Any]:
    """FLOP/s of a large FP16 product, and bytes/s that a large copy reads and writes."""
    device = choose_torch_device(session)
    import torch

    if session.rehearsal:
        a = torch.rand(64, 64)
        seconds = time_calls(lambda: a @ a, lambda: None, 3)["median"]
        return {"fp16_flop_per_s": 2 * 64**3 / seconds, "bytes_per_s": 1e9}
    source = torch.empty(COPIED_BYTES, dtype=torch.int8, device=device).random_()
    target = torch.empty_like(source)
    seconds = time_on_gpu(lambda: target.copy_(source), 10)["warm_s"]["median"]
    session.keep({"bytes_per_s": 2 * COPIED_BYTES / seconds})
    return {"fp16_flop_per_s": measure_rate(20), "bytes_per_s": 2 * COPIED_BYTES / seconds}


def check_kernels(session: Session) -> dict[str, Any]:
    """The search on the adversarial cases of the tests: small ones with all scores, full-size ones against float64."""
    torch_device = choose_torch_device(session)
    try:
        from tests import test_kernels as cases
    except ImportError as error:
        raise Skipped(f"{NO_GPU} cases: they are in tests/test_kernels.py ({first_line(error)})") from None
    device = open_device(session, quick_search=False)
    found: dict[str, Any] = {"small": {}, "full": {}, "wrong": []}

    def note(group: str, kind: str, what: str, wrong: str | None) -> None:
        counts = found[group].setdefault(kind, {"exact": 0, "of": 0})
        counts["of"] += 1
        counts["exact"] += wrong is None
        if wrong and len(found["wrong"]) < SHOWN:
            found["wrong"].append(f"{kind}, {what}: {wrong}")
        session.keep(found)

    for kind, draw in cases.CASES.items():
        for seed in range(1 if session.rehearsal else SEEDS):
            generator = np.random.default_rng(seed)
            count = int(generator.choice([1, 2, 31, 130]))
            size, width = int(generator.integers(1, 600)), 16 * int(generator.integers(1, 13))
            codebook, queries = draw(generator, count, size, width)
            search = CudaNearestCentroid(codebook, device)
            try:
                cases.check_nearest(codebook, queries, search.search(queries))
                if not session.rehearsal:
                    cases.check_group_scores(search, codebook, queries)
                wrong = None
            except AssertionError as error:
                wrong = first_line(error)
            note("small", kind, f"seed {seed}, {count} x {size} x {width}", wrong)
    for count, size, width in TINY if session.rehearsal else FULL:
        for kind, draw in cases.CASES.items():
            codebook, queries = draw(np.random.default_rng(size + width), count, size, width)
            indices = CudaNearestCentroid(codebook, device).search(queries)
            wrong = check_in_float64(codebook, queries, indices, torch_device)
            note("full", kind, f"{count} x {size} x {width}", wrong)
    return found


def check_in_float64(codebook: np.ndarray, queries: np.ndarray, found: np.ndarray, device: str) -> str | None:
    """Compare a search with brute force in float64 by torch. Returns the first wrong query, or None.

    Sums of another order may settle otherwise what differs by less than their rounding, but never choose the second of
    two equal vectors, as `tests.test_kernels.check_nearest` has it.
    """
    import torch

    centroids = torch.from_numpy(codebook).to(device).double()
    rows = max(1, CHUNK_BYTES // (8 * codebook.size))
    for start in range(0, len(queries), rows):
        block = torch.from_numpy(queries[start : start + rows]).to(device).double()
        distances = (block[:, None] - centroids).square_().sum(dim=2)
        least, expected = (each.cpu().numpy() for each in distances.min(dim=1))
        given = torch.from_numpy(found[start : start + rows].astype(np.int64)).to(device)
        ours = distances.gather(1, given[:, None])[:, 0].cpu().numpy()
        for row in np.flatnonzero(found[start : start + rows] != expected):
            index, other = found[start + row], expected[row]
            equal = np.flatnonzero((codebook == codebook[index]).all(axis=1))[0]
            if index != equal or ours[row] - least[row] > (codebook.shape[1] + 2) * 2.0**-52 * least[row]:
                return f"query {start + row}: {index} at {ours[row]:.17g}, not {other} at {least[row]:.17g}"
    return None


def time_kernels(session: Session) -> dict[str, Any]:
    """The rows of `bench.kernels.nearest`: our search, torch.cdist and argmin, the expansion, and the floor."""
    choose_torch_device(session)
    if session.rehearsal:
        return {"rows": [measure_row(shape, list_cpu_ways({}), False, 1, None) for shape in parse_rows(REHEARSED_ROWS)]}
    rate, ways = session.find("ceilings").get("fp16_flop_per_s"), list_gpu_ways(Device(), {})
    rows: list[dict[str, Any]] = []
    for shape in parse_rows(ROWS):
        rows.append(measure_row(shape, ways, True, 5, rate))
        session.keep({"rows": rows})
    return {"rows": rows}


def check_solver(session: Session) -> dict[str, Any]:
    """kernels/solver.cu: its noise against NumPy's, and a captured loop of every preset against the solver in NumPy.

    A constant velocity stands in for the T-UNet, so that the loop can be computed on both sides.
    """
    device, batch = open_device(session), 2
    solver = SolverKernel(device, LATENT_SIZE, PHILOX_DOMAIN)
    generator, noise = np.random.default_rng(0), SeededNoise(2**63 + 5)
    velocity = generator.standard_normal((2 * batch, *LATENT_SHAPE)).astype(np.float32)
    errors: dict[str, Any] = {}
    with device.lock:
        held = [device.upload(velocity), device.allocate(2 * batch * LATENT_BYTES), device.allocate(16 * batch)]
        held += [device.allocate(DEPTH * batch * LATENT_BYTES) for _ in range(2)]
        held += [device.allocate(size) for size in (MOST_ROWS * ROW.itemsize, 24 * batch, 8)]
        addresses = [memory.address for memory in held]
        table, sources, counter = addresses[-3:]

        def start(rows: np.ndarray) -> None:
            device.write(table, rows)
            device.write(counter, np.zeros(2, np.int32))

        device.write(sources, np.array([[noise.seed, window, 0] for window in range(batch)], np.uint64))
        advance = partial(solver.advance, addresses, batch)
        start(np.zeros(MOST_ROWS, ROW))
        advance()
        step = device.capture(advance)
        for name, sampling in PRESETS.items():
            rows, guided = tabulate(sampling, Schedule())
            start(rows)
            advance()
            latent = np.empty((batch, *LATENT_SHAPE), np.float32)
            device.read(addresses[1], latent)
            drawn = np.stack([noise(window, 0) for window in range(batch)])
            errors[f"{name}, noise"] = float(np.abs(latent - drawn).max())
            began = time.perf_counter()
            for _ in guided:
                step.launch()
            device.sync()
            seconds = time.perf_counter() - began
            device.read(addresses[1], latent)
            expected = np.stack([run_in_numpy(sampling, velocity, noise, batch, window) for window in range(batch)])
            errors[f"{name}, latent"] = float(np.linalg.norm(latent - expected) / np.linalg.norm(expected))
            errors[f"{name}, seconds a step without the T-UNet"] = seconds / len(guided)
            session.keep(errors)
    return errors | {"not_captured": step.refusal}


def run_in_numpy(sampling: Any, velocity: np.ndarray, noise: SeededNoise, batch: int, window: int) -> np.ndarray:
    """The latent of one window after the loop, for a velocity that is always the same."""
    solver = SOLVERS[sampling.solver]
    timesteps = choose_timesteps(sampling.steps, Schedule(), solver.spacing)
    without, given = velocity[window], velocity[batch + window]
    guided = without + np.float32(sampling.guidance) * (given - without)
    alphas = compute_alphas_cumprod(Schedule())
    return solver.sample(
        lambda latent, step: guided, noise(window, 0), partial(noise, window), timesteps, alphas, sampling.eta
    )
