"""kernels/nearest.cu: compiled for every architecture, emulated on the CPU, and run where there is a GPU.

Three layers of tests show that the search is exact. The arithmetic of screening, modelled in NumPy, stays within the
bound that the kernel's comment proves. The kernel itself, its threads as fibers on the CPU (tests/emulated_gpu.h),
gives the answers of brute force in float64, in any order of its warps. The last layer runs it on a GPU and is skipped
where there is none.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sc_runtime.centroids import UNIT_ROUNDOFF, NearestCentroid
from sc_runtime.cuda import nearest, screening
from sc_runtime.cuda import source as cuda_source
from sc_runtime.cuda.device import Device, explain_absence
from sc_runtime.cuda.nearest import SLOT_BYTES, CudaNearestCentroid, choose_macro, choose_stages
from sc_runtime.cuda.screening import (
    GROUP,
    LARGEST_EXPONENT,
    SLICE,
    TILE_CENTROIDS,
    TILE_QUERIES,
    ScreenedCodebook,
    screen_codebook,
)
from sc_runtime.cuda.source import compile_source, find_source, load_cubin
from sc_runtime.errors import BackendError, CodecError, MissingExtraError
from tests.conftest import ROOT
from tests.emulated_device import EmulatedDevice, Emulations

NEAREST = find_source("nearest.cu")
ARCHITECTURES = {"sm_80": 163, "sm_89": 99, "sm_90": 227, "sm_120": 99}  #: KiB of shared memory a block may have
ABSENCE = explain_absence()
needs_gpu = pytest.mark.skipif(ABSENCE is not None, reason=f"NOT RUN ON A GPU: {ABSENCE}")
has_core = pytest.mark.skipif(ABSENCE is not None and "cuda-core" in ABSENCE, reason=f"not compiled: {ABSENCE}")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="NOT EMULATED: there is no g++")


def compile_kernel(arch: str) -> bytes:
    """kernels/nearest.cu compiled for `arch`, not from the cache."""
    return compile_source(NEAREST, arch, choose_macro(arch))


def load_kernels(arch: str, source: Path = NEAREST) -> bytes:
    """kernels/nearest.cu for `arch`, as `Device.load_kernels` has it."""
    return load_cubin(source, arch, choose_macro(arch))


# --- cases ---------------------------------------------------------------------------------------------------------


def scatter(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def draw_random(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    offset, spread = 10 ** rng.uniform(-3, 3), 10 ** rng.uniform(-3, 3)
    shift = offset * scatter(rng, width)
    return shift + spread * scatter(rng, size, width), shift + spread * scatter(rng, count, width)


def draw_duplicates(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    distinct = scatter(rng, max(1, size // 8), width)
    chosen = rng.integers(len(distinct), size=count)
    return distinct[rng.integers(len(distinct), size=size)], distinct[chosen] + np.float32(0.1) * scatter(
        rng, count, width
    )


def draw_one_ulp_apart(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    base = scatter(rng, width)
    codebook = np.tile(base, (size, 1))
    columns = rng.integers(width, size=size)
    toward = rng.choice(np.array([-np.inf, np.inf], np.float32), size)
    codebook[np.arange(size), columns] = np.nextafter(base[columns], toward)
    return codebook, base + scatter(rng, count, width)


def draw_mirrored(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Small integers: distances are exact in any arithmetic and tie often."""
    queries = rng.integers(-2, 3, (count, width))
    codebook = queries[rng.integers(count, size=size)] + rng.choice([-1, 1], (size, width))
    return codebook.astype(np.float32), queries.astype(np.float32)


def draw_zeros(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    codebook, queries = np.zeros((size, width), np.float32), np.zeros((count, width), np.float32)
    codebook[: size // 2] = rng.integers(0, 2)
    queries[1:] = rng.integers(0, 2)
    return codebook, queries


def draw_outlier(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    codebook, queries = scatter(rng, size, width), scatter(rng, count, width)
    codebook[rng.integers(size)] *= np.float32(10 ** rng.uniform(2, 7))
    queries[0] = codebook[rng.integers(size)]
    return codebook, queries


def draw_large(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    scale = np.float32(10 ** rng.uniform(4, 15))
    base = scale * scatter(rng, width)
    near = np.float32(10 ** rng.uniform(-6, 0)) * scale
    return base + near * scatter(rng, size, width), base + near * scatter(rng, count, width)


def draw_tiny(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    scale = np.float32(10 ** rng.uniform(-38, -5))
    return scale * scatter(rng, size, width), scale * scatter(rng, count, width)


def draw_far(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return scatter(rng, size, width), np.float32(10 ** rng.uniform(1, 9)) * scatter(rng, count, width)


def draw_mixed_scales(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Components from far below float16's range beside large ones, different in every vector."""
    codebook = scatter(rng, size, width) * (10 ** rng.uniform(-12, 0, (size, width))).astype(np.float32)
    return codebook, scatter(rng, count, width) * (10 ** rng.uniform(-12, 0, (count, width))).astype(np.float32)


def draw_worst_rounding(rng: np.random.Generator, count: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Every component half a unit of float16 off, all errors of one sign."""
    signs = rng.choice(np.array([-1, 1], np.float32), width)
    half_way = np.float32(1 + 2.0**-11)
    codebook = half_way * signs * rng.choice(np.array([1, 2], np.float32), (size, 1))
    flipped = rng.integers(width, size=size)
    codebook[np.arange(size), flipped] *= -1
    return codebook, half_way * signs * rng.choice(np.array([1, 2, 4], np.float32), (count, 1)) + 0 * codebook[:1]


Draw = Callable[[np.random.Generator, int, int, int], tuple[np.ndarray, np.ndarray]]
CASES: dict[str, Draw] = {
    "random": draw_random,
    "duplicates": draw_duplicates,
    "one ulp apart": draw_one_ulp_apart,
    "mirrored": draw_mirrored,
    "zeros": draw_zeros,
    "outlier": draw_outlier,
    "large norms": draw_large,
    "tiny": draw_tiny,
    "far queries": draw_far,
    "mixed scales": draw_mixed_scales,
    "worst rounding": draw_worst_rounding,
}


def measure_distances(codebook: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Squared distances [n, N] in float64."""
    return np.stack([np.square(codebook.astype(np.float64) - query).sum(axis=1) for query in queries])


def check_nearest(codebook: np.ndarray, queries: np.ndarray, found: np.ndarray) -> None:
    """`found` is what brute force in float64 finds.

    Sums in another order may choose another vector if distances differ by less than the rounding. They never choose
    the second of two equal vectors.
    """
    assert found.dtype == np.int32
    distances = measure_distances(codebook, queries)
    expected = distances.argmin(axis=1)
    for row in np.flatnonzero(found != expected):
        least, other = distances[row, expected[row]], distances[row, found[row]]
        assert other - least <= (codebook.shape[1] + 2) * 2.0**-52 * least, (row, found[row], expected[row])
        first = np.flatnonzero((codebook == codebook[found[row]]).all(axis=1))[0]
        assert found[row] == first, (row, found[row], first)
        assert least > 0


# --- the arithmetic of screening, modelled --------------------------------------------------------------------------


def add_as_tensor_core(halves: np.ndarray, others: np.ndarray, products: int) -> np.ndarray:
    """float32 [n, N] sums of halves [n, D] times others [N, D], `products` at a time (arXiv:2512.07004).

    The products and the sum so far are cut to 24 bits at the largest of them, added exactly, cut to float32.
    """
    sums = np.zeros((len(halves), len(others), 1))
    for start in range(0, halves.shape[1], products):
        few = slice(start, start + products)
        exact = halves[:, None, few].astype(np.float64) * others[None, :, few].astype(np.float64)
        addends = np.concatenate([sums, exact], axis=2)
        unit = np.exp2(np.frexp(np.abs(addends).max(axis=2, keepdims=True))[1] - 24.0)
        total = (np.trunc(addends / unit) * unit).sum(axis=2, keepdims=True)
        rounded = total.astype(np.float32)
        over = np.abs(rounded) > np.abs(total)
        sums = np.where(over, np.nextafter(rounded, np.float32(0)), rounded).astype(np.float64)
    return sums[:, :, 0].astype(np.float32)


def model_screening(screened: ScreenedCodebook, queries: np.ndarray, products: int) -> tuple[np.ndarray, np.ndarray]:
    """t [n, rows] float32, P + π and π [n, 2], as `prepare` and `screen` compute them."""
    width = queries.shape[1]
    centred = queries - screened.mean
    exponents = np.minimum(15 - np.frexp(np.abs(centred).max(axis=1))[1], LARGEST_EXPONENT)
    exact = centred * np.exp2(exponents)[:, None]
    halves = (centred * np.exp2(exponents).astype(np.float32)[:, None]).astype(np.float16)
    halves[np.abs(halves) < 2.0**-14] = 0
    ratios = np.exp2(screened.exponent - exponents)
    rounding = ratios * np.linalg.norm(exact - halves, axis=1)
    longest = ratios * np.linalg.norm(exact, axis=1) + rounding
    filled = np.zeros((len(queries), screened.halves.shape[1]), np.float16)
    filled[:, :width] = halves
    sums = add_as_tensor_core(filled, screened.halves, products)
    scores = ratios[:, None] * sums.astype(np.float64) + screened.negative_halves  # exact, then rounded once
    return scores.astype(np.float32), np.stack([longest, rounding], axis=1)


def bound_errors(screened: ScreenedCodebook, lengths: np.ndarray) -> np.ndarray:
    """E [n, tiles] in float64, from P + π and π [n, 2]."""
    longest, rounding = lengths.astype(np.float64).T[:, :, None]
    reaches, residuals = screened.reaches.astype(np.float64), screened.residuals.astype(np.float64)
    bounds = longest * residuals + rounding * reaches + screened.slope * longest * (reaches + residuals)
    return bounds + 3 * UNIT_ROUNDOFF * (longest + reaches + residuals) ** 2 + 2.0**-100


def measure_scores(screened: ScreenedCodebook, codebook: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """What t stands for, in float64 [n, rows]: (‖q'‖² − ‖q − c‖²) / 2 in the units of x, −∞ where filled up."""
    centred = (queries - screened.mean).astype(np.float64)
    halves = (np.square(centred).sum(axis=1, keepdims=True) - measure_distances(codebook, queries)) / 2
    scores = np.ldexp(halves, 2 * screened.exponent)[:, screened.order]
    scores[:, screened.order < 0] = -np.inf
    return scores


@pytest.mark.parametrize("kind", CASES)
def test_screening_stays_within_its_bound_and_rescoring_finds_the_nearest(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred cases of each kind, with each of the three sizes in which tensor cores add, in small tiles."""
    monkeypatch.setattr(screening, "TILE_CENTROIDS", 8)
    tightest = 0.0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        count, size, width = 4, int(rng.integers(1, 40)), int(rng.choice([16, 48, 96, 208]))
        codebook, queries = CASES[kind](rng, count, size, width)
        screened = screen_codebook(codebook)
        scores, lengths = model_screening(screened, queries, (4, 8, 16)[seed % 3])
        bounds = bound_errors(screened, lengths).repeat(8, axis=1)
        exact = measure_scores(screened, codebook, queries)
        real = screened.order >= 0
        assert (scores[:, ~real] == -np.inf).all()
        errors = np.abs(np.subtract(scores, exact, where=real, out=np.zeros_like(exact))) / bounds
        assert errors.max() <= 1, (seed, errors.max())
        tightest = max(tightest, float(errors.max()))

        candidates = scores + bounds >= (scores - bounds).max(axis=1, keepdims=True)
        distances = measure_distances(codebook, queries)
        expected = distances.argmin(axis=1)
        survive = np.full((count, size), np.inf)
        rows, columns = np.nonzero(candidates)
        assert real[columns].all()
        survive[rows, screened.order[columns]] = distances[rows, screened.order[columns]]
        np.testing.assert_array_equal(survive.argmin(axis=1), expected)
    assert tightest > (0.5 if kind == "worst rounding" else 0.02), "so wide a bound proves nothing"


@pytest.mark.parametrize("width", [768, 3072])
def test_few_centroids_survive_screening(width: int) -> None:
    """This makes the search fast: nearly always only one group of 16 centroids is compared in float64."""
    rng = np.random.default_rng(width)
    codebook, queries = scatter(rng, 1024, width), scatter(rng, 8, width)
    screened = screen_codebook(codebook)
    scores, lengths = model_screening(screened, queries, 16)
    bounds = bound_errors(screened, lengths).repeat(TILE_CENTROIDS, axis=1)
    assert (scores + bounds >= (scores - bounds).max(axis=1, keepdims=True)).sum() <= 16


def test_a_long_vector_widens_the_bound_of_its_own_tile_only() -> None:
    codebook = scatter(np.random.default_rng(1), 1000, 32)
    codebook[17] *= 1e4
    screened = screen_codebook(codebook)
    assert screened.reaches[-1] > 100 * screened.reaches[-2]
    assert screened.order[999] == 17
    assert (np.diff(screened.reaches) >= 0).all()


def test_the_model_of_the_tensor_core_cuts_towards_zero() -> None:
    """1 + 2⁻²⁴ + 2⁻²⁴: each addend is cut before they are added."""
    halves = np.zeros((1, 16), np.float16)
    others = np.zeros((1, 16), np.float16)
    halves[0, :3], others[0, :3] = [1, 2.0**-12, 2.0**-12], [1, 2.0**-12, 2.0**-12]
    assert add_as_tensor_core(halves, others, 16) == 1
    others[0, 1:3] *= 2
    assert add_as_tensor_core(halves, others, 16) == 1 + 2.0**-22
    assert add_as_tensor_core(-halves, others, 4) == -1 - 2.0**-22


def test_codebook_as_the_kernels_take_it() -> None:
    rng = np.random.default_rng(0)
    codebook = 3 + scatter(rng, 1500, 40)
    screened = screen_codebook(codebook)
    assert screened.halves.shape == (1536, 64)
    np.testing.assert_array_equal(np.sort(screened.order[:1500]), np.arange(1500))
    assert (screened.order[1500:] == -1).all()
    scaled = (codebook - screened.mean)[screened.order[:1500]].astype(np.float64) * 2.0**screened.exponent
    assert 2**14 <= np.abs(scaled).max() < 2**15
    rounded = scaled.astype(np.float16)
    np.testing.assert_array_equal(screened.halves[:1500, :40], np.where(np.abs(rounded) < 2.0**-14, 0, rounded))
    assert not screened.halves[1500:].any()
    assert not screened.halves[:, 40:].any()
    np.testing.assert_allclose(screened.negative_halves[:1500], -np.square(scaled).sum(axis=1) / 2, rtol=6e-8)
    assert (screened.negative_halves[1500:] == -np.inf).all()
    for values, vectors in ((screened.reaches, scaled), (screened.residuals, scaled - screened.halves[:1500, :40])):
        norms = np.linalg.norm(vectors, axis=1)
        largest = [norms[start : start + 256].max() for start in range(0, 1500, 256)]
        assert (values >= largest).all()
        np.testing.assert_allclose(values, largest, rtol=3e-7)


# --- the kernel on the CPU ------------------------------------------------------------------------------------------


def emulate(emulations: Emulations, processors: int = 1, stages: int = 4) -> EmulatedDevice:
    """A device of `processors` multiprocessors. Its copies are late, and its tensor cores add 16 products at a time."""
    device = EmulatedDevice(emulations, processors, stages)
    configure(device, 2, 1, 16)
    return device


def configure(device: EmulatedDevice, order: int, late: int, products: int) -> None:
    """Choose what kernels/nearest.cu must not depend on; see emulated_gpu.h."""
    stages = device.stages or 4
    library = device.emulations.load("nearest.cu", ("STAGES", str(stages)))  # type: ignore[union-attr]
    assert library.shared_bytes() == stages * SLOT_BYTES
    library.configure(order, late, products)


def open_search(codebook: np.ndarray, device: EmulatedDevice) -> CudaNearestCentroid:
    return CudaNearestCentroid(codebook, device)  # type: ignore[arg-type]


ORDERS = ["first warp first", "last warp first", "random"]
COPIES = ["early copies", "late copies"]


@needs_compiler
@pytest.mark.parametrize("order", range(3), ids=ORDERS)
@pytest.mark.parametrize("late", range(2), ids=COPIES)
@pytest.mark.parametrize(
    ("stages", "count", "size", "width", "processors"),
    [(2, 5, 1100, 64, 1), (3, 5, 1100, 64, 1), (4, 5, 1100, 64, 1), (4, 3, 300, 272, 1), (4, 129, 260, 16, 2)],
    ids=["2 stages", "3 stages", "4 stages", "many slices", "two query tiles"],
)
def test_any_order_of_warps_and_copies(
    emulations: Emulations,
    order: int,
    late: int,
    stages: int,
    count: int,
    size: int,
    width: int,
    processors: int,
) -> None:
    """No barrier and no wait is missing: whatever runs first, the scores are the same and the nearest is found."""
    device = emulate(emulations, processors, stages)
    configure(device, order, late, (16, 8, 4)[order])
    rng = np.random.default_rng(width)
    codebook, queries = scatter(rng, size, width), scatter(rng, count, width)
    search = open_search(codebook, device)
    check_nearest(codebook, queries, search.search(queries))
    check_group_scores(search, codebook, queries)


def check_group_scores(search: CudaNearestCentroid, codebook: np.ndarray, queries: np.ndarray) -> None:
    """The scores that `screen` left in memory, group by group, are off by no more than E."""
    screened, scratch, device = search._screened, search._scratch, search._device
    assert scratch is not None
    groups = len(screened.order) // GROUP
    lengths, best = np.empty((len(queries), 2), np.float32), np.empty((len(queries), groups), np.float32)
    with device.lock:
        device.read(scratch.parts[2].address, lengths)
        device.read(scratch.parts[3].address, best)
    expected = measure_scores(screened, codebook, queries)[:, list_members(groups)].max(axis=2)
    real = np.isfinite(expected)
    assert (best[~real] == -np.inf).all()
    errors = np.abs(np.subtract(best, expected, where=real, out=np.zeros_like(expected)))
    bounds = bound_errors(screened, lengths).repeat(TILE_CENTROIDS // GROUP, axis=1)
    assert (errors <= bounds).all(), (errors / bounds).max()


def list_members(groups: int) -> np.ndarray:
    """Rows [groups, 16] of each group, as the comment of the kernel has it."""
    tile, warp, lane, f, odd = np.ogrid[: groups // 16, :4, :4, :8, :2]
    return (256 * tile + 64 * warp + 8 * f + 2 * lane + odd).reshape(groups, 16)


@needs_compiler
@pytest.mark.parametrize("kind", CASES)
def test_emulated_kernels_find_the_nearest(emulations: Emulations, kind: str) -> None:
    for seed, (count, size, width) in enumerate([(1, 1, 16), (6, 257, 80)]):
        device = emulate(emulations, 132)
        configure(device, 2, 1, (16, 4)[seed])
        codebook, queries = CASES[kind](np.random.default_rng(seed), count, size, width)
        search = open_search(codebook, device)
        found = search.search(queries)
        check_nearest(codebook, queries, found)
        check_group_scores(search, codebook, queries)


@needs_compiler
def test_more_queries_than_are_searched_at_a_time(emulations: Emulations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "QUERY_BLOCK", 128)
    rng = np.random.default_rng(5)
    codebook, queries = scatter(rng, 300, 3), scatter(rng, 150, 3)
    found = open_search(codebook, emulate(emulations)).search(queries)
    check_nearest(codebook, queries, found)


@needs_compiler
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_queries_that_are_not_finite_are_refused(emulations: Emulations, bad: float) -> None:
    rng = np.random.default_rng(6)
    codebook, queries = scatter(rng, 20, 8), scatter(rng, 4, 8)
    search = open_search(codebook, emulate(emulations))
    good = search.search(queries)
    queries[2, 3] = bad
    with pytest.raises(BackendError, match="query of norm") as ours:
        search.search(queries)
    with pytest.raises(BackendError) as twins:
        NearestCentroid(codebook).search(queries)
    assert str(ours.value) == str(twins.value)
    device = search._device
    given, found, indices = device.upload(queries), device.allocate(16), np.empty(4, np.int32)
    with device.lock:
        search.search_on_device(given.address, 4, found.address)
        device.read(found.address, indices)
    np.testing.assert_array_equal(indices, [good[0], good[1], -1, good[3]])


@needs_compiler
def test_searches_of_changing_sizes_share_memory(emulations: Emulations) -> None:
    rng = np.random.default_rng(7)
    codebook, queries = scatter(rng, 30, 16), scatter(rng, 130, 16)
    search = open_search(codebook, emulate(emulations))
    assert search.search(queries[:0]).shape == (0,)
    for count in (2, 130):
        check_nearest(codebook, queries[:count], search.search(queries[:count]))
    backwards = queries[::-50]  # not contiguous
    check_nearest(codebook, backwards, search.search(backwards))


@pytest.mark.parametrize(
    "codebook",
    [
        np.zeros(8, np.float32),
        np.zeros((0, 8), np.float32),
        np.zeros((8, 8)),
        np.full((3, 8), np.nan, np.float32),
        np.full((3, 8), [[3e38], [-3e38], [0]], np.float32),
    ],
)
def test_other_codebooks_are_refused_as_by_the_twin(codebook: np.ndarray) -> None:
    with pytest.raises(CodecError) as twins:
        NearestCentroid(codebook)
    with pytest.raises(CodecError) as ours:
        CudaNearestCentroid(codebook)
    assert (type(ours.value), str(ours.value)) == (type(twins.value), str(twins.value))


@needs_compiler
@pytest.mark.parametrize("queries", [np.zeros(8, np.float32), np.zeros((2, 7), np.float32), np.zeros((2, 8))])
def test_other_queries_are_refused_as_by_the_twin(emulations: Emulations, queries: np.ndarray) -> None:
    codebook = np.zeros((3, 8), np.float32)
    with pytest.raises(BackendError) as twins:
        NearestCentroid(codebook).search(queries)
    with pytest.raises(BackendError) as ours:
        open_search(codebook, emulate(emulations)).search(queries)
    assert str(ours.value) == str(twins.value)


# --- compiling and keeping ------------------------------------------------------------------------------------------


@has_core
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_without_a_gpu(arch: str) -> None:
    cubin = compile_kernel(arch)
    assert cubin.startswith(b"\x7fELF")
    for name in (b"prepare", b"screen", b"decide"):
        assert b".text." + name + b"\0" in cubin
    assert 2 <= choose_stages(arch) <= ARCHITECTURES[arch] * 1024 // SLOT_BYTES


@pytest.mark.parametrize("arch", ["sm_75", "sm_9", "compute_90", "90", ""])
def test_other_architectures_are_refused(arch: str) -> None:
    with pytest.raises(BackendError, match="expected sm_80"):
        choose_stages(arch)


@has_core
def test_an_architecture_that_nvrtc_does_not_know() -> None:
    with pytest.raises(BackendError, match=r"cannot be compiled for sm_81 .*expected NVRTC") as error:
        compile_kernel("sm_81")
    assert "\n" not in str(error.value)


@has_core
def test_source_that_does_not_compile(tmp_path: Path) -> None:
    source = tmp_path / "nearest.cu"
    source.write_text("garbage")
    with pytest.raises(BackendError, match=r"cannot be compiled for sm_90") as error:
        compile_source(source, "sm_90")
    assert "\n" not in str(error.value)


def test_without_cuda_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    for act in (Device, lambda: compile_kernel("sm_90")):
        with pytest.raises(MissingExtraError, match=r"the extra `gpu`: pip install 'sc-runtime\[gpu\]'"):
            act()
    assert "cuda-core" in (explain_absence() or "")


@has_core
@pytest.mark.skipif(ABSENCE is None, reason="there is a GPU")
def test_without_a_gpu() -> None:
    with pytest.raises(BackendError, match=r"\(device 0: .*expected an NVIDIA GPU and its driver") as error:
        CudaNearestCentroid(np.zeros((1, 16), np.float32))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(explain_absence() or "?")


@pytest.fixture
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Architectures that were compiled for; the cache is in `tmp_path`."""
    asked: list[str] = []

    def compile_stub(source: Path, arch: str, macro: object) -> bytes:
        asked.append(arch)
        return b"\x7fELF" + arch.encode()

    monkeypatch.setattr(cuda_source, "compile_source", compile_stub)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return asked


def test_a_cubin_is_kept_for_each_architecture(tmp_path: Path, compilations: list[str]) -> None:
    for _ in range(2):
        assert load_kernels("sm_90") == b"\x7fELFsm_90"
        assert load_kernels("sm_80") == b"\x7fELFsm_80"
    assert compilations == ["sm_90", "sm_80"]
    kept = sorted(path.name for path in (tmp_path / "sc-runtime" / "kernels").iterdir())
    assert [name.rsplit("-", 1)[0] for name in kept] == ["nearest-sm_80", "nearest-sm_90"]


def test_another_source_is_compiled_anew(tmp_path: Path, compilations: list[str]) -> None:
    load_kernels("sm_90")
    changed = tmp_path / "changed.cu"
    changed.write_bytes(NEAREST.read_bytes() + b"\n")
    load_kernels("sm_90", changed)
    assert compilations == ["sm_90", "sm_90"]


def test_a_damaged_cubin_is_replaced(tmp_path: Path, compilations: list[str]) -> None:
    load_kernels("sm_90")
    (kept,) = (tmp_path / "sc-runtime" / "kernels").iterdir()
    kept.write_bytes(b"")
    assert load_kernels("sm_90") == b"\x7fELFsm_90"
    assert kept.read_bytes() == b"\x7fELFsm_90"
    assert len(compilations) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, compilations: list[str]) -> None:
    (tmp_path / "sc-runtime").write_text("a file where the folder would be")
    assert load_kernels("sm_90") == load_kernels("sm_90") == b"\x7fELFsm_90"
    assert len(compilations) == 2


# --- its benchmark --------------------------------------------------------------------------------------------------


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.kernels.nearest", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_bench_on_the_cpu(tmp_path: Path) -> None:
    """It states what it ran, what it skipped and which answers were right. The times are not tested."""
    out = tmp_path / "new" / "nearest.json"
    done = run_bench("--device", "cpu", "--rows", "3x40x16,1x7x5", "--repeats", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert [row["shape"] for row in found["rows"]] == ["3x40x16", "1x7x5"]
    assert found["gpu"] is None
    assert found["skipped"]["everything on a GPU"] == "--device cpu"
    assert {"machine", "versions", "commit", "command", "date", "took_s"} <= set(found)
    for row in found["rows"]:
        assert "NearestCentroid" in row["ways"]
        for way in row["ways"].values():
            assert way["equal"] == 1
            assert 0 < way["s"]["min"] <= way["s"]["median"] <= way["s"]["max"]
            assert way["s"]["runs"] == 2
    assert "3x40x16" in done.stdout
    assert "Skipped everything on a GPU: --device cpu" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(("--rows", "3x"), "error: --rows 3x; expected"), (("--device", "tpu"), "error: --device tpu; expected")],
)
def test_bench_of_wrong_settings(arguments: tuple[str, str], line: str) -> None:
    done = run_bench(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(line)


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpu() -> Device:
    return Device()


@needs_gpu
@pytest.mark.parametrize("kind", CASES)
def test_gpu_finds_the_nearest(gpu: Device, kind: str) -> None:
    """A hundred cases of each kind: the answers of brute force, and scores within the bound on these tensor cores."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        count = int(rng.choice([1, 2, 31, 130]))
        size, width = int(rng.integers(1, 600)), 16 * int(rng.integers(1, 13))
        codebook, queries = CASES[kind](rng, count, size, width)
        search = CudaNearestCentroid(codebook, gpu)
        found = search.search(queries)
        check_nearest(codebook, queries, found)
        check_group_scores(search, codebook, queries)
        np.testing.assert_array_equal(found, search.search(queries))


@needs_gpu
@pytest.mark.parametrize(
    ("count", "size", "width"),
    [(512, 32768, 768), (256, 32768, 1536), (128, 32768, 3072), (1, 8192, 768), (5000, 4096, 768), (513, 8191, 768)],
)
def test_gpu_agrees_with_the_twin_at_full_size(gpu: Device, count: int, size: int, width: int) -> None:
    rng = np.random.default_rng(size + width)
    codebook, queries = scatter(rng, size, width), scatter(rng, count, width)
    queries[:: max(1, count // 7)] = codebook[rng.integers(size, size=len(queries[:: max(1, count // 7)]))]
    search = CudaNearestCentroid(codebook, gpu)
    np.testing.assert_array_equal(search.search(queries), NearestCentroid(codebook).search(queries))


@needs_gpu
def test_gpu_search_on_device_addresses(gpu: Device) -> None:
    rng = np.random.default_rng(9)
    codebook, queries = scatter(rng, 3000, 96), scatter(rng, 70, 96)
    queries[5, 7] = np.nan
    search = CudaNearestCentroid(codebook, gpu)
    given, found, indices = gpu.upload(queries), gpu.allocate(4 * 70), np.empty(70, np.int32)
    search.search_on_device(given.address, 70, found.address)
    gpu.read(found.address, indices)
    assert indices[5] == -1
    others = np.arange(70) != 5
    check_nearest(codebook, queries[others], indices[others])


@needs_gpu
def test_gpu_search_in_a_captured_graph(gpu: Device) -> None:
    """The search is captured once and replayed on new queries at the same address, as in a larger graph."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA")
    rng = np.random.default_rng(10)
    codebook = scatter(rng, 4096, 768)
    search = CudaNearestCentroid(codebook, gpu)
    queries = torch.zeros(300, 768, device="cuda")
    nearest = torch.empty(300, dtype=torch.int32, device="cuda")
    search.reserve(300)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stream = torch.cuda.current_stream().cuda_stream
        search.search_on_device(queries.data_ptr(), 300, nearest.data_ptr(), stream)
    for _ in range(3):
        drawn = scatter(rng, 300, 768)
        queries.copy_(torch.from_numpy(drawn))
        graph.replay()
        check_nearest(codebook, drawn, nearest.cpu().numpy())


def test_tile_sizes_are_those_of_the_kernel() -> None:
    """The sizes that both sides of the launch must agree on."""
    source = NEAREST.read_text(encoding="utf-8")
    names = {"TILE_QUERIES": TILE_QUERIES, "TILE_CENTROIDS": TILE_CENTROIDS, "SLICE": SLICE, "GROUP": GROUP}
    names |= {"THREADS": nearest.THREADS, "LARGEST_EXPONENT": LARGEST_EXPONENT}
    for name, value in names.items():
        assert f"constexpr int {name} = {value};" in source
