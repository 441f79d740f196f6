"""Whether ONNX Runtime's calls may be recorded: versions, trials in a child, and what the decoder does if not."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import pytest

from sc_runtime.backends.capture_child import replay_differs
from sc_runtime.backends.capture_trial import GOOD, check_version, try_out
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
