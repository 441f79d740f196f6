"""Windows of several requests in one group: which, in what order, and what becomes of a request that fails."""

from __future__ import annotations

import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from sc_runtime import Codec, DecodeOptions, Tokens
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import BackendError
from sc_runtime.model import DecodePlan
from tests.emulated_device import EmulatedDevice, Emulations
from tests.test_backends import error_of_variation

pytest.importorskip("fastapi", reason="needs the extra serve")
groups_module = pytest.importorskip("sc_runtime.serving.groups")
worker_module = pytest.importorskip("sc_runtime.serving.worker")
service_module = pytest.importorskip("sc_runtime.serving.service")
settings_module = pytest.importorskip("sc_runtime.serving.settings")

OVERLAP = 2


class FakeModel:
    """A window is a number, and its waveform full of it. A group with a negative one fails. It keeps its groups."""

    decode_batch = 4

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def decode_windows(self, windows: list[int], report: Callable[[], None]) -> Iterator[Iterable[np.ndarray]]:
        self.groups.append(windows)
        if min(windows) < 0:
            raise BackendError("a window below 0", "another")
        time.sleep(0.02)
        return iter([[np.full(10 * OVERLAP, window, np.float32)] for window in windows])


def make_plan(*windows: int, key: str = "") -> DecodePlan:
    return DecodePlan(windows, key, 1, 18 * len(windows) + OVERLAP, OVERLAP)


async def take_all(job: Any) -> list[np.ndarray]:
    pieces = []
    while (piece := await job.take()) is not None:
        pieces.append(piece)
    return pieces


def run(model: FakeModel, plans: list[DecodePlan], wait: float = 0.0, announced: int = 0) -> list[Any]:
    """The pieces of each plan, or what it raised. All plans wait when the worker begins."""
    sizes: list[int] = []
    found: list[Any] = [None] * len(plans)

    async def main() -> None:
        worker = worker_module.Worker()
        groups = groups_module.DecodeGroups(worker, wait, sizes.append)
        worker.find_delay, groups.announced = groups.due_in, announced
        worker.call(lambda: time.sleep(0.1))
        groups.model = model
        jobs = [groups.open(plan) for plan in plans]

        async def follow(number: int) -> None:
            try:
                found[number] = await take_all(jobs[number])
            except BackendError as error:
                found[number] = error
            groups.close(jobs[number])

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for number in range(len(plans)):
                    tasks.start_soon(follow, number)
        assert not groups.jobs
        worker.stop(5)
        seconds.extend(job.seconds for job in jobs)

    seconds: list[float] = []
    anyio.run(main)
    assert sizes == [len(group) for group in model.groups if min(group) >= 0]
    total = 0.02 * len(sizes)
    assert all(spent >= 0 for spent in seconds) and 0.5 * total < sum(seconds) < 3 * total + 0.2, "shares of the groups"
    return found


def test_each_request_gives_as_many_windows_as_the_others() -> None:
    model = FakeModel()
    found = run(model, [make_plan(1, 2, 3, 4, 5), make_plan(6), make_plan(7, 8)])
    assert model.groups[0] == [1, 2, 6, 7], "the first sound of all comes from the first group"
    assert sorted(window for group in model.groups for window in group) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [len(np.concatenate(pieces)) for pieces in found] == [92, 20, 38]


def test_requests_of_other_settings_run_apart() -> None:
    model = FakeModel()
    run(model, [make_plan(1, key="a"), make_plan(2, key="b"), make_plan(3, key="a"), make_plan(4, key="b")])
    assert model.groups == [[1, 3], [2, 4]]


def test_where_a_group_does_not_pay_requests_take_turns() -> None:
    model = FakeModel()
    model.decode_batch = 1  # type: ignore[misc]
    run(model, [make_plan(1, 2), make_plan(3, 4)])
    assert model.groups == [[1], [3], [2], [4]]


def test_a_request_that_fails_takes_no_other_with_it() -> None:
    model = FakeModel()
    found = run(model, [make_plan(1), make_plan(-1), make_plan(2), make_plan(3)])
    assert isinstance(found[1], BackendError)
    for number, window in ((0, 1), (2, 2), (3, 3)):
        assert np.unique(np.concatenate(found[number])).tolist() == [window]


class Memory:
    """What a call to the networks holds."""


def test_what_a_failed_group_held_is_free_before_a_request_is_decoded_alone() -> None:
    held: list[weakref.ref[Memory]] = []
    living: list[int] = []

    class Remembering(FakeModel):
        def decode_windows(self, windows: list[int], report: Callable[[], None]) -> Iterator[Iterable[np.ndarray]]:
            living.append(sum(reference() is not None for reference in held))
            memory = Memory()
            held.append(weakref.ref(memory))
            return super().decode_windows(windows, report)

    model = Remembering()
    run(model, [make_plan(1), make_plan(-1)])
    assert model.groups[:2] == [[1, -1], [1]] and living[:2] == [0, 0]


def test_a_codec_that_cannot_be_loaded_leaves_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stays up and answers 503. What was loaded must not stay in memory meanwhile."""
    held: list[weakref.ref[Memory]] = []

    def load(*arguments: Any, **options: Any) -> Codec:
        networks = Memory()
        held.append(weakref.ref(networks))
        try:
            raise MemoryError("of the library")
        except MemoryError as error:
            raise BackendError("a graph", "more memory") from error

    monkeypatch.setattr(Codec, "load", load)

    async def main() -> None:
        service = service_module.Service(settings_module.ServeSettings())
        service.start()
        await service.loaded.wait()
        assert service.state == "failed" and "more memory" in str(service.failure)
        await service.stop()
        assert held[0]() is None

    anyio.run(main)


def test_requests_that_take_too_long_are_refused_by_errors_of_their_own() -> None:
    """An error that is raised again and again keeps the frames of every request that raised it."""

    async def main() -> None:
        admission = service_module.Service(settings_module.ServeSettings()).admission
        with admission.admit() as first, admission.admit() as second:
            assert first.problem is not second.problem and str(first.problem) == str(second.problem)

    anyio.run(main)


def test_a_decoding_waits_a_little_for_requests_that_are_being_read() -> None:
    model = FakeModel()
    started = time.perf_counter()
    run(model, [make_plan(1)], wait=0.5, announced=1)
    waited = time.perf_counter() - started
    started = time.perf_counter()
    run(FakeModel(), [make_plan(1)], wait=0.5, announced=0)
    assert waited > 0.5 > time.perf_counter() - started, "nobody else comes"
    started = time.perf_counter()
    run(FakeModel(), [make_plan(1, 2), make_plan(3, 4)], wait=5, announced=1)
    assert time.perf_counter() - started < 2, "the group is full"


def test_a_slow_client_joins_no_group() -> None:
    """Its next windows are computed when it has taken what is made."""
    model = FakeModel()

    async def main() -> None:
        worker = worker_module.Worker()
        groups = groups_module.DecodeGroups(worker, 0.0, lambda count: None)
        groups.model = model
        slow = groups.open(make_plan(*range(12)))
        with anyio.fail_after(20):
            while slow.made < worker_module.AHEAD:
                await anyio.sleep(0.01)
            quick = [groups.open(make_plan(100 + number)) for number in range(2)]
            for job in quick:
                assert len(np.concatenate(await take_all(job))) == 20
            assert {window for group in model.groups for window in group} == {0, 1, 2, 3, 100, 101}
            assert len(np.concatenate(await take_all(slow))) == 218
        worker.stop(5)

    anyio.run(main)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_concurrent_requests_on_a_gpu_get_the_sound_of_decoding_alone(
    tiny_bundle: Path, emulations: Emulations
) -> None:
    """The service with the codec of an emulated GPU: full groups, each request with its own seed."""
    from sc_runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, Provider

    gpu: Any = EmulatedDevice(emulations, quick_search=True)
    codec = Codec(Bundle.load(tiny_bundle), OnnxRuntimeCudaBackend(gpu, Provider("CPUExecutionProvider", "cpu")))
    generator = np.random.default_rng(0)
    recordings = [
        Tokens.from_array(generator.integers(0, 4096, (count, 2)), codec.config) for count in (20, 270, 40, 9)
    ]
    options = [DecodeOptions(steps=1, seed=number) for number in range(4)]
    sounds: dict[int, np.ndarray] = {}
    groups: list[float] = []

    async def main() -> None:
        service = service_module.Service(settings_module.ServeSettings())
        service.use_codec(codec)
        service.groups.report = groups.append

        async def request(number: int) -> None:
            with service.admission.admit() as ticket:
                service.check_decoding(recordings[number], options[number])
                job = service.start_decoding(recordings[number], options[number], None, ticket)
                sounds[number] = np.concatenate([await service.take_first(job), *await take_all(job)])

        with service.groups.announce():
            async with anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(request, number)
        await service.stop()

    anyio.run(main)
    assert sum(groups) == 5, "each window is decoded once"
    assert len(groups) <= 2, "windows that wait run together"
    reference = Codec.load(tiny_bundle, backend="onnxruntime")
    for number, sound in sounds.items():
        expected = reference.decode(recordings[number], options[number])
        assert error_of_variation(sound, expected) < 1e-4
