"""Windows of several requests, encoded as one batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from sc_runtime.config import CodecConfig
from sc_runtime.model import Model
from sc_runtime.spec import EncodeOptions

from .announcements import Announcements

Codes = tuple[np.ndarray, float]  #: codes of a window, int32 [n, C], and its share of the batch's seconds


@dataclass(frozen=True)
class EncodeKey:
    """Windows that have equal keys may run in one batch."""

    vocab: int
    options: EncodeOptions


@dataclass
class WaitingWindow:
    config: CodecConfig
    window: np.ndarray
    arrived: float
    codes: Future[Codes] = field(default_factory=Future)


class EncodeBatcher(Announcements):
    """The windows that wait for encoding. The worker's thread takes them, any other thread adds them.

    A batch is due when it is full, when its oldest window has waited `wait` seconds, or when no request is about to
    bring another (`announced` is 0). So a client that is alone does not wait.

    size: number of windows of a full batch.
    wake: called when a window was added.
    report: called with the size of each batch.
    """

    def __init__(
        self, model: Model, size: int, wait: float, wake: Callable[[], None], report: Callable[[int], None]
    ) -> None:
        super().__init__(wake)
        self.model, self.size, self.wait, self.report = model, size, wait, report
        self.waiting: dict[EncodeKey, deque[WaitingWindow]] = {}

    def submit(self, config: CodecConfig, options: EncodeOptions, window: np.ndarray) -> Future[Codes]:
        """Add a window, as `Model.plan_windows` gives it."""
        waiting = WaitingWindow(config, window, time.monotonic())
        self.waiting.setdefault(EncodeKey(config.vocab, options), deque()).append(waiting)
        self.wake()
        return waiting.codes

    def due_in(self) -> float | None:
        """Seconds until a batch is due, 0 if one is; None if no window waits."""
        queues = [queue for queue in list(self.waiting.values()) if queue]
        if not queues:
            return None
        if not self.announced or max(map(len, queues)) >= self.size:
            return 0.0
        oldest = min(queue[0].arrived for queue in queues)
        return max(0.0, oldest + self.wait - time.monotonic())

    def run(self) -> None:
        """Encode one batch, if a window waits: the oldest window, and others of its key. Called by one thread."""
        queues = [(queue[0].arrived, key) for key, queue in list(self.waiting.items()) if queue]
        if not queues:
            return
        key = min(queues, key=lambda entry: entry[0])[1]
        queue = self.waiting[key]
        batch: list[WaitingWindow] = []
        while queue and len(batch) < self.size:
            waiting = queue.popleft()
            if waiting.codes.set_running_or_notify_cancel():  # False: its client left
                batch.append(waiting)
        if batch:
            self.report(len(batch))
            self.encode(batch, key.options)

    def encode(self, batch: list[WaitingWindow], options: EncodeOptions) -> None:
        """Encode `batch` together. If that fails, each alone, so that only a faulty window fails."""
        started = time.perf_counter()
        found: list[np.ndarray] | None = None
        try:
            found = self.model.encode_windows([each.window for each in batch], batch[0].config, options)
        except Exception as error:
            if len(batch) == 1:
                batch[0].codes.set_exception(error)
                return
        if found is None:  # after the block: the error keeps what the networks worked in
            for each in batch:
                self.encode([each], options)
            return
        share = (time.perf_counter() - started) / len(batch)
        for each, codes in zip(batch, found, strict=True):
            each.codes.set_result((codes, share))
