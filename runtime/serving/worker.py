"""The thread that runs the networks.

One thread computes for all requests, as one network uses all cores of a processor, or a GPU, already. Decodings take
turns, a piece of sound each. On a GPU the windows of several decodings run as one group (`groups.py`). Encoding passes
them: a due batch runs before the next piece, and between two steps of a decoding. After a batch decoding gets as much
time as the batch took, so that neither starves the other.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from sc_runtime.spec import Progress

from .batcher import EncodeBatcher
from .problems import ProblemError

AHEAD = 2  #: pieces that are made before a client has taken the first; a slow client's decoding then pauses

StartDecoding = Callable[[Progress], Iterator[np.ndarray]]  #: progress -> pieces float32 [n]


class Abandoned(Exception):
    """Raised in a decoding whose result nobody waits for any more."""


class DecodeJob:
    """One decoding: the worker's thread makes pieces, a coroutine takes them.

    start: begins the decoding. It and the iterator that it returns run on the worker's thread.

    seconds, samples: time in the networks, and what was made, so far.
    created, begun: when the job was made, and when its first piece was begun.
    """

    def __init__(self, start: StartDecoding, worker: Worker) -> None:
        self.start, self.worker = start, worker
        self.loop = asyncio.get_running_loop()
        self.outbox: asyncio.Queue[np.ndarray | Exception | None] = asyncio.Queue()
        self.created = time.perf_counter()
        self.begun: float | None = None
        self.seconds, self.samples = 0.0, 0
        self.made = self.taken = 0  #: pieces; each number is changed by one thread
        self.cancelled = False
        self.pieces: Iterator[np.ndarray] | None = None

    def has_work(self) -> bool:
        return self.cancelled or self.is_wanted()

    def is_wanted(self) -> bool:
        """Whether a client waits for more."""
        return not self.cancelled and self.made - self.taken < AHEAD

    def advance(self) -> bool:
        """Make one piece. Returns whether there may be more. Called by the worker's thread."""
        if self.cancelled:
            return self.end(Abandoned())
        started = time.perf_counter()
        self.begun = self.begun or started
        try:
            if self.pieces is None:
                self.pieces = self.start(self.check_between_steps)
            piece = next(self.pieces, None)
        except Exception as error:
            return self.end(error)
        finally:
            self.seconds += time.perf_counter() - started
        if piece is None:
            return self.end(None)
        self.made += 1
        self.samples += len(piece)
        self.put(piece)
        return True

    def check_between_steps(self, done: int, total: int) -> None:
        """The decoding's progress callback: ends it if nobody waits for it, and lets encoding in."""
        if self.cancelled:
            raise Abandoned
        self.seconds -= self.worker.run_fair_batch()

    def end(self, last: Exception | None) -> bool:
        if isinstance(self.pieces, Iterator) and hasattr(self.pieces, "close"):
            self.pieces.close()
        self.pieces = None
        self.put(last)
        return False

    def put(self, item: np.ndarray | Exception | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self.outbox.put_nowait, item)
        except RuntimeError:  # the event loop has ended
            self.cancelled = True

    async def take(self) -> np.ndarray | None:
        """The next piece, float32 [n]; None after the last. Raises what the decoding raised."""
        item = await self.outbox.get()
        if isinstance(item, Exception):
            raise item
        if item is not None:
            self.taken += 1
            self.worker.wake()
        return item

    def cancel(self) -> None:
        """End the decoding at its next step. Nothing happens if it has ended."""
        self.cancelled = True
        self.worker.wake()


class Worker:
    """The thread and the decodings that take turns on it."""

    def __init__(self) -> None:
        self.batcher: EncodeBatcher | None = None
        self.find_delay: Callable[[DecodeJob], float] = lambda job: 0.0  #: seconds until a decoding should begin
        self.jobs: deque[DecodeJob] = deque()  #: the next first, the one whose turn it was last
        self.calls: deque[Callable[[], None]] = deque()
        self.next_batch = 0.0  #: the time before which decoding has precedence
        self.condition = threading.Condition()
        self.stopping = False
        self.thread = threading.Thread(target=self.run, name="sc-runtime-networks", daemon=True)
        self.thread.start()

    def submit(self, job: DecodeJob) -> None:
        with self.condition:
            had_turn = bool(self.jobs) and self.jobs[-1].begun is not None
            self.jobs.insert(len(self.jobs) - had_turn, job)  # the one whose turn it was stays the last
            self.condition.notify()

    def call(self, function: Callable[[], None]) -> None:
        """Run `function`, which must not raise, on the thread before anything else."""
        with self.condition:
            self.calls.append(function)
            self.condition.notify()

    def wake(self) -> None:
        with self.condition:
            self.condition.notify()

    def stop(self, timeout: float) -> None:
        """End the thread after the step that runs."""
        with self.condition:
            self.stopping = True
            for job in self.jobs:
                job.cancelled = True
            self.condition.notify()
        self.thread.join(timeout)

    def refuse_waiting(self, problem: ProblemError) -> None:
        """End the decodings that have not begun."""
        with self.condition:
            waiting = [job for job in self.jobs if job.begun is None]
            for job in waiting:
                self.jobs.remove(job)
        for job in waiting:
            job.cancelled = True
            job.put(problem)

    def run_fair_batch(self) -> float:
        """Encode a batch, if one is due and decoding has had its time. Returns its seconds. Called by the thread."""
        started = time.perf_counter()
        if self.batcher is None or started < self.next_batch or self.batcher.due_in() != 0:
            return 0.0
        self.batcher.run()
        ended = time.perf_counter()
        self.next_batch = ended + (ended - started)
        return ended - started

    def run(self) -> None:
        while True:
            with self.condition:
                job = self.find_work()
                if self.stopping:
                    return
                call = self.calls.popleft() if self.calls else None
            if call:
                call()
                continue
            if job is None:
                self.next_batch = 0.0  # no decoding waits
            self.run_fair_batch()
            if job and not job.advance():
                with self.condition:
                    if job in self.jobs:
                        self.jobs.remove(job)

    def find_work(self) -> DecodeJob | None:
        """Wait for work. Returns the decoding whose turn it is; None if there is only other work."""
        while not self.stopping and not self.calls:
            due = [] if self.batcher is None or (first := self.batcher.due_in()) is None else [first]
            for _ in range(len(self.jobs)):
                self.jobs.rotate(-1)
                if self.jobs[-1].has_work():
                    due.append(self.find_delay(self.jobs[-1]))
                    if due[-1] <= 0:
                        return self.jobs[-1]
            if due and min(due) <= 0:
                return None
            self.condition.wait(min(due, default=None))
        return None
