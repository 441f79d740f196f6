"""Streaming cross-fade against a plain whole-array computation."""

from __future__ import annotations

import numpy as np
import pytest

from sc_runtime.overlap_add import overlap_add
from sc_runtime.semanticodec.config import OVERLAP_SAMPLES, WINDOW_SAMPLES, WINDOW_STRIDE

WINDOW, STRIDE = WINDOW_SAMPLES, WINDOW_STRIDE


def add_whole(windows: np.ndarray, samples: int) -> np.ndarray:
    """Weighted sum in float64 over the whole output: each window times its own trapezoid."""
    count = len(windows)
    total = np.zeros(STRIDE * (count - 1) + WINDOW)
    ramp = np.linspace(0.0, 1.0, OVERLAP_SAMPLES)
    for i, window in enumerate(windows):
        weight = np.ones(WINDOW)
        if i > 0:
            weight[:OVERLAP_SAMPLES] = ramp
        if i < count - 1:
            weight[-OVERLAP_SAMPLES:] = ramp[::-1]
        total[i * STRIDE : i * STRIDE + WINDOW] += window * weight
    return total[:samples]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("missing", [0, 1, 10_239, 10_240, 10_241, 153_000])
def test_streamed_equals_whole(count: int, missing: int) -> None:
    windows = np.random.default_rng(count).standard_normal((count, WINDOW), np.float32)
    samples = STRIDE * (count - 1) + WINDOW - missing
    cuts = ([], [OVERLAP_SAMPLES], [12_345, 12_345, 100_000], [81_920])
    pieces = list(overlap_add((np.split(w, cuts[i % 4]) for i, w in enumerate(windows)), samples, OVERLAP_SAMPLES))
    joined = np.concatenate(pieces)
    assert joined.dtype == np.float32
    assert len(joined) == samples
    np.testing.assert_allclose(joined, add_whole(windows, samples), atol=1e-6)
    assert all(len(piece) for piece in pieces)


def test_a_constant_stays_constant_through_the_cross_fade() -> None:
    windows = np.ones((3, WINDOW), np.float32)
    np.testing.assert_allclose(
        np.concatenate(list(overlap_add(windows[:, np.newaxis], 400_000, OVERLAP_SAMPLES))), 1.0, atol=1e-6
    )


def test_first_piece_comes_after_the_first_window() -> None:
    taken = []

    def windows():
        for i in range(3):
            taken.append(i)
            yield [np.zeros(WINDOW, np.float32)]

    stream = overlap_add(windows(), 3 * STRIDE, OVERLAP_SAMPLES)
    assert len(next(stream)) == STRIDE
    assert taken == [0]


def test_windows_are_not_written_to() -> None:
    windows = np.random.default_rng(0).standard_normal((2, WINDOW), np.float32)
    before = windows.copy()
    list(overlap_add(windows[:, np.newaxis], 300_000, OVERLAP_SAMPLES))
    np.testing.assert_array_equal(windows, before)
