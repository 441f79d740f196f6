"""Arrays of clips on disk. An interrupted run continues where it stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap
from rich.progress import Progress

Row = npt.NDArray[np.int16] | npt.NDArray[np.float16] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class ArrayPlan:
    """An array to write: `count` rows of one shape and dtype at `path`; `make` computes the row of an index.

    Other processes call `make`, so it must be a function of a module or a partial of one.
    """

    path: Path
    count: int
    row_shape: tuple[int, ...]
    dtype: npt.DTypeLike
    make: Callable[[int], Row]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.row_shape)


def write_array(plan: ArrayPlan, workers: int, progress: Progress) -> None:
    """Write the array of `plan`.

    Rows that an interrupted run has made are kept. A finished array of the planned shape is kept as a whole.
    """
    task = progress.add_task(plan.path.name, total=plan.count)
    if has_shape(plan.path, plan.shape):
        progress.update(task, completed=plan.count)
        return
    partial_path, done_path = (plan.path.with_name(f".{plan.path.stem}.{role}.npy") for role in ("partial", "done"))
    if not has_shape(partial_path, plan.shape):
        done_path.unlink(missing_ok=True)
    rows = open_array(partial_path, plan.shape, plan.dtype)
    done = open_array(done_path, (plan.count,), np.uint8)
    progress.update(task, completed=int(done.sum()))
    missing = np.flatnonzero(done == 0).tolist()
    for index, row in zip(missing, make_rows(plan.make, missing, workers), strict=True):
        rows[index] = row
        done[index] = 1
        progress.advance(task)
    rows.flush()
    del rows, done
    partial_path.replace(plan.path)
    done_path.unlink()


def has_shape(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether an array of that shape is at `path`."""
    try:
        return bool(np.load(path, mmap_mode="r", allow_pickle=False).shape == shape)
    except (OSError, ValueError, EOFError):
        return False


def open_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.memmap:
    """The array at `path`, unchanged. If there is none of that shape, a new one of zeros."""
    if has_shape(path, shape):
        return open_memmap(path, "r+")
    array = open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # a full disk raises now, and does not kill the process at a later write
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def make_rows(make: Callable[[int], Row], indices: Iterable[int], workers: int) -> Iterator[Row]:
    """The rows of `indices`, in their order."""
    if workers == 1:
        yield from map(make, indices)
        return
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=leave_signals)
    try:
        yield from executor.map(make, indices)
    finally:
        executor.shutdown(cancel_futures=True)


def leave_signals() -> None:
    """Ignore Ctrl-C, which reaches every process of a terminal: the parent alone handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
