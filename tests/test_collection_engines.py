"""What the engines decide without a worker: groups, GPUs, threads, places; what they report; what Ray reports."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sc_runtime.cli.tokenize import format_snapshot, parse_part, tokenize
from sc_runtime.collection.cluster import check_places, choose_threads, count_places
from sc_runtime.collection.local import choose_gpus, run_in_process, split
from sc_runtime.collection.progress import Progress, Snapshot
from sc_runtime.collection.rows import Counts, Row
from sc_runtime.collection.tokenize import tokenize_collection
from sc_runtime.collection.worker import Failure, ShardReport, WorkerSettings
from sc_runtime.errors import BackendError, SettingsError
from sc_runtime.ray_cluster import turn_off_usage_reports
from tests.collections import tokenize as tokenize_small
from tests.collections import write_recordings


@pytest.mark.parametrize("count", [0, 1, 7, 8, 100, 1000])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("files", [0.5, 300, 1e6])
def test_groups_hold_every_shard_once_and_are_several_for_each_worker(count: int, files: float, workers: int) -> None:
    groups = split(list(range(count)), files, workers)
    assert [number for group in groups for number in group] == list(range(count))
    assert len(groups) >= min(count, 4 * workers)


def test_groups_are_of_many_shards_where_these_are_small() -> None:
    """The progress moves once a group: of a thousand recordings, or of a shard if that has more."""
    numbers = list(range(1000))
    sizes = {files: {len(group) for group in split(numbers, files, 2)} for files in (1, 125, 200, 400, 501, 1000, 1e5)}
    assert sizes == {1: {8}, 125: {8}, 200: {5}, 400: {2}, 501: {1}, 1000: {1}, 1e5: {1}}


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_groups_are_chosen_by_the_recordings_of_a_shard(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def run(settings: WorkerSettings, numbers: list[int], files: float, *_: object) -> Iterator[ShardReport]:
        given.append(files)
        return run_in_process(settings, numbers, None)

    name = {"local": "run_processes", "ray": "run_on_ray"}[engine]
    monkeypatch.setattr(f"sc_runtime.collection.engines.{name}", run)
    write_recordings(tmp_path / "in", 7)
    for _ in range(2):  # the second run has nothing to do
        tokenize_small(tmp_path / "in", tmp_path / "out", engine=engine, workers=2, shard_files=3, threads=1)
    assert given == [7 / 3, 7 / 3]


def test_each_worker_has_its_gpus() -> None:
    assert [choose_gpus(number, 1.0, None) for number in range(3)] == ["0", "1", "2"]
    assert [choose_gpus(number, 0.5, None) for number in range(4)] == ["0", "0", "1", "1"]
    assert [choose_gpus(number, 1 / 3, None) for number in range(6)] == ["0", "0", "0", "1", "1", "1"]
    assert [choose_gpus(number, 2.0, "4,5,6,7") for number in range(2)] == ["4,5", "6,7"]
    assert choose_gpus(9, 1.0, "GPU-a,GPU-b") == "GPU-b"


def test_how_many_workers_a_cluster_holds() -> None:
    assert count_places({"CPU": 16.0}, 4, 0.0) == 4
    assert count_places({"CPU": 2.0}, 4, 0.0) == 1
    assert count_places({"CPU": 16.0, "GPU": 8.0}, 4, 0.5) == 16
    nodes = [{"Alive": alive, "Resources": {"CPU": cpus}} for alive, cpus in ((True, 8.0), (False, 1.0), (True, 3.0))]
    assert choose_threads(nodes) == 3
    assert choose_threads([]) == 4


def test_a_worker_that_no_machine_holds_is_refused() -> None:
    nodes = [{"Alive": alive, "Resources": {"CPU": 4.0, "GPU": gpus}} for alive, gpus in ((True, 1.0), (False, 8.0))]
    check_places(nodes, 4, 0.0)
    check_places(nodes, 64, 1.0)
    with pytest.raises(BackendError, match=r"workers of 2 GPUs on Ray, where a machine has at most 1 GPUs; expected"):
        check_places(nodes, 1, 2.0)
    with pytest.raises(BackendError, match="workers of 5 threads on Ray, where a machine has at most 4 CPUs"):
        check_places(nodes, 5, 0.0)
    with pytest.raises(BackendError, match="at most 0 CPUs"):
        check_places([], 1, 0.0)


def test_ray_reports_no_usage_unless_the_user_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_CONFIG_PATH", str(tmp_path / "config.json"))
    variable = "RAY_USAGE_STATS_ENABLED"
    monkeypatch.setenv(variable, "1")
    turn_off_usage_reports()
    assert os.environ[variable] == "1"
    monkeypatch.delenv(variable)
    turn_off_usage_reports()
    assert os.environ[variable] == "0"
    monkeypatch.delenv(variable)
    (tmp_path / "config.json").write_text('{"usage_stats": true}')
    turn_off_usage_reports()
    assert variable not in os.environ


def test_progress_adds_up_rows_shards_and_earlier_runs() -> None:
    seen: list[Snapshot] = []
    progress = Progress(10, None, seen.append)
    progress.add_earlier(Counts(4, 1, 40.0))
    progress.add_row(Row("a", "a", np.zeros((1, 2)), 16000), 1.0)
    progress.add_row(Row("b", "b", error="empty file"), 0.0)
    progress.add_shard(ShardReport(3, 2, 9.0, 1, 5.0, [Failure("c", "c", "empty file")]))
    assert (seen[-1].done, seen[-1].errors, seen[-1].files) == (8, 3, 10)
    assert seen[-1].hours_done == pytest.approx(50 / 3600)
    assert seen[-1].hours_left == pytest.approx(50 / 8 * 2 / 3600)
    assert seen[-1].speed / seen[-1].files_per_second == pytest.approx(6.0 / 3)  # of this run alone
    assert seen[-1].eta is not None and seen[-1].eta > 0
    done = Progress(2, 20.0, seen.append)  # of lengths that a list states
    done.add_row(Row("a", "a", np.zeros((1, 2)), 16000), 9.0)
    assert seen[-1].hours_left == pytest.approx(11 / 3600)
    done.add_row(Row("b", "b", error="empty file"), 0.0)
    assert (seen[-1].hours_left, seen[-1].eta) == (0.0, 0.0)
    known = Progress(10, 100.0, None)
    assert (known.snapshot().hours_left, known.snapshot().eta) == (100.0 / 3600, None)


def test_progress_fits_on_a_line() -> None:
    snapshot = Snapshot(123456, 9999, 1234.5, 20000.0, 310.4, 56.78, 12, 230400.0)
    assert format_snapshot(snapshot) == (
        "9999/123456, 12 errors, ETA 64:00:00, 1234.50 h done, 20000.00 h left, 310 × real time, 56.8 files/s"
    )
    assert format_snapshot(Snapshot(3, 0, 0.0, None, 0.0, 0.0, 0, None)) == (
        "0/3, 0.00 h done, 0 × real time, 0 files/s"
    )


def test_parts_are_written_as_fractions() -> None:
    assert parse_part("3/16") == (3, 16)
    for text in ("3", "3/", "/16", "a/b", "-1/2"):
        with pytest.raises(SettingsError, match="expected I/N"):
            parse_part(text)


def test_the_command_and_the_function_have_the_same_arguments() -> None:
    command = {name: each.default for name, each in inspect.signature(tokenize).parameters.items()}
    function = {name: each.default for name, each in inspect.signature(tokenize_collection).parameters.items()}
    assert command.pop("as_json") is False and function.pop("progress") is None
    assert (command.pop("part"), function.pop("part")) == ("1/1", (1, 1))
    assert command == function
    assert tokenize_collection.__doc__ is not None
    assert all(name in tokenize_collection.__doc__ for name in function)
