"""The nearest centroid against brute force in float64: equal, not nearly equal."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sc_runtime import centroids
from sc_runtime.centroids import NearestCentroid
from sc_runtime.errors import BackendError, BundleError

SEARCHES: list[Callable[[np.ndarray], NearestCentroid]] = [NearestCentroid]
if importlib.util.find_spec("openvino"):
    from sc_runtime.backends.openvino.backend import OpenVinoBackend
    from sc_runtime.backends.openvino.search import OpenVinoNearestCentroid

    class Screened(OpenVinoNearestCentroid):
        """OpenVINO's products, however few queries there are."""

        least_queries = 1

    BACKEND = OpenVinoBackend(threads=1)
    SEARCHES.append(lambda codebook: Screened(codebook, BACKEND.core, BACKEND.make_settings(lower=False)))


def brute_force(codebook: np.ndarray, queries: np.ndarray) -> np.ndarray:
    distances = [np.square(codebook.astype(np.float64) - query).sum(axis=1) for query in queries]
    return np.array([distance.argmin() for distance in distances], np.int32).reshape(len(queries))


def check(codebook: np.ndarray, queries: np.ndarray) -> np.ndarray:
    codebook, queries = codebook.astype(np.float32), queries.astype(np.float32)
    expected = brute_force(codebook, queries)
    for open_search in SEARCHES:
        nearest = open_search(codebook).search(queries)
        assert nearest.dtype == np.int32
        np.testing.assert_array_equal(nearest, expected)
    return expected


@pytest.mark.parametrize(
    ("size", "width", "count"),
    [(4096, 768, 40), (300, 3072, 30), (1, 768, 3), (8192, 7, 200), (1000, 1, 50), (5, 1536, 0)],
)
@pytest.mark.parametrize("offset", [0, 30])
def test_random_vectors(size, width, count, offset):
    rng = np.random.default_rng(size + width)
    check(rng.standard_normal((size, width)) + offset, rng.standard_normal((count, width)) + offset)


def test_columns_in_memory():
    """Arrays that are not row-major, as a transposed matrix."""
    rng = np.random.default_rng(4)
    codebook, queries = (np.asfortranarray(rng.standard_normal((n, 24))) for n in (300, 50))
    check(codebook, queries)


def test_more_queries_and_centroids_than_a_block_holds(monkeypatch):
    monkeypatch.setattr(centroids, "BLOCK_SCORES", 3000)
    rng = np.random.default_rng(1)
    codebook = rng.standard_normal((1000, 24))
    check(codebook, rng.standard_normal((100, 24)))
    monkeypatch.setattr(centroids, "BLOCK_SCORES", 10)
    check(codebook, rng.standard_normal((5, 24)))


def test_the_centroids_themselves():
    codebook = np.random.default_rng(2).standard_normal((2000, 768))
    np.testing.assert_array_equal(check(codebook, codebook[::50]), np.arange(2000)[::50])


def test_of_duplicates_the_lowest_index():
    rng = np.random.default_rng(3)
    distinct = rng.standard_normal((50, 768))
    codebook = distinct[rng.integers(0, 50, 3000)]
    queries = distinct + 0.1 * rng.standard_normal((50, 768))
    nearest = check(codebook, queries)
    firsts = [np.flatnonzero((codebook == row).all(axis=1))[0] for row in distinct]
    np.testing.assert_array_equal(nearest, firsts)


def test_mirrored_centroids_tie_exactly():
    rng = np.random.default_rng(4)
    query = rng.integers(-8, 8, (1, 64)).astype(np.float32)
    step = rng.integers(-8, 8, (1, 64)).astype(np.float32)
    far = query + 100 + rng.integers(0, 8, (20, 64))
    assert check(np.concatenate([far, query + step, query - step]), query) == [20]
    assert check(np.concatenate([query - step, far, query + step]), query) == [0]


@pytest.mark.parametrize("width", [7, 768, 3072])
def test_centroids_one_ulp_apart(width):
    """Every row differs from the first in the last bit of one component, which float32 products do not resolve."""
    rng = np.random.default_rng(width)
    base = rng.standard_normal(width).astype(np.float32)
    codebook = np.tile(base, (200, 1))
    for row in range(200):
        column = rng.integers(width)
        codebook[row, column] = np.nextafter(base[column], np.float32(rng.choice([-np.inf, np.inf])))
    queries = base + rng.standard_normal((20, width)).astype(np.float32)
    assert len(set(check(codebook, queries))) > 1


def test_large_norms_with_tiny_differences():
    rng = np.random.default_rng(5)
    base = rng.standard_normal(768)
    base *= 1e4 / np.linalg.norm(base)
    codebook = base + 1e-3 * rng.standard_normal((500, 768))
    assert len(set(check(codebook, base + 1e-3 * rng.standard_normal((40, 768))))) > 10


def test_an_outlier_far_from_the_others():
    rng = np.random.default_rng(6)
    codebook = rng.standard_normal((500, 96))
    codebook[17] *= 1e6
    check(codebook, np.concatenate([rng.standard_normal((30, 96)), codebook[17:18]]))


def test_queries_far_from_the_codebook():
    rng = np.random.default_rng(7)
    check(rng.standard_normal((500, 96)), 1e6 * rng.standard_normal((30, 96)))


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1e-12, 1e12, 1e15])
def test_tiny_and_huge_values(scale):
    rng = np.random.default_rng(8)
    check(scale * rng.standard_normal((300, 40)), scale * rng.standard_normal((20, 40)))


def test_zeros():
    assert check(np.zeros((10, 768)), np.zeros((3, 768))).tolist() == [0, 0, 0]
    assert check(np.concatenate([np.ones((3, 768)), np.zeros((3, 768))]), np.zeros((2, 768))).tolist() == [3, 3]


SMALL = st.integers(1, 6).flatmap(
    lambda width: st.tuples(
        *(
            arrays.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(width)), elements=elements)
            for elements in (st.sampled_from([-2, -1, 0, 1, 2]) | st.floats(-1e6, 1e6, width=32),) * 2
        )
    )
)


@settings(max_examples=300, deadline=None)
@given(SMALL)
def test_any_small_codebook(case):
    check(*case)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 64, 500]), st.floats(-6, 3), st.floats(-6, 3))
def test_the_bound_holds(seed, width, spread, offset):
    """Screening is off by no more than E, whatever the spread of the codebook and its offset."""
    rng = np.random.default_rng(seed)
    shift = 10**offset * rng.standard_normal(width)
    codebook = (shift + 10**spread * rng.standard_normal((40, width))).astype(np.float32)
    queries = (shift + 10**spread * rng.standard_normal((8, width))).astype(np.float32)
    search = NearestCentroid(codebook)
    scores = np.empty((8, 40), np.float32)
    search._search_block(queries, scores)
    centred = queries - search._mean
    norms = np.linalg.norm(centred.astype(np.float64), axis=1)
    distances = np.square(codebook.astype(np.float64) - queries.astype(np.float64)[:, None]).sum(axis=2)
    exact = (norms[:, None] ** 2 - distances) / 2
    assert (np.abs(scores - exact) <= search._error_bound(norms)[:, None]).all()


@pytest.mark.parametrize("open_search", SEARCHES)
@pytest.mark.parametrize("offset", [0, 50])
def test_few_candidates_survive_screening(monkeypatch, open_search, offset):
    """This makes the search fast: few queries need float64, with a common offset too."""
    rng = np.random.default_rng(9)
    codebook = (rng.standard_normal((4096, 768)) + offset).astype(np.float32)
    queries = (rng.standard_normal((64, 768)) + offset).astype(np.float32)
    search = open_search(codebook)
    rescored = []
    monkeypatch.setattr(search, "_rescore", lambda query, few: rescored.append(len(few)) or few[0])
    search.search(queries)
    assert sum(rescored) <= 10


@pytest.mark.parametrize("open_search", SEARCHES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_values_that_are_not_finite_are_refused(open_search, bad):
    codebook = np.zeros((10, 8), np.float32)
    queries = np.zeros((4, 8), np.float32)
    queries[2, 3] = bad
    with pytest.raises(BackendError, match="query of norm"):
        open_search(codebook).search(queries)
    codebook[1, 1] = bad
    with pytest.raises(BundleError, match="codebook with vectors of norm"):
        open_search(codebook)


@pytest.mark.parametrize(
    "codebook", [np.zeros(8, np.float32), np.zeros((0, 8), np.float32), np.zeros((8, 0), np.float32), np.zeros((8, 8))]
)
def test_other_codebooks_are_refused(codebook):
    with pytest.raises(BundleError, match="codebook of"):
        NearestCentroid(codebook)


@pytest.mark.parametrize("open_search", SEARCHES)
@pytest.mark.parametrize("queries", [np.zeros(8, np.float32), np.zeros((2, 7), np.float32), np.zeros((2, 8))])
def test_other_queries_are_refused(open_search, queries):
    with pytest.raises(BackendError, match="queries of"):
        open_search(np.zeros((3, 8), np.float32)).search(queries)
