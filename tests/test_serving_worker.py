"""The worker's thread and the batcher, without networks."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import numpy as np
import pytest

from sc_runtime.errors import BackendError, SettingsError
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.spec import EncodeOptions, Progress

pytest.importorskip("fastapi", reason="needs the extra serve")
worker_module = pytest.importorskip("sc_runtime.serving.worker")
batcher_module = pytest.importorskip("sc_runtime.serving.batcher")
settings_module = pytest.importorskip("sc_runtime.serving.settings")
middleware = pytest.importorskip("sc_runtime.serving.middleware")

CONFIG = SemantiCodecConfig(50, 4096)
OPTIONS = EncodeOptions()


class FakeModel:
    """Codes of a window are the window. It refuses batches that hold a negative one. It keeps the sizes of batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_windows(self, windows: list[np.ndarray], config: Any, options: EncodeOptions) -> list[np.ndarray]:
        self.batches.append(len(windows))
        if min(int(window[0]) for window in windows) < 0:
            raise BackendError("a window below 0", "another")
        return windows


def make_batcher(size: int = 4, wait: float = 10.0) -> Any:
    return batcher_module.EncodeBatcher(FakeModel(), size, wait, lambda: None, lambda count: None)


def window(value: int) -> np.ndarray:
    return np.array([value])


def test_a_batch_is_due_when_it_is_full_or_old_or_nobody_else_comes() -> None:
    batcher = make_batcher(size=3, wait=10)
    assert batcher.due_in() is None
    with batcher.announce():
        batcher.submit(CONFIG, OPTIONS, window(1))
        assert 9 < batcher.due_in() <= 10
        batcher.submit(CONFIG, OPTIONS, window(2))
        assert batcher.due_in() > 9
        batcher.submit(CONFIG, OPTIONS, window(3))
        assert batcher.due_in() == 0, "it is full"
    batcher.run()
    futures = [batcher.submit(CONFIG, OPTIONS, window(4))]
    assert batcher.due_in() == 0, "no other request brings a window"
    batcher.run()
    assert batcher.model.batches == [3, 1]
    assert futures[0].result(0)[0] == [4]
    eager = make_batcher(wait=0)
    with eager.announce():
        eager.submit(CONFIG, OPTIONS, window(1))
        assert eager.due_in() == 0, "it has waited long enough"


def test_windows_of_other_settings_run_apart_and_the_oldest_first() -> None:
    batcher = make_batcher()
    other = SemantiCodecConfig(50, 8192)
    futures = [batcher.submit(config, OPTIONS, window(i)) for i, config in enumerate([CONFIG, other, CONFIG, other])]
    batcher.run()
    assert [future.done() for future in futures] == [True, False, True, False]
    batcher.run()
    assert [int(future.result(0)[0][0]) for future in futures] == [0, 1, 2, 3]
    assert batcher.model.batches == [2, 2]


def test_a_window_that_fails_fails_alone_and_one_that_was_left_is_not_run() -> None:
    batcher = make_batcher()
    futures = [batcher.submit(CONFIG, OPTIONS, window(value)) for value in (1, -1, 2, 3)]
    futures[3].cancel()
    batcher.run()
    assert futures[0].result(0)[0] == [1] and futures[2].result(0)[0] == [2]
    with pytest.raises(BackendError):
        futures[1].result(0)
    assert batcher.model.batches == [3, 1, 1, 1]


class Memory:
    """What a call to the networks holds."""


class Remembering(FakeModel):
    """It counts, at the begin of each batch, what earlier calls still hold."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[weakref.ref[Memory]] = []
        self.living: list[int] = []

    def encode_windows(self, windows: list[np.ndarray], config: Any, options: EncodeOptions) -> list[np.ndarray]:
        self.living.append(sum(reference() is not None for reference in self.held))
        memory = Memory()
        self.held.append(weakref.ref(memory))
        return super().encode_windows(windows, config, options)


def test_what_a_failed_batch_held_is_free_before_its_windows_are_tried_alone() -> None:
    model = Remembering()
    batcher = batcher_module.EncodeBatcher(model, 4, 10.0, lambda: None, lambda count: None)
    futures = [batcher.submit(CONFIG, OPTIONS, window(value)) for value in (1, 2, -1)]
    batcher.run()
    assert [future.exception(0) is None for future in futures] == [True, True, False]
    assert model.batches == [3, 1, 1, 1] and model.living == [0, 0, 0, 0]


def test_encoding_and_decoding_share_the_time() -> None:
    """However much there is to encode, a decoding gets half of the time; the first batch waits for one step."""
    worker = worker_module.Worker()
    order: list[str] = []

    class Slow(FakeModel):
        def encode_windows(self, windows: list[np.ndarray], config: Any, options: EncodeOptions) -> list[np.ndarray]:
            order.append("batch")
            time.sleep(0.03)
            return windows

    batcher = batcher_module.EncodeBatcher(Slow(), 1, 0.0, lambda: None, lambda count: None)

    def start(progress: Progress) -> Iterator[np.ndarray]:
        for step in range(20):
            time.sleep(0.01)
            order.append("step")
            progress(step, 20)
        yield np.zeros(1, np.float32)

    async def run() -> None:
        futures = [batcher.submit(CONFIG, OPTIONS, window(1)) for _ in range(100)]
        worker.batcher = batcher
        job = worker_module.DecodeJob(start, worker)
        worker.submit(job)
        with anyio.fail_after(20):
            assert await job.take() is not None
        ended = order.copy()
        assert ended.count("step") == 20 and 3 <= ended.count("batch") <= 12, ended
        assert job.seconds < 1, "it counts the batches' time as its own"
        with anyio.fail_after(20):
            while not futures[-1].done():
                await anyio.sleep(0.01)

    anyio.run(run)
    worker.stop(5)


def test_a_slow_client_pauses_its_decoding_and_no_other() -> None:
    worker = worker_module.Worker()
    made: list[int] = []

    def start(progress: Progress) -> Iterator[np.ndarray]:
        for number in range(20):
            made.append(number)
            yield np.full(3, number, np.float32)

    async def run() -> None:
        slow = worker_module.DecodeJob(start, worker)
        worker.submit(slow)
        with anyio.fail_after(10):
            while len(made) < worker_module.AHEAD:
                await anyio.sleep(0.01)
            await anyio.sleep(0.1)
            assert len(made) == worker_module.AHEAD, "it goes on although nobody takes the pieces"
            quick = worker_module.DecodeJob(lambda progress: iter([np.zeros(1, np.float32)]), worker)
            worker.submit(quick)
            assert len(await quick.take()) == 1 and await quick.take() is None
            taken = []
            while (piece := await slow.take()) is not None:
                taken.append(int(piece[0]))
        assert taken == list(range(20))

    anyio.run(run)
    worker.stop(5)
    assert not worker.thread.is_alive()


def test_a_decoding_that_nobody_awaits_ends_at_the_next_step() -> None:
    worker = worker_module.Worker()
    steps = []
    closed = threading.Event()

    def start(progress: Progress) -> Iterator[np.ndarray]:
        try:
            for step in range(10_000):
                steps.append(step)
                time.sleep(0.001)
                progress(step, 10_000)
            yield np.zeros(1, np.float32)
        finally:
            closed.set()

    async def run() -> None:
        job = worker_module.DecodeJob(start, worker)
        worker.submit(job)
        while not steps:
            await anyio.sleep(0.005)
        job.cancel()
        with anyio.fail_after(5):
            while not closed.is_set():
                await anyio.sleep(0.005)

    anyio.run(run)
    assert len(steps) < 5000
    worker.stop(5)


def test_settings() -> None:
    settings = settings_module.ServeSettings.from_mapping({"bundle": "a", "limits": {"seconds": 5.0}, "origins": ["b"]})
    assert (settings.limits.seconds, settings.limits.requests, settings.origins) == (5.0, 64, ("b",))
    for values in ({"colour": 1}, {"limits": {"colour": 1}}, {"limits": {"seconds": 0}}, {"limits": {"requests": 1.5}}):
        with pytest.raises(SettingsError):
            settings_module.ServeSettings.from_mapping(values)
    for values in ({"batch_ms": -1}, {"batch_ms": float("nan")}, {"api_key": ""}, {"api_key": "ä"}):
        with pytest.raises(SettingsError):
            settings_module.ServeSettings(**values)


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"origin": "http://a:1", "host": "a:1"}, False),
        ({"origin": "https://b", "host": "a:1"}, False),
        ({"origin": "http://a:2", "host": "a:1"}, True),
        ({"origin": "null", "host": "a:1"}, True),
    ],
)
def test_foreign_pages(headers: dict[str, str], foreign: bool) -> None:
    assert middleware.is_foreign(headers, ("https://b",)) is foreign


def test_request_ids() -> None:
    assert middleware.choose_id({"x-request-id": "a-1"}) == "a-1"
    for given in ("", "a b", "x" * 65, "a\n"):
        assert middleware.choose_id({"x-request-id": given}) != given
