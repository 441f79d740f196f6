"""The work on shards: reading ahead in threads, batches across shards, hours of a shard, UniCodec."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from pyarrow import parquet

from sc_runtime import Codec, Tokens
from sc_runtime.collection.items import Item
from sc_runtime.collection.local import run_processes
from sc_runtime.collection.plan import fingerprint
from sc_runtime.collection.planning import cut
from sc_runtime.collection.read_ahead import ReadAhead
from sc_runtime.collection.reader import read_collection
from sc_runtime.collection.tokenize import tokenize_collection
from sc_runtime.collection.worker import Worker, WorkerSettings
from sc_runtime.errors import AudioError, BundleError
from sc_runtime.model import WindowPlan
from tests.collections import tokenize, write_recordings


class Reader:
    """Plans recordings of `windows` windows, and counts what is open and what was read."""

    def __init__(self, windows: int) -> None:
        self.windows, self.opened, self.open, self.read = windows, 0, 0, 0
        self.lock = threading.Lock()

    @contextmanager
    def plan(self, item: Item) -> Iterator[WindowPlan]:
        if item.problem:
            raise AudioError(item.problem, "sound")
        with self.lock:
            self.opened, self.open = self.opened + 1, self.open + 1
        try:
            yield WindowPlan(1, self.windows, self.make_windows(item), np.concatenate)
        finally:
            with self.lock:
                self.open -= 1

    def make_windows(self, item: Item) -> Iterator[np.ndarray]:
        for number in range(self.windows):
            with self.lock:
                self.read += 1
            yield np.array([int(item.id), number])


def list_items(count: int) -> list[Item]:
    return [Item(str(number), "") for number in range(count)]


def test_windows_arrive_in_order_and_recordings_are_closed() -> None:
    reader = Reader(5)
    with ReadAhead(reader.plan, threads=3, recordings=4, windows=2) as ahead:
        for number, opening in enumerate(ahead.openings(list_items(20))):
            with opening() as plan:
                assert [window.tolist() for window in plan.windows] == [[number, place] for place in range(5)]
    assert (reader.opened, reader.open) == (20, 0)


def test_no_more_is_read_ahead_than_allowed() -> None:
    """Three threads, each with two windows and three more."""
    reader = Reader(1000)
    with ReadAhead(reader.plan, threads=3, recordings=4, windows=2) as ahead:
        openings = ahead.openings(list_items(20))
        with next(openings)():
            end = time.monotonic() + 20
            while reader.read < 3 * 2 and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.2)
            assert reader.opened == 3
            assert 3 * 2 <= reader.read <= 3 * (2 + 3)
    assert reader.open == 0  # the threads have ended, though most was not read


def test_an_error_reaches_the_recording_s_place() -> None:
    reader = Reader(2)
    items = [*list_items(2), Item("2", "", problem="cut short"), Item("3", "")]
    with ReadAhead(reader.plan, threads=2, recordings=2, windows=2) as ahead:
        openings = list(ahead.openings(items))
        with pytest.raises(AudioError, match="cut short"), openings[2]():
            pass
        with openings[3]() as plan:
            assert len(list(plan.windows)) == 2


class CountingModel:
    """A codec's model that notes how many windows run together."""

    def __init__(self, model: Any) -> None:
        self.model, self.batches = model, list[int]()

    def plan_windows(self, *arguments: Any) -> WindowPlan:
        return self.model.plan_windows(*arguments)

    def encode_windows(self, windows: list[np.ndarray], *arguments: Any) -> list[np.ndarray]:
        self.batches.append(len(windows))
        return self.model.encode_windows(windows, *arguments)


def test_batches_are_full_across_the_ends_of_shards(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_recordings(source, 7)
    tokenize(source, out, shard_files=2)
    expected = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    for path in out.glob("*.parquet"):
        path.unlink()
    worker = Worker(WorkerSettings(str(out), "embedded", "onnxruntime", batch=3))
    counting = CountingModel(worker.codec.model)
    worker.codec.model = counting  # type: ignore[assignment]
    reports = list(worker.run(range(4)))
    assert counting.batches == [3, 3, 1]
    assert [(report.number, report.rows, report.encoded) for report in reports] == [
        (0, 2, 2),
        (1, 2, 2),
        (2, 2, 2),
        (3, 1, 1),
    ]
    assert {path.name: path.read_bytes() for path in out.glob("*.parquet")} == expected


def test_a_shard_that_another_driver_finished_is_left_alone(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_recordings(source, 4)
    tokenize(source, out, shard_files=2)
    (out / "shard-000000.parquet").unlink()
    worker = Worker(WorkerSettings(str(out), "embedded", "onnxruntime"))
    assert [(report.number, report.rows, report.encoded) for report in worker.run([1, 0])] == [(1, 2, 0), (0, 2, 2)]


def test_an_error_of_a_worker_s_start_is_raised(tiny_bundle: Path, tmp_path: Path) -> None:
    """It is not taken for a death of the process."""
    write_recordings(tmp_path / "in", 1)
    tokenize(tmp_path / "in", tmp_path / "out")
    settings = WorkerSettings(str(tmp_path / "out"), str(tiny_bundle), "onnxruntime")
    with pytest.raises(BundleError, match="put the same one on every machine"):
        list(run_processes(settings, [0], 1, 1, 0))


def test_shards_are_cut_by_files_or_by_hours() -> None:
    items = [Item(str(number), "", seconds=1800.0) for number in range(7)]
    assert cut(items, 3, None) == [3, 3, 1]
    assert cut(items, None, 1.0) == [2, 2, 2, 1]
    assert cut(items, None, 1.2) == [3, 3, 1]
    assert cut(items, None, 100.0) == [7]
    assert cut([Item("a", "")], None, 1.0) == [1]
    assert cut([], 3, None) == cut([], None, 1.0) == []


def test_shards_of_hours(tmp_path: Path) -> None:
    write_recordings(tmp_path / "in", 6, (0.5,))
    outcome = tokenize(tmp_path / "in", tmp_path / "out", shard_hours=1.0 / 3600)
    assert (outcome.shards, outcome.seconds) == (3, 3.0)
    assert parquet.read_metadata(tmp_path / "out" / "shard-000000.parquet").num_rows == 2


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    write_recordings(tmp_path / "in", 3)
    seen = []
    tokenize(tmp_path / "in", tmp_path / "out", shard_files=2, progress=seen.append)
    assert [snapshot.done for snapshot in seen] == [1, 2, 3]
    assert (seen[-1].hours_left, seen[-1].eta) == (0.0, 0.0)


def test_unicodec_has_one_codebook_and_domains(tiny_unicodec: Path, tmp_path: Path) -> None:
    paths = write_recordings(tmp_path / "in", 2, (0.5,))
    tokenize_collection(tmp_path / "in", tmp_path / "out", bundle=tiny_unicodec, domain="speech")
    codec = Codec.load(tiny_unicodec)
    expected = {
        f"speaker{number}/{number:04}": codec.encode(path, domain="speech") for number, path in enumerate(paths)
    }
    found: dict[str, Tokens] = dict(read_collection(tmp_path / "out"))
    assert found == expected
    assert found["speaker0/0000"].codes.shape[1] == 1


def test_a_vocabulary_and_a_precision_are_chosen(tiny_bundle: Path, tmp_path: Path) -> None:
    (path,) = write_recordings(tmp_path / "in", 1, (0.5,))
    codec = Codec.load(tiny_bundle, backend="onnxruntime", precision="float32")
    for vocab in (4096, 32768):
        out = tmp_path / str(vocab)
        tokenize(tmp_path / "in", out, bundle=tiny_bundle, vocab=vocab, precision="float32", verify=1)
        ((_, tokens),) = read_collection(out)
        assert tokens == codec.encode(path, vocab=vocab)
        assert tokens.config.vocab == vocab
        header = json.loads(parquet.read_metadata(out / "shard-000000.parquet").metadata[b"sc_runtime"])
        assert header["codec"]["vocabularies"]["semantic"] == vocab
        assert (header["settings"]["vocab"], header["settings"]["precision"]) == (vocab, "float32")
        assert header["bundle"] == fingerprint(codec.bundle.manifest)
