"""Windows cover every position once or twice, as published."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.semanticodec.windows import split_windows

CONFIGS = [SemantiCodecConfig(tps, 4096) for tps in (25, 50, 100)]


@given(positions=st.integers(1, 20_000), config=st.sampled_from(CONFIGS))
def test_windows_are_the_published_loop(positions: int, config: SemantiCodecConfig) -> None:
    expected, start = [], 0
    while start + config.positions < positions:
        expected.append((start, start + config.positions))
        start += config.positions - int(config.positions * 0.0625)
    expected.append((start, positions))
    assert [(window.start, window.stop) for window in split_windows(positions, config)] == expected


@given(positions=st.integers(1, 20_000), config=st.sampled_from(CONFIGS))
def test_every_position_lies_in_one_window_or_two_neighbours(positions: int, config: SemantiCodecConfig) -> None:
    windows = split_windows(positions, config)
    assert windows[0].start == 0
    assert windows[-1].stop == positions
    for before, after in itertools.pairwise(windows):
        assert before.stop - after.start == config.positions // 16  # the cross-faded sixteenth
        assert before.stop - before.start == config.positions
    assert all(0 < window.stop - window.start <= config.positions for window in windows)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.tps}tps")
def test_a_full_window_is_one_and_one_position_more_is_two(config: SemantiCodecConfig) -> None:
    assert len(split_windows(config.positions, config)) == 1
    assert len(split_windows(config.positions + 1, config)) == 2
