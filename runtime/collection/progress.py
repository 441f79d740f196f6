"""How far the work is: hours, speed, errors, and when it will end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .rows import Counts, Row
from .worker import ShardReport


@dataclass(frozen=True)
class Snapshot:
    """How far the work is.

    files, done: recordings in all, and those that are done, of earlier runs too.
    hours_done, hours_left: of sound. Where lengths are not known, `hours_left` is reckoned from the mean length so far,
        and None before there is one.
    speed: seconds of sound that this run encoded in a second.
    files_per_second: of this run.
    errors: recordings without codes.
    eta: seconds until the end, None if unknown.
    """

    files: int
    done: int
    hours_done: float
    hours_left: float | None
    speed: float
    files_per_second: float
    errors: int
    eta: float | None


Show = Callable[[Snapshot], None]


class Progress:
    """Adds up what is done, and calls `show`.

    files: recordings in all.
    seconds: their length in all, None if it is not known.
    """

    def __init__(self, files: int, seconds: float | None, show: Show | None) -> None:
        self.files, self.seconds, self.show = files, seconds, show
        self.done = self.errors = 0
        self.seconds_done = 0.0
        self.new = 0
        self.new_seconds = 0.0
        self.started = time.perf_counter()

    def add_earlier(self, counts: Counts) -> None:
        """Count a shard of an earlier run."""
        self.done, self.errors = self.done + counts.rows, self.errors + counts.errors
        self.seconds_done += counts.seconds

    def add_row(self, row: Row, seconds: float) -> None:
        """Count a recording that was encoded now."""
        self.done, self.new = self.done + 1, self.new + 1
        self.errors += row.error is not None
        self.seconds_done, self.new_seconds = self.seconds_done + seconds, self.new_seconds + seconds
        self.tell()

    def add_shard(self, report: ShardReport) -> None:
        """Count a shard whose rows were not counted one by one."""
        self.done, self.new = self.done + report.rows, self.new + report.encoded
        self.errors += len(report.failures)
        self.seconds_done, self.new_seconds = (
            self.seconds_done + report.seconds,
            self.new_seconds + report.encoded_seconds,
        )
        self.tell()

    def add_kept(self, report: ShardReport) -> None:
        """Count the rows of an earlier run in a shard whose other rows were counted one by one."""
        if report.rows == report.encoded:
            return
        self.done += report.rows - report.encoded
        self.errors += 0 if report.encoded else len(report.failures)  # what failed before is encoded again, or nothing
        self.seconds_done += report.seconds - report.encoded_seconds
        self.tell()

    def tell(self) -> None:
        if self.show:
            self.show(self.snapshot())

    @property
    def elapsed(self) -> float:
        return max(time.perf_counter() - self.started, 1e-9)

    def snapshot(self) -> Snapshot:
        left = self.files - self.done
        if not left:  # also if recordings were shorter than a list says, or failed
            seconds_left: float | None = 0.0
        elif self.seconds is not None:
            seconds_left = max(0.0, self.seconds - self.seconds_done)
        else:
            seconds_left = self.seconds_done / self.done * left if self.done else None
        elapsed = self.elapsed
        speed, rate = self.new_seconds / elapsed, self.new / elapsed
        eta = seconds_left / speed if speed and seconds_left is not None else left / rate if rate else None
        return Snapshot(
            self.files,
            self.done,
            self.seconds_done / 3600,
            None if seconds_left is None else seconds_left / 3600,
            speed,
            rate,
            self.errors,
            eta,
        )
