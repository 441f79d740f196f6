"""The local engine: the work in this process, or in several."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from sc_runtime.errors import BackendError

from .worker import ShardReport, ShowRow, Worker, WorkerSettings

GROUP_SHARDS = 8  #: at most, that a process is given at a time
GROUP_FILES = 1000  #: recordings among which a last batch that is not full costs little
MOST_DEATHS = 3  #: of workers one after the other, without a shard that was finished


def run_in_process(settings: WorkerSettings, numbers: list[int], show: ShowRow | None) -> Iterator[ShardReport]:
    """Encode the shards `numbers` here."""
    if numbers:
        yield from Worker(settings).run(numbers, show)


def run_processes(
    settings: WorkerSettings, numbers: list[int], files: float, workers: int, gpus_per_worker: float
) -> Iterator[ShardReport]:
    """Encode the shards `numbers`, of about `files` recordings each, in `workers` processes.

    Reports come as groups of shards are finished.
    A process that dies takes its shards in work with it; new processes do them again. Raises BackendError if that
    happens MOST_DEATHS times in a row without a shard that was finished.
    """
    left, deaths = list(numbers), 0
    while left:
        try:
            for report in run_pool(settings, split(left, files, workers), workers, gpus_per_worker):
                left.remove(report.number)
                deaths = 0
                yield report
        except BrokenProcessPool as error:
            deaths += 1
            if deaths == MOST_DEATHS:
                given = f"workers died {deaths} times in a row, with {len(left)} shards left from number {left[0]} on"
                raise BackendError(given, "workers that live", "is there enough memory?") from error


def run_pool(
    settings: WorkerSettings, groups: list[list[int]], workers: int, gpus_per_worker: float
) -> Iterator[ShardReport]:
    """`run_processes` for groups of shards, until a process dies. Raises BrokenProcessPool."""
    context = multiprocessing.get_context("spawn")
    ended, parent = context.Pipe(duplex=False)
    arguments = (settings, ended, context.Value("i", 0), workers, gpus_per_worker)
    pool = ProcessPoolExecutor(workers, context, start_worker, arguments)
    try:
        waiting: set[Future[list[ShardReport]]] = {pool.submit(run_group, group) for group in groups}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: future.exception() is not None):  # what was done, first
                yield from future.result()
    finally:
        parent.close()  # the workers end, whatever they do
        pool.shutdown(cancel_futures=True)
        ended.close()


_settings: WorkerSettings | None = None  #: of this process, if it is one of a pool
_worker: Worker | None = None  #: made by the first group, so that its errors reach the parent


def start_worker(
    settings: WorkerSettings, ended: Connection, started: Any, workers: int, gpus_per_worker: float
) -> None:
    """Make this process a worker, with its share of the GPUs, that ends with its parent.

    started: counts the workers, in memory that they share.
    """
    global _settings
    threading.Thread(target=follow_parent, args=(ended,), daemon=True).start()
    with started.get_lock():
        number, started.value = started.value % workers, started.value + 1
    if gpus_per_worker:
        os.environ["CUDA_VISIBLE_DEVICES"] = choose_gpus(
            number, gpus_per_worker, os.environ.get("CUDA_VISIBLE_DEVICES")
        )
    _settings = settings


def run_group(numbers: list[int]) -> list[ShardReport]:
    global _worker
    assert _settings is not None
    _worker = _worker or Worker(_settings)
    return list(_worker.run(numbers))


def follow_parent(ended: Connection) -> None:
    """End this process when the other end of the pipe `ended` is closed, as it is when the parent has ended."""
    with suppress(EOFError, OSError):
        ended.recv()
    os._exit(1)


def choose_gpus(number: int, share: float, visible: str | None) -> str:
    """The GPUs of worker `number`, each of which has `share` of one, or so many: a value of CUDA_VISIBLE_DEVICES."""
    first = math.floor(number * share + 1e-9)
    last = max(first + 1, math.ceil((number + 1) * share - 1e-9))
    names = visible.split(",") if visible else None
    return ",".join(names[gpu % len(names)] if names else str(gpu) for gpu in range(first, last))


def split(numbers: list[int], files: float, workers: int) -> list[list[int]]:
    """Groups of shards, of about `files` recordings each, for `workers` workers.

    Batches reach across the shards of a group, which matters to small shards. A group of GROUP_FILES recordings is
    large enough, as the progress moves when one ends. Each worker gets several, so that all end together.
    """
    size = max(1, min(GROUP_SHARDS, int(GROUP_FILES / max(files, 1)), len(numbers) // (4 * workers)))
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]
