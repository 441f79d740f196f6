"""Recordings are opened, decoded and resampled in threads, ahead of the networks."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from queue import Full, Queue
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from sc_runtime.encoding import Opening
from sc_runtime.model import WindowPlan

from .items import Item

if TYPE_CHECKING:
    Entries = Queue["WindowPlan | np.ndarray | BaseException | None"]

CHECK_SECONDS = 0.1  #: between looks whether the work was given up, while a queue is full


class ReadAhead:
    """Reads recordings in `threads` threads, in a `with` block.

    plan: opens a recording and plans its windows.
    recordings: how many are begun ahead of the one that is encoded.
    windows: how many windows of each are held, and at most three more. So memory does not grow with a recording or
        their number.
    """

    def __init__(
        self, plan: Callable[[Item], AbstractContextManager[WindowPlan]], threads: int, recordings: int, windows: int
    ) -> None:
        self.plan, self.recordings, self.windows = plan, recordings, windows
        self.pool = ThreadPoolExecutor(threads, "read-ahead")
        self.stopped = Event()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self.pool.shutdown(cancel_futures=True)

    def openings(self, items: Iterable[Item]) -> Iterator[Opening]:
        """An opening of each of `items`, in order. `items` is read `recordings` ahead."""
        begun: deque[Reading] = deque()
        for item in items:
            begun.append(Reading(self, item))
            if len(begun) > self.recordings:
                yield begun.popleft().open
        while begun:
            yield begun.popleft().open


class Reading:
    """One recording that a thread reads: its plan, then its windows, then None or what went wrong."""

    def __init__(self, ahead: ReadAhead, item: Item) -> None:
        self.ahead, self.item = ahead, item
        self.entries: Entries = Queue(ahead.windows + 2)  # the plan and the end too: a short one leaves its thread free
        ahead.pool.submit(self.read)

    def read(self) -> None:
        try:
            with self.ahead.plan(self.item) as plan:
                self.put(plan)
                for window in plan.windows:
                    self.put(window)
            self.put(None)
        except BaseException as error:
            if not self.ahead.stopped.is_set():
                self.put(error)

    def put(self, entry: WindowPlan | np.ndarray | BaseException | None) -> None:
        """Hand on `entry` when there is room. The work may have been given up meanwhile."""
        while not self.ahead.stopped.is_set():
            try:
                return self.entries.put(entry, timeout=CHECK_SECONDS)
            except Full:
                continue
        raise RuntimeError("the reading was given up")

    @contextmanager
    def open(self) -> Iterator[WindowPlan]:
        """Yield the plan, whose windows arrive as the thread makes them. Raises what the thread raised."""
        plan = self.take()
        assert isinstance(plan, WindowPlan)
        yield dataclasses.replace(plan, windows=self.take_windows())

    def take_windows(self) -> Iterator[np.ndarray]:
        while (window := self.take()) is not None:
            assert isinstance(window, np.ndarray)
            yield window

    def take(self) -> WindowPlan | np.ndarray | None:
        entry = self.entries.get()
        if isinstance(entry, BaseException):
            raise entry
        return entry
