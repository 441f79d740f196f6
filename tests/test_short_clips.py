"""`bench.speed.short_clips` on a tiny bundle: what it writes and refuses, not the speeds."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.speed import short_clips
from bench.speed.short_clips import Way, compare_codes, cut_clips
from sc_runtime.cli.program import run_command
from sc_runtime.errors import BackendError


class StubChild:
    """Answers after 0.1 s with the first sample of each clip."""

    def ask(self, task: str, clips: Sequence[np.ndarray], together: bool) -> tuple[list[np.ndarray], int]:
        time.sleep(0.1)
        return [clip[:1] for clip in clips], 1000


def test_several_processes_share_the_clips_and_keep_their_order() -> None:
    clips = [np.array([number, 9]) for number in range(7)]
    way = Way("three", [StubChild(), StubChild(), StubChild()], together=True)  # type: ignore[list-item]
    assert [codes.tolist() for codes in way.encode(clips)] == [[number] for number in range(7)]
    found = way.summarise(seconds=2.0)
    assert (found["clips"], found["processes"], found["peak_rss_bytes"]) == (7, 3, 3000)
    assert found["rtf"] == found["seconds_per_clip"] / 2
    few = Way("a part", [StubChild()], together=False, share=0.3)  # type: ignore[list-item]
    assert len(few.encode(clips)) == few.clips == 2


def test_codes_that_differ_are_an_error() -> None:
    codes = [np.array([1, 2]), np.array([3])]
    compare_codes([codes[:1], codes, codes])
    with pytest.raises(BackendError, match="codes of clip 1 of a block that depend on the way"):
        compare_codes([codes[:1], [codes[0], np.array([4])], codes])


def test_clips_last_one_to_three_seconds() -> None:
    clips = cut_clips(20, 8000)
    lengths = [len(clip) / 8000 for clip in clips]
    assert 1 <= min(lengths) < 1.5 < 2.5 < max(lengths) <= 3
    assert len({clip.tobytes() for clip in clips}) == 20


@pytest.mark.slow
def test_every_way_is_timed(tiny_unicodec: Path, tmp_path: Path) -> None:
    out = tmp_path / "short.json"
    arguments = ["--bundle", str(tiny_unicodec), "--clips", "5", "--block", "3", "--processes", "2", "--out", str(out)]
    assert run_command(short_clips.app, arguments) == 0
    ways = json.loads(out.read_text())["ways"]
    assert {name: (way["clips"], way["processes"]) for name, way in ways.items()} == {
        "one by one": (2, 1),  # a fifth of each block, one at least
        "encode_many": (5, 1),
        "encode_many in 2 processes": (5, 2),
    }
    for way in ways.values():
        assert 0 < way["spread_s"][0] <= way["seconds_per_clip"] <= way["spread_s"][1]


@pytest.mark.parametrize("option", ["--clips", "--block", "--processes"])
def test_what_cannot_work_is_one_line(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(short_clips.app, [option, "0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {option} 0")
