"""Whether ONNX Runtime's CUDA graph of a run gives the run's results here, tried in a process of its own.

Before version 1.30 a replay read host memory that was no longer there (its pull request 32121). So older versions are
refused. With others a child process lets ONNX Runtime record the very graph in question, replays it on new inputs and
compares. The outcome is kept in the user's cache folder for this version, GPU, graph and shapes. A trial that compared
nothing, because it timed out or ended before, has no outcome: the GPU may have been full. The next process tries again.

A caller's own capture around ONNX Runtime's run is no way: the process aborts (its pull request 32081).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

from sc_runtime.bundle.store import Bundle
from sc_runtime.caches import Cache, make_key

from .trial import run_child

OLDEST = (1, 30)  #: version of ONNX Runtime
CHILD = "sc_runtime.backends.capture_child"  #: the module that a trial runs
SECONDS = 120  #: that a trial may take
OUTCOMES = Cache("kernels", ".capture")
GOOD = "same results"  #: last line of a trial's output, and the outcome that is kept
FOUND = "a trial found: "  #: before a difference of results, the other outcome that is kept
_failures: dict[str, str] = {}  #: by the outcome's key: why a trial of this process has none


def check_version(version: str) -> str | None:
    """Why this version's runs must not be recorded, or None."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and tuple(map(int, numbers.groups())) >= OLDEST:
        return None
    return f"onnxruntime-gpu {version} replays stale data: pip install 'onnxruntime-gpu>=1.30'"


def explain_refusal(version: str, gpu: str, bundle: Bundle, graph: str, axes: Mapping[str, int]) -> str | None:
    """Why runs of `graph` of `bundle` must not be recorded here, or None; it may run a trial."""
    if reason := check_version(version):
        return reason
    sizes = [f"{axis}={size}" for axis, size in sorted(axes.items())]
    key = f"capture-{make_key(version, gpu, bundle.list_hashes(graph), sizes)}"
    if key in _failures:
        return _failures[key]
    kept = OUTCOMES.read(key)
    outcome = "" if kept is None else kept.tobytes().decode()
    if not is_outcome(outcome):  # older versions kept failures too
        outcome = try_out([sys.executable, "-m", CHILD, str(bundle.path), graph, *sizes]) or GOOD
        if is_outcome(outcome):
            OUTCOMES.write(key, outcome.encode())
        else:
            _failures[key] = outcome
    return None if outcome == GOOD else outcome


def is_outcome(text: str) -> bool:
    """Whether a trial compared results."""
    return text == GOOD or text.startswith(FOUND)


def try_out(command: Sequence[str], seconds: float = SECONDS) -> str | None:
    """Run a trial. Returns why it did not succeed, or None."""
    answer, failure = run_child(command, seconds)
    if answer is None:
        return failure
    return None if answer == GOOD else f"{FOUND}{answer}"
