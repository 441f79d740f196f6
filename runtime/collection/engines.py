"""The engines by name, and the choice of one."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

from sc_runtime.errors import SettingsError

from .cluster import run_on_ray
from .local import run_in_process, run_processes
from .progress import Progress
from .worker import ShardReport, WorkerSettings

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Engine:
    """What does the work, and with how many workers. Raises SettingsError.

    workers: processes, or Ray actors. None is 1 locally, and on Ray as many as the cluster holds.
    gpus_per_worker: a fraction if several workers share a GPU.
    """

    name: str
    workers: int | None
    gpus_per_worker: float

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise SettingsError(f"engine {self.name!r}", f"one of {', '.join(ENGINES)}")
        if not (math.isfinite(self.gpus_per_worker) and self.gpus_per_worker >= 0):
            raise SettingsError(f"{self.gpus_per_worker} GPUs of each worker", "a number, 0 or more")

    def run(
        self, settings: WorkerSettings, numbers: list[int], files: float, progress: Progress
    ) -> Iterator[ShardReport]:
        """Encode shards, of about `files` recordings each, and report each as it or its group is finished."""
        workers = self.workers or 1
        if self.name == "local" and workers == 1:
            for report in run_in_process(settings, numbers, progress.add_row):
                progress.add_kept(report)
                yield report
            return
        if self.name == "ray":
            reports = run_on_ray(settings, numbers, files, self.workers, self.gpus_per_worker)
        else:
            threads = settings.threads or max(1, count_cores() // workers)
            settings = dataclasses.replace(settings, threads=threads)
            reports = run_processes(settings, numbers, files, workers, self.gpus_per_worker)
        for report in reports:
            progress.add_shard(report)
            yield report


def count_cores() -> int:
    """Logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
