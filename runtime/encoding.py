"""Recordings to codes: windows of several recordings run together, so that weights are read once for all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from .config import CodecConfig
from .errors import AudioError
from .model import Model, WindowPlan
from .spec import EncodeOptions

#: Opens a recording and plans its windows, or raises AudioError; the end of the block closes the recording.
Opening = Callable[[], AbstractContextManager[WindowPlan]]
EncodeProgress = Callable[[int, int, int], None]  #: (number of the recording, its windows done, its windows in all)


@dataclass
class Task:
    """A recording that is being encoded: the codes of its windows so far, or why it cannot be encoded."""

    number: int
    plan: WindowPlan | None = None
    codes: list[np.ndarray] = field(default_factory=list)
    error: AudioError | None = None

    def is_done(self) -> bool:
        return self.error is not None or (self.plan is not None and len(self.codes) == self.plan.count)

    def finish(self) -> tuple[np.ndarray, int] | AudioError:
        if self.error is not None or self.plan is None:
            return self.error or AudioError("a recording without windows", "audio")
        return self.plan.join(self.codes), self.plan.samples


def encode_recordings(
    model: Model,
    openings: Iterable[Opening],
    config: CodecConfig,
    options: EncodeOptions,
    batch: int,
    progress: EncodeProgress | None = None,
) -> Iterator[tuple[np.ndarray, int] | AudioError]:
    """(codes [T, C], samples) of each recording in turn, or the AudioError that it raised.

    An error ends one recording; the others go on. Up to `batch` windows, of one recording or of several, go through the
    networks together. A recording is opened when its first window is needed and closed after its last. At most twice
    `batch` windows are held.
    """
    tasks: deque[Task] = deque()

    def read_windows() -> Iterator[tuple[Task, np.ndarray | None]]:
        for number, opening in enumerate(openings):
            task = Task(number)
            tasks.append(task)
            try:
                with opening() as plan:
                    task.plan = plan
                    for window in plan.windows:
                        yield task, window
            except AudioError as error:
                task.error = error
                yield task, None  # so that an error is returned before many more recordings are opened

    windows = read_windows()
    while group := list(islice(windows, batch)):
        readable = [(task, window) for task, window in group if task.error is None and window is not None]
        found = model.encode_windows([window for _, window in readable], config, options) if readable else []
        for (task, _), codes in zip(readable, found, strict=True):
            task.codes.append(codes)
            if progress and task.plan:
                progress(task.number, len(task.codes), task.plan.count)
        while tasks and tasks[0].is_done():
            yield tasks.popleft().finish()
