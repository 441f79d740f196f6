"""Windows of several requests, decoded as one group where that pays: on a GPU."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import numpy as np

from sc_runtime.decoding import Decoding, Parts, run_group
from sc_runtime.model import DecodePlan, Model
from sc_runtime.spec import Progress

from .announcements import Announcements
from .worker import DecodeJob, Worker

log = logging.getLogger("sc_runtime.serving")


class DecodeGroups(Announcements):
    """The decodings of all requests. The event loop's thread opens and closes them, the worker's thread runs them.

    A decoding that needs a window takes others along whose settings are equal and whose clients wait. Each gives as
    many windows as the others, so that nobody waits for another's whole recording.

    model: set when the codec is loaded.
    wait: seconds that a decoding which has not begun waits for others, if a request for one is being read.
    report: called with the number of windows of each group.
    """

    def __init__(self, worker: Worker, wait: float, report: Callable[[int], None]) -> None:
        super().__init__(worker.wake)
        self.worker, self.wait, self.report = worker, wait, report
        self.model: Model | None = None
        self.jobs: dict[Decoding, DecodeJob] = {}

    def open(self, plan: DecodePlan) -> DecodeJob:
        """The job that decodes `plan`, given to the worker. It must be closed."""
        decoding = Decoding(plan, self.form)

        def start(progress: Progress) -> Iterator[np.ndarray]:
            decoding.progress = progress
            return decoding.pieces

        self.jobs[decoding] = job = DecodeJob(start, self.worker)
        self.worker.submit(job)
        return job

    def close(self, job: DecodeJob) -> None:
        job.cancel()
        for decoding in [decoding for decoding, other in self.jobs.items() if other is job]:
            del self.jobs[decoding]

    def due_in(self, job: DecodeJob) -> float:
        """Seconds until the decoding of `job` should begin; 0 if it has begun. Called by the worker's thread."""
        if job.begun is not None or not self.announced or self.model is None or self.model.decode_batch == 1:
            return 0.0
        windows = sum(decoding.left for decoding in list(self.jobs))
        return 0.0 if windows >= self.model.decode_batch else max(0.0, job.created + self.wait - time.perf_counter())

    def form(self, current: Decoding) -> None:
        """Decode the next window of `current`, in a group. If the group fails, `current` is decoded alone.

        Called by the worker's thread. So a request that fails takes no other with it: the others' turns come later.
        """
        assert self.model is not None
        parts = self.choose_parts(current, self.model.decode_batch)
        started = time.perf_counter()
        failed = False
        try:
            run_group(self.model, parts)
        except Exception as error:
            if len(parts) == 1:
                raise
            log.warning("a group of %d decodings failed; each is decoded alone", len(parts), exc_info=error)
            failed = True
        if failed:  # after the block: the error keeps what the networks worked in
            parts = parts[:1]
            run_group(self.model, parts)
        self.report(sum(count for _, count in parts))
        self.share_seconds(parts, started)

    def choose_parts(self, current: Decoding, room: int) -> Parts:
        """`current` first, then the others in the order of their arrival; a window of each in turn."""
        counts = {current: 1}
        if room > 1:
            for other, job in list(self.jobs.items()):
                if other.plan.key == current.plan.key and other.left and not other.ready and job.is_wanted():
                    counts.setdefault(other, 0)
        room -= 1
        while room and (unfinished := [each for each, count in counts.items() if count < each.left]):
            fewest = min(counts[each] for each in unfinished)
            for each in [each for each in unfinished if counts[each] == fewest][:room]:
                counts[each] += 1
                room -= 1
        return [(decoding, count) for decoding, count in counts.items() if count]

    def share_seconds(self, parts: Parts, started: float) -> None:
        """Charge each request with its share of a group, which began at `started` as that of the first of `parts`."""
        ended = time.perf_counter()
        windows = sum(count for _, count in parts)
        for number, (decoding, count) in enumerate(parts):
            if job := self.jobs.get(decoding):
                job.begun = job.begun or started
                job.seconds += (ended - started) * (count / windows - (number == 0))
