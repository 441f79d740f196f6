"""How kernels/product.cu and kernels/recurrence.cu take an LSTM: its weights in their layout, its units on blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .screening import SLICE, fill_up

THREADS, WARPS = 256, 8  #: of a block
TILE_ROWS, TILE_COLUMNS = 128, 256  #: of kernels/product.cu
#: Of kernels/recurrence.cu: units of a tile, columns of a slice, windows of a panel, slices whose h is loaded ahead.
UNITS, COLUMNS, PANEL_WINDOWS, AHEAD = 4, 16, 8, 2
MOST_TILES = 6  #: of a pass; more do not fit into the registers
HELD_MATRICES = 24  #: that a warp holds in registers
PANEL_FLOATS = 144  #: of a panel's sums in shared memory
MATRIX_BYTES = 512
MOST_WINDOWS = 16  #: that one launch takes
GATES, SIDES = 4, 2

Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Division:
    """How a layer's recurrence is divided among multiprocessors; kernels/recurrence.cu explains the words.

    in_turn: the directions run one after the other, each on all multiprocessors.
    pass_tiles: TILES, of a pass. tiles: of a block. blocks: of one direction.
    panels: PANELS. kept: rows of matrices that a warp finds in shared memory.
    """

    in_turn: bool
    pass_tiles: int
    tiles: int
    blocks: int
    panels: int
    kept: int

    @property
    def macro(self) -> tuple[str, str]:
        return "SHAPE", f"{self.pass_tiles}{self.panels}"


def divide(width: int, windows: int, processors: int, shared_bytes: int, in_turn: bool = False) -> Division:
    """The division of a layer of `width` units a direction, for up to 16 windows at a time.

    shared_bytes: that a block may have.
    """
    in_turn = in_turn or processors < SIDES
    all_tiles, most = width // UNITS, processors if in_turn else processors // SIDES
    least = -(-all_tiles // most)
    passes = -(-least // MOST_TILES)
    pass_tiles = -(-least // passes)
    tiles, panels = passes * pass_tiles, -(-windows // PANEL_WINDOWS)
    rows = count_slices(width) // WARPS
    held = min(HELD_MATRICES // pass_tiles // AHEAD * AHEAD, rows)
    partial = 4 * WARPS * ((pass_tiles + 1) // 2) * panels * PANEL_FLOATS
    spare = shared_bytes - partial - 4 * UNITS * tiles * PANEL_WINDOWS * panels
    kept = max(0, spare // (WARPS * MATRIX_BYTES * pass_tiles) // AHEAD * AHEAD)
    return Division(in_turn, pass_tiles, tiles, -(-all_tiles // tiles), panels, min(kept, passes * rows - held))


def count_slices(width: int) -> int:
    """Slices of a row of R, filled up so that every warp has a multiple of AHEAD."""
    return fill_up(-(-width // COLUMNS), WARPS * AHEAD)


def pack_recurrence(r: Halves, spare_tiles: int) -> Halves:
    """R [2, 4H, H] of ONNX's LSTM -> matrices [2 H / 4 + spare_tiles, slices, 32 lanes, 4 registers, 2].

    A tile has 16 rows: row 4u + g is gate g of its unit u. A matrix is 16 of its columns. A lane holds the values that
    it passes to mma.m16n8k16: rows lane / 4 and that + 8, columns 2 (lane mod 4) + {0, 1} and these + 8.
    """
    sides, _, width = r.shape
    tiles = width // UNITS
    packed = np.zeros((sides * tiles + spare_tiles, count_slices(width), 32, 4, 2), np.float16)
    target = packed[: sides * tiles, : width // COLUMNS]
    for side in range(sides):
        # Axes: gate, tile, half of its rows, unit of the half, slice, half of its columns, lane mod 4, pair.
        parts = r[side].reshape(GATES, tiles, 2, 2, width // COLUMNS, 2, 4, 2)
        ordered = parts.transpose(1, 4, 3, 0, 6, 5, 2, 7)
        target[side * tiles : (side + 1) * tiles] = ordered.reshape(tiles, width // COLUMNS, 32, 4, 2)
    return packed


def order_rows(weights: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """[2, 4H, ...] in ONNX's order -> [8H, ...] in the order of the kernels: direction, unit, gate."""
    sides, rows, *rest = weights.shape
    parts = weights.reshape(sides, GATES, rows // GATES, *rest)
    return np.ascontiguousarray(np.moveaxis(parts, 1, 2)).reshape(sides * rows, *rest)


def pad_matrix(matrix: npt.NDArray[np.generic]) -> Halves:
    """[rows, columns] as kernels/product.cu takes its second factor: float16, filled up with zeros to whole tiles."""
    rows, columns = matrix.shape
    padded = np.zeros((fill_up(rows, TILE_COLUMNS), fill_up(columns, SLICE)), np.float16)
    padded[:rows, :columns] = matrix
    return padded


def pad_vector(vector: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """[rows] as float32, filled up with zeros to whole tiles of kernels/product.cu."""
    padded = np.zeros(fill_up(len(vector), TILE_COLUMNS), np.float32)
    padded[: len(vector)] = vector
    return padded
