"""A codebook as kernels/nearest.cu reads it: centred, scaled, rounded to FP16, with bounds on the rounding error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sc_runtime.centroids import UNIT_ROUNDOFF, centre_codebook

#: Sizes that kernels/nearest.cu is written for.
TILE_QUERIES, TILE_CENTROIDS, SLICE, GROUP = 128, 256, 64, 16
LARGEST_EXPONENT = 30
SMALLEST_NORMAL = np.float16(2.0**-14)


@dataclass(frozen=True)
class ScreenedCodebook:
    """A codebook [N, D] as the kernels read it, in the notation of kernels/nearest.cu.

    Rows are sorted by length and filled up to a multiple of 256, the rows of a tile. Columns are filled up to a
    multiple of 64.
    """

    mean: npt.NDArray[np.float32]  #: m [D]
    order: npt.NDArray[np.int32]  #: the index in the codebook of each row [rows], −1 where filled up
    halves: npt.NDArray[np.float16]  #: x̂, 2ᵇ·c' in normal float16 [rows, columns], zeros where filled up
    negative_halves: npt.NDArray[np.float32]  #: −h = −‖2ᵇ·c'‖² / 2 [rows], −∞ where filled up
    exponent: int  #: b
    reaches: npt.NDArray[np.float32]  #: X = max ‖2ᵇ·c'‖ of each tile, rounded up
    residuals: npt.NDArray[np.float32]  #: Δ = max ‖2ᵇ·c' − x̂‖ of each tile, rounded up
    slope: float  #: A = 4u·columns, of the tensor cores' accumulation


def screen_codebook(codebook: npt.NDArray[np.float32]) -> ScreenedCodebook:
    """Centre, scale and round `codebook` float32 [N, D]. Raises `BundleError` as `NearestCentroid` does."""
    mean, centred, squares = centre_codebook(codebook)
    lengths = np.sqrt(squares)
    exponent = min(15 - int(np.frexp(np.abs(centred).max())[1]), LARGEST_EXPONENT)
    (count, width), sorting = codebook.shape, lengths.argsort(kind="stable")
    rows, columns = fill_up(count, TILE_CENTROIDS), fill_up(width, SLICE)
    order, negative_halves = np.full(rows, -1, np.int32), np.full(rows, -np.inf, np.float32)
    order[:count] = sorting
    halves = np.zeros((rows, columns), np.float16)
    reaches, residuals = np.zeros((2, rows // TILE_CENTROIDS))
    for tile in range(len(reaches)):
        few = slice(tile * TILE_CENTROIDS, min((tile + 1) * TILE_CENTROIDS, count))
        exact = centred[sorting[few]] * np.float64(2.0**exponent)
        rounded = exact.astype(np.float32).astype(np.float16)
        rounded[np.abs(rounded) < SMALLEST_NORMAL] = 0
        halves[few, :width] = rounded
        squares = np.einsum("nd,nd->n", exact, exact)
        negative_halves[few] = squares / -2
        exact -= rounded
        reaches[tile] = np.sqrt(squares.max())
        residuals[tile] = np.sqrt(np.einsum("nd,nd->n", exact, exact).max())
    slope = 4 * UNIT_ROUNDOFF * columns
    return ScreenedCodebook(
        mean, order, halves, negative_halves, exponent, _round_up(reaches), _round_up(residuals), slope
    )


def fill_up(count: int, step: int) -> int:
    """`count` rounded up to a multiple of `step`."""
    return -(-count // step) * step


def _round_up(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """float32 no smaller than `values`."""
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))
