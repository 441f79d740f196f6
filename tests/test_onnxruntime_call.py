"""Runs on a GPU by ONNX Runtime where cuDNN has no plan for a convolution: the next options are tried."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sc_runtime.backends import onnxruntime_call
from sc_runtime.backends.onnxruntime_call import NO_PLAN, OnnxRuntimeCall, Sessions, Way
from sc_runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, Provider
from sc_runtime.bundle.manifest import GraphEntry
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import BackendError
from sc_runtime.spec import TensorSpec
from tests.emulated_device import EmulatedDevice

SPEC = TensorSpec("float16", ("batch", 5))
ENTRY = GraphEntry(("g.onnx",), {"x": SPEC}, {"y": SPEC}, "recipe", 0.0)


class Session:
    """Refuses shapes whose batch is in `refused`, as ONNX Runtime does where cuDNN has no plan."""

    def __init__(self, name: str, refused: Mapping[int, str], ran: list[tuple[str, Any]]) -> None:
        self.name, self.refused, self.ran = name, refused, ran

    def io_binding(self) -> Any:
        return Binding(self)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        if reason := self.refused.get(binding.bound["x"][3][0]):
            raise RuntimeError(reason)
        self.ran.append((self.name, binding.bound))


class Binding:
    """Keeps its session, as ONNX Runtime's does."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.bound: dict[str, Any] = {}

    def bind_input(self, name: str, *place: Any) -> None:
        self.bound[name] = place

    bind_output = bind_input


PLANLESS = f"Conv: {NO_PLAN} 8: HEURISTIC_QUERY_FAILED"
REFUSED: dict[str, dict[int, str]] = {
    "fused": {1: PLANLESS, 2: PLANLESS, 3: PLANLESS},
    "heuristic": {2: PLANLESS, 3: PLANLESS},
    "exhaustive": {3: PLANLESS, 4: "out of memory"},
}


@pytest.mark.parametrize(
    ("batch", "chosen"), [(7, "fused"), (1, "heuristic"), (2, "exhaustive"), (3, None)], ids=["all", "1", "2", "none"]
)
def test_the_next_options_run_a_shape_that_cudnn_has_no_plan_for(batch: int, chosen: str | None) -> None:
    ran: list[tuple[str, Any]] = []
    opened: list[str] = []

    def load(way: Way) -> Session:
        opened.append(way[1]["name"])
        return Session(way[1]["name"], REFUSED[way[1]["name"]], ran)

    sessions = Sessions(load, [(None, {"name": name}) for name in REFUSED])
    assert opened == ["fused"]
    call = OnnxRuntimeCall(sessions, "g", ENTRY, "cuda", {"x": (batch, 5), "y": (batch, 5)}, {"x": 64, "y": 128})
    if chosen is None:
        with pytest.raises(BackendError, match=r"ONNX Runtime failed on g .*HEURISTIC_QUERY_FAILED"):
            call.enqueue()
        return
    call.enqueue()
    call.enqueue()
    assert [name for name, _ in ran] == [chosen] * 2
    assert ran[0][1]["x"][3:] == ([batch, 5], 64) and ran[0][1]["y"][3:] == ([batch, 5], 128)
    assert opened == list(REFUSED)[: len(opened)] and opened[-1] == chosen


class Convolution(Session):
    """As ONNX Runtime 1.31: the second run with a shape that failed asks for as much memory as garbage says."""

    noted: Any = None

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        shape = binding.bound["x"][3]
        if shape == self.noted:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 2832527307351631872")
        self.noted = shape
        super().run_with_iobinding(binding, options)
        self.noted = None


def bind(sessions: Sessions, batch: int) -> OnnxRuntimeCall:
    return OnnxRuntimeCall(sessions, "g", ENTRY, "cuda", {"x": (batch, 5), "y": (batch, 5)}, {"x": 64, "y": 128})


def test_a_session_without_a_plan_for_a_shape_never_runs_that_shape_again() -> None:
    """Not in a later call either: each group of windows binds its own."""
    ran: list[tuple[str, Any]] = []

    def load(way: Way) -> Convolution:
        return Convolution(way[1]["name"], REFUSED[way[1]["name"]], ran)

    sessions = Sessions(load, [(None, {"name": name}) for name in REFUSED])
    for batch, chosen in [(1, "heuristic"), (1, "heuristic"), (2, "exhaustive"), (1, "heuristic"), (7, "fused")]:
        bind(sessions, batch).enqueue()
        assert ran[-1][0] == chosen
    for _ in range(2):
        with pytest.raises(BackendError, match=r"HEURISTIC_QUERY_FAILED"):
            bind(sessions, 3).enqueue()


def test_shapes_without_a_plan_take_no_session_from_others() -> None:
    """Shapes 2 and 3 are tried in one "heuristic", which then is that of shape 1."""
    opened: list[str] = []

    def load(way: Way) -> Convolution:
        opened.append(way[1]["name"])
        return Convolution(way[1]["name"], REFUSED[way[1]["name"]], [])

    sessions = Sessions(load, [(None, {"name": name}) for name in ("heuristic", "exhaustive")], most=2)
    for batch in (2, 3, 1, 2):
        with suppress(BackendError):
            bind(sessions, batch).enqueue()
    assert opened == ["heuristic", "exhaustive", "exhaustive"]
    bind(sessions, 7).enqueue()
    assert opened == ["heuristic", "exhaustive", "exhaustive", "heuristic"]


def test_a_session_that_failed_otherwise_is_opened_anew() -> None:
    """Calls that were bound to the old one are bound to the new one."""
    opened: list[Convolution] = []
    memory = {4: "Conv: out of memory"}

    def load(way: Way) -> Convolution:
        opened.append(Convolution("one", memory, []))
        return opened[-1]

    sessions = Sessions(load, [(None, {})])
    call, small = bind(sessions, 4), bind(sessions, 1)
    small.enqueue()
    for _ in range(2):
        with pytest.raises(BackendError, match="out of memory"):
            call.enqueue()
    memory.clear()
    call.enqueue()
    small.enqueue()
    assert len(opened) == 3 and len(opened[-1].ran) == 2


class Memory:
    """What a caller holds on the GPU."""


def count_living(references: list[weakref.ref[Any]]) -> int:
    return sum(reference() is not None for reference in references)


def test_a_dropped_session_is_gone_before_another_is_opened() -> None:
    """Though its failed call and a call of other shapes are bound to it, and its error is being handled."""
    opened: list[weakref.ref[Any]] = []
    living: list[int] = []

    def load(way: Way) -> Session:
        living.append(count_living(opened))
        session = Session("one", {4: "Conv: out of memory"}, [])
        opened.append(weakref.ref(session))
        return session

    sessions = Sessions(load, [(None, {})])
    failing, small = bind(sessions, 4), bind(sessions, 1)
    small.enqueue()
    try:
        failing.enqueue()
    except BackendError as error:
        assert "out of memory" in str(error) and "out of memory" in str(error.__cause__)
        assert count_living(opened) == 0
        small.enqueue()
    with pytest.raises(BackendError):
        failing.enqueue()
    small.enqueue()
    assert living == [0, 0, 0] and count_living(opened) == 1


def test_a_variant_that_cannot_be_loaded_is_gone_before_another_is_opened() -> None:
    halves: list[weakref.ref[Any]] = []
    living: list[int] = []

    def load(way: Way) -> Session:
        living.append(count_living(halves))
        half = Session("half loaded", {}, [])
        if way[0]:
            halves.append(weakref.ref(half))
            raise BackendError("g.cuda.onnx: refused", "a graph it can load", "build it again")
        return half

    Sessions(load, [("cuda", {}), (None, {})])
    assert living == [0, 0]


def test_a_graph_that_cannot_be_recorded_is_gone_before_it_is_opened_again(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves: list[weakref.ref[Any]] = []
    living: list[int] = []

    def load(backend: Any, bundle: Bundle, graph: str, records: bool, way: Way) -> Session:
        living.append(count_living(halves))
        half = Session("half loaded", {}, [])
        if records:
            halves.append(weakref.ref(half))
            raise BackendError("a graph with a loop", "one that can be recorded")
        return half

    monkeypatch.setattr(OnnxRuntimeCudaBackend, "_load", load)
    gpu: Any = EmulatedDevice(None)
    backend = OnnxRuntimeCudaBackend(gpu, Provider("CUDAExecutionProvider", "cuda"))
    graph = backend.open(Bundle.load(tiny_bundle), "tunet_step")
    assert living == [0, 0]
    assert not graph.records_itself and "a graph with a loop" in str(graph.explain_capture(batch=1))


def test_a_shape_without_a_plan_keeps_nothing_of_the_calls_that_met_it() -> None:
    """Each group of windows has its own call and memory. A group that was evicted would keep its memory."""
    sessions = Sessions(lambda way: Session("one", {3: PLANLESS}, []), [(None, {})])
    kept: list[weakref.ref[Any]] = []

    def decode() -> None:
        memory, call = Memory(), bind(sessions, 3)
        kept.extend([weakref.ref(memory), weakref.ref(call)])
        with pytest.raises(BackendError, match="HEURISTIC_QUERY_FAILED"):
            call.enqueue()

    for _ in range(2):
        decode()
    assert count_living(kept) == 0


@pytest.mark.parametrize(("most", "expected"), [(2, "aba"), (1, "aaa")])
def test_shapes_have_sessions_of_their_own_which_keep_their_plans(most: int, expected: str) -> None:
    """With two, the third shape shares that of the first; with one, all share it."""
    ran: list[tuple[str, Any]] = []
    names = iter("abc")
    sessions = Sessions(lambda way: Session(next(names), {}, ran), [(None, {})], most)
    for _ in range(2):
        for batch in (1, 7, 16):
            bind(sessions, batch).enqueue()
    assert "".join(name for name, _ in ran) == 2 * expected


def test_another_failure_is_no_reason_to_try_other_options() -> None:
    opened: list[str] = []

    def load(options: Mapping[str, str]) -> Session:
        opened.append(options["name"])
        return Session("one", {4: "Conv: out of memory"}, [])

    call = OnnxRuntimeCall(
        Sessions(load, [{"name": "one"}, {"name": "two"}]),
        "g",
        ENTRY,
        "cuda",
        {"x": (4, 5), "y": (4, 5)},
        {"x": 1, "y": 2},
    )
    with pytest.raises(BackendError, match="a smaller batch"):
        call.enqueue()
    assert opened == ["one"]


def test_a_variant_that_cannot_be_loaded_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(way: Way) -> Session:
        if way[0]:
            raise BackendError("g.cuda.onnx: refused", "a graph it can load", "build it again")
        return Session(way[1]["name"], {}, [])

    said: list[str] = []
    monkeypatch.setattr(onnxruntime_call.log, "warning", lambda text, *values: said.append(text % values))
    sessions = Sessions(load, [("cuda", {"name": "a"}), ("cuda", {"name": "b"}), (None, {"name": "c"})])
    assert [each.name for each in sessions] == ["c"]
    assert len(said) == 1 and "as it was exported" in said[0] and "g.cuda.onnx: refused" in said[0]
    with pytest.raises(BackendError):
        Sessions(load, [("cuda", {"name": "a"})])
