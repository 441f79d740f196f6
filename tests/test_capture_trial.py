"""Whether ONNX Runtime's calls may be recorded: versions, trials in a child, and what the decoder does if not."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sc_runtime.backends import capture_trial
from sc_runtime.backends.capture_child import replay_differs
from sc_runtime.backends.capture_trial import GOOD, check_version, explain_refusal, try_out
from sc_runtime.cuda.graph import DeviceGraph
from sc_runtime.spec import GraphSpec, TensorSpec
from tests.emulated_device import EmulatedDevice, view


@pytest.mark.parametrize(("version", "good"), [("1.30.0", True), ("1.31.1", True), ("2.0", True), ("1.29.3", False)])
def test_versions_that_replay_stale_data_are_refused(version: str, good: bool) -> None:
    reason = check_version(version)
    assert (reason is None) == good
    assert good or "onnxruntime-gpu>=1.30" in str(reason)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (f"print('{GOOD}')", None),
        ("print('replay 1 differs from a run')", "a trial found: replay 1 differs from a run"),
        ("import os; os.abort()", "a trial ended with code -6: it printed nothing"),
        ("raise SystemExit('no GPU')", "a trial ended with code 1: no GPU"),
    ],
)
def test_a_trial_that_aborts_ends_only_its_own_process(program: str, reason: str | None) -> None:
    assert try_out([sys.executable, "-c", program]) == reason


def test_a_trial_that_hangs_is_ended() -> None:
    assert "timed out" in str(try_out([sys.executable, "-c", "import time; time.sleep(100)"], 0.5))


@pytest.mark.parametrize(
    ("said", "reason"), [(GOOD, None), ("replay 0 differs", "a trial found: replay 0 differs")], ids=["good", "bad"]
)
def test_a_trial_runs_once_for_all_processes(
    said: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an H200 a good outcome was kept as an empty file, which a cache deletes: each process ran the trial again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commands: list[list[str]] = []

    def run(command: list[str], seconds: float) -> tuple[str, str]:
        commands.append(command)
        return said, ""

    monkeypatch.setattr(capture_trial, "run_child", run)
    bundle: Any = SimpleNamespace(path=Path("bundle"), list_hashes=lambda graph: ["12"])
    for _ in range(2):
        assert explain_refusal("1.31.1", "NVIDIA H200", bundle, "tunet_step", {"batch": 2}) == reason
    assert len(commands) == 1
    explain_refusal("1.31.1", "NVIDIA H200", bundle, "tunet_step", {"batch": 14})
    assert [command[-1] for command in commands] == ["batch=2", "batch=14"]


@pytest.mark.parametrize(
    "failure", ["a trial failed: timed out after 120 seconds", "a trial ended with code 1: out of memory"]
)
@pytest.mark.parametrize("kept_by_an_older_version", [False, True])
def test_a_trial_that_gave_no_results_is_tried_again_in_the_next_process(
    failure: str, kept_by_an_older_version: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU may have been full or busy. In the same process the trial is not repeated: it may take minutes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    answers: list[tuple[str | None, str]] = [(None, failure), (GOOD, "")]
    monkeypatch.setattr(capture_trial, "run_child", lambda command, seconds: answers.pop(0))
    bundle: Any = SimpleNamespace(path=Path("bundle"), list_hashes=lambda graph: ["12"])
    explain = partial(explain_refusal, "1.31.1", "NVIDIA H200", bundle, "tunet_step", {"batch": 2})

    def start_process() -> None:
        monkeypatch.setattr(capture_trial, "_failures", {})

    start_process()
    if kept_by_an_older_version:
        key = f"capture-{capture_trial.make_key('1.31.1', 'NVIDIA H200', ['12'], ['batch=2'])}"
        capture_trial.OUTCOMES.write(key, failure.encode())
    assert [explain(), explain()] == [failure, failure]
    start_process()
    assert explain() is None
    start_process()
    assert explain() is None and not answers


class Doubling:
    """A graph y = 2 x on the emulated device. With `stale` every run repeats the first one's result."""

    def __init__(self, shapes: Any, addresses: Any, stale: bool = False) -> None:
        self.x, self.y = (view(addresses[name], np.float32, *shapes[name]) for name in "xy")
        self.stale, self.first = stale, None

    def enqueue(self) -> None:
        if self.first is None:
            self.first = 2 * self.x
        self.y[:] = self.first if self.stale else 2 * self.x


@pytest.mark.parametrize("stale", [False, True])
def test_a_replay_of_old_inputs_is_noticed(stale: bool) -> None:
    gpu: Any = EmulatedDevice(None)
    spec = TensorSpec("float32", ("batch", 5))
    record = partial(Doubling, stale=stale)
    graph = DeviceGraph(gpu, GraphSpec({"batch": (1, 2, 4)}), {"x": spec}, {"y": spec}, Doubling, record=record)
    found = replay_differs(gpu, graph, {"batch": 2})
    assert found is None if not stale else str(found).startswith("replay 0 differs from a run by 1.")
