"""Recordings to codes: windows of one, or of many, go together, so that the networks' weights are read once for all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from .audio import Audio
from .errors import AudioError

if TYPE_CHECKING:
    from .codecs import EncodeOptions, Model
    from .config import CodecConfig

Opening = Callable[[], Audio]  #: makes a recording, or raises AudioError
Report = Callable[[int, int, int], None]  #: (number of the recording, its windows that are encoded, all it has)


@dataclass(frozen=True)
class Cut:
    """One recording as a codec encodes it: `samples` at the codec's rate, and `count` windows, read one by one.

    `join` makes of the codes of all windows those of the recording, int32 [T, C].
    """

    samples: int
    count: int
    windows: Iterator[np.ndarray]
    join: Callable[[list[np.ndarray]], np.ndarray]


@dataclass
class Task:
    """A recording under way: what its windows have become, or why it cannot be encoded."""

    number: int
    cut: Cut | None = None
    codes: list[np.ndarray] = field(default_factory=list)
    error: AudioError | None = None

    def is_done(self) -> bool:
        return self.error is not None or (self.cut is not None and len(self.codes) == self.cut.count)

    def finish(self) -> tuple[np.ndarray, int] | AudioError:
        if self.error is not None or self.cut is None:
            return self.error or AudioError("a recording without windows", "audio")
        return self.cut.join(self.codes), self.cut.samples


def encode_recordings(
    model: Model,
    openings: Iterable[Opening],
    config: CodecConfig,
    options: EncodeOptions,
    batch: int,
    report: Report | None = None,
) -> Iterator[tuple[np.ndarray, int] | AudioError]:
    """(codes [T, C], samples) of each recording in turn, or the AudioError that it raised; the others go on.

    Up to `batch` windows, of one recording or of several, go through the networks together. A recording is opened when
    its first window is due and closed after its last, and no more than twice `batch` windows are held.
    """
    tasks: deque[Task] = deque()

    def read_windows() -> Iterator[tuple[Task, np.ndarray | None]]:
        for number, opening in enumerate(openings):
            task = Task(number)
            tasks.append(task)
            try:
                with opening() as recording:
                    task.cut = model.cut(recording, config)
                    for window in task.cut.windows:
                        yield task, window
            except AudioError as error:
                task.error = error
                yield task, None  # or many bad ones would be opened before the first is told of

    windows = read_windows()
    while group := list(islice(windows, batch)):
        sound = [(task, window) for task, window in group if task.error is None and window is not None]
        found = model.encode_windows([window for _, window in sound], config, options) if sound else []
        for (task, _), codes in zip(sound, found, strict=True):
            task.codes.append(codes)
            if report and task.cut:
                report(task.number, len(task.codes), task.cut.count)
        while tasks and tasks[0].is_done():
            yield tasks.popleft().finish()
