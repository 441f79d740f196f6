"""Features → tokens: the exactly nearest centroid (paper, eq. 1 and 3; Liu et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import TRY_ANOTHER, BackendError, BundleError

BLOCK_SCORES = 1 << 23  #: float32 scores held at a time (32 MiB), however many queries there are
RESCORED_ROWS = 1024  #: centroids compared in float64 at a time
NORM_LIMIT = 1e18  #: bound on a vector's norm about the codebook's mean; its square is far from overflowing float32
UNIT_ROUNDOFF = 2.0**-24  #: u of float32
REBUILD = "rebuild the bundle from an undamaged checkpoint"  #: the remedy for a codebook

#: queries [n, D], scores [n, N] to overwrite -> indices [n]
BlockSearch = Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], npt.NDArray[Any]]


class NearestCentroid:
    """Nearest-neighbour search in one codebook: argmin over j of ‖q − c_j‖² (paper, eq. 1 and 3).

    The answer is that of a brute-force search in float64: the lowest index among the smallest float64 sums of
    (q − c)². A float32 matrix product screens the codebook, and float64 decides between the centroids that
    float32 cannot separate. The proof that the nearest centroid is never lost:

    Let m be the codebook's mean in float32, q' = fl(q − m), c' = fl(c − m), Q = ‖q'‖, M = max ‖c'_j‖,
    u = 2⁻²⁴, γ_n = n·u / (1 − n·u). As ‖q' − c'‖² / 2 = Q² / 2 − g with g_j = q'·c'_j − ‖c'_j‖² / 2, the
    nearest centroid has the largest g. Screening computes g as t, and t is off by at most
    1. γ_(D+1)·(Q·M + M² / 2): a float32 sum of D products and of −‖c'‖² / 2, in any order, fused or not (Higham
       2002, section 3.1);
    2. u·(Q + M)² for rounding ‖c'‖² / 2 to float32, and u·(Q + M)² for centring, which changes q − c by a vector
       no longer than u·(Q + M);
    3. 0.1·u·(Q + M)² for all that is smaller up to D = 2²⁰: products of roundings, and the float64 sums that
       decide; and (D + 2)·2⁻¹²⁵ for underflow, flushed to zero or not.
    With E = γ_(D+1)·(Q·M + M² / 2) + 3u·(Q + M)² + (D + 2)·2⁻¹²⁵, the nearest centroid has t ≥ max t − 2E.
    Centring makes Q and M small: for vectors that share a large offset it leaves one candidate instead of thousands.

    An instance holds the given codebook and a centred copy of it, float32 [N, D].
    """

    def __init__(self, codebook: npt.NDArray[np.float32]) -> None:
        """`codebook` float32 [N, D], N and D ≥ 1; kept, not copied. Raises `BundleError`."""
        self.codebook = codebook
        self._mean, self._centred, squares = centre_codebook(codebook)
        self._largest = float(np.sqrt(squares.max()))
        self._half_squares = (squares / 2).astype(np.float32)

    def search(self, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Indices int32 [n] of the centroids nearest to `queries` float32 [n, D]; of equals, the lowest.

        Memory: 32 MiB of scores (or one row of N, if more) at a time. Raises `BackendError` for another
        shape or dtype and for values that are not finite: queries come from a network, not from the user.
        """
        count, width = self.codebook.shape
        check_queries(queries, width)
        nearest = np.empty(len(queries), np.int32)
        search_block = self._choose_block_search(len(queries))
        rows = max(1, BLOCK_SCORES // count)
        scores = np.empty((min(rows, len(queries)), count), np.float32)
        for start in range(0, len(queries), rows):
            block = queries[start : start + rows]
            nearest[start : start + rows] = search_block(block, scores[: len(block)])
        return nearest

    def _choose_block_search(self, count: int) -> BlockSearch:
        """What searches the blocks of `count` queries."""
        return self._search_block

    def _search_block(self, queries: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        """Indices [n] for `queries` [n, D]; `scores` [n, N] is overwritten with t."""
        centred, norms = self._centre(queries)
        np.matmul(centred, self._centred.T, out=scores)
        np.subtract(scores, self._half_squares, out=scores)
        nearest = scores.argmax(axis=1)
        best = scores[np.arange(len(scores)), nearest]
        floor = (best - 2 * self._error_bound(norms)).astype(np.float32)
        candidates = scores >= np.nextafter(floor, np.float32(-np.inf))[:, None]
        for row in np.flatnonzero(np.count_nonzero(candidates, axis=1) > 1):
            nearest[row] = self._rescore(queries[row], np.flatnonzero(candidates[row]))
        return nearest

    def _centre(self, queries: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """q' [n, D] and Q [n] of `queries` [n, D]. Raises BackendError."""
        with np.errstate(over="ignore", invalid="ignore"):
            centred = queries - self._mean
        norms = np.sqrt(_square_norms(centred))
        if not np.all(norms < NORM_LIMIT):
            raise explain_query(norms[int(np.argmin(norms < NORM_LIMIT))])
        return centred, norms

    def _error_bound(self, norms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """E [n] of the class docstring, for queries of norm Q = `norms` [n] about the mean."""
        width = self.codebook.shape[1]
        gamma = (width + 1) * UNIT_ROUNDOFF / (1 - (width + 1) * UNIT_ROUNDOFF)
        rounding = 3 * UNIT_ROUNDOFF * (norms + self._largest) ** 2
        return gamma * (norms + self._largest / 2) * self._largest + rounding + (width + 2) * 2.0**-125

    def _rescore(self, query: npt.NDArray[np.float32], candidates: npt.NDArray[np.intp]) -> int:
        """Of `candidates` (ascending indices) the nearest to `query` [D] in float64; of equals, the first."""
        distances = np.empty(len(candidates), np.float64)
        for start in range(0, len(candidates), RESCORED_ROWS):
            few = slice(start, start + RESCORED_ROWS)
            differences = self.codebook[candidates[few]].astype(np.float64) - query
            distances[few] = np.square(differences, out=differences).sum(axis=1)
        return int(candidates[distances.argmin()])


def centre_codebook(
    codebook: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """(mean [D], codebook − mean [N, D], squared norms [N] of its rows) of `codebook` [N, D]. Raises BundleError."""
    if codebook.ndim != 2 or codebook.dtype != np.float32 or 0 in codebook.shape:
        raise BundleError(f"codebook of {describe_array(codebook)}", "float32 [centroids, width]", REBUILD)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = codebook.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = codebook - mean
    squares = _square_norms(centred)
    largest = float(np.sqrt(squares.max()))
    if not largest < NORM_LIMIT:
        raise BundleError(f"codebook with vectors of norm {largest:g}", "finite values", REBUILD)
    return mean, centred, squares


def check_queries(queries: npt.NDArray[np.float32], width: int) -> None:
    """Raises `BackendError` for queries that are not float32 [n, width]."""
    if queries.ndim != 2 or queries.shape[1] != width or queries.dtype != np.float32:
        raise BackendError(f"queries of {describe_array(queries)}", f"float32 [queries, {width}]", TRY_ANOTHER)


def explain_query(norm: float) -> BackendError:
    """The error of a query with `norm` about the codebook's mean that is NORM_LIMIT or more, or not a number."""
    return BackendError(f"query of norm {norm:g}", "finite features", TRY_ANOTHER)


def _square_norms(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Squared Euclidean norms [n] of `vectors` [n, D], summed in float64."""
    return np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)


def describe_array(array: npt.NDArray[np.generic]) -> str:
    return f"{array.dtype} {list(array.shape)}"
