"""Plans: made, extended and refused, also by several drivers at one moment."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import soundfile

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from pyarrow import parquet

from bench.kills import read_folder
from sc_runtime.bundle.manifest import MANIFEST, FileEntry, Manifest
from sc_runtime.bundle.store import EMBEDDED
from sc_runtime.collection.folder import PLAN_FOLDER, OutputFolder
from sc_runtime.collection.items import Item
from sc_runtime.collection.plan import Plan, load_plan
from sc_runtime.collection.planning import agree
from sc_runtime.errors import BundleError, OutputError, SettingsError
from tests.collections import RATE, make_sound, tokenize, write_recordings, write_with_a_broken_one

SHARDS = {"shard_files": 2}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_with_a_broken_one(tmp_path_factory.mktemp("recordings"), 7)


def test_extend_adds_new_files_as_new_shards(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_recordings(source, 3)
    tokenize(source, out, **SHARDS)
    before = read_folder(out)
    for name in ("speaker0/0000a.flac", "speaker1/9999.flac", "speaker1/9998.flac"):
        soundfile.write(source / name, make_sound(9, 0.3), RATE)
    with pytest.raises(OutputError, match=r"3 new \(speaker0/0000a, speaker1/9998, speaker1/9999\)"):
        tokenize(source, out, **SHARDS)
    outcome = tokenize(source, out, extend=True, **SHARDS)
    assert (outcome.files, outcome.encoded, outcome.shards) == (6, 3, 4)
    after = read_folder(out)
    assert {name: data for name, data in after.items() if name in before and name.startswith("shard")}.items() <= (
        before.items()
    )
    ids = [row["id"] for path in sorted(out.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]
    assert len(ids) == len(set(ids)) == 6
    assert tokenize(source, out, **SHARDS).encoded == 0  # the same sources, in two parts


def test_another_plan_is_refused_with_what_differs(recordings: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(recordings, source)
    out = tmp_path / "out"
    tokenize(source, out, **SHARDS)
    with pytest.raises(OutputError, match=r"begun with shard_files 2, not 3; expected the same settings"):
        tokenize(source, out, shard_files=3)
    with pytest.raises(OutputError, match="begun with backend onnxruntime, not auto; format parquet, not webdataset"):
        tokenize(source, out, backend="auto", format="webdataset", **SHARDS)
    (source / "speaker1" / "0001.flac").unlink()
    with pytest.raises(OutputError, match=r"other recordings: 1 missing \(speaker1/0001\)"):
        tokenize(source, out, **SHARDS)
    assert tokenize(source, out, extend=True, **SHARDS).files == 8  # what is done stays done


def copy_bundle(target: Path) -> Path:
    """The embedded bundle, but for the last byte of a codebook."""
    shutil.copytree(EMBEDDED, target)
    book = min(target.glob("semantic-*.npy"))
    data = bytearray(book.read_bytes())
    data[-1] ^= 1
    book.write_bytes(data)
    manifest = Manifest.from_json((target / MANIFEST).read_text())
    entry = FileEntry(len(data), hashlib.sha256(data).hexdigest())
    changed = dataclasses.replace(manifest, files={**manifest.files, book.name: entry})
    (target / MANIFEST).write_text(changed.to_json())
    return target


def test_a_folder_of_another_bundle_is_refused(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tokenize(recordings, out, **SHARDS)
    with pytest.raises(OutputError, match=r"begun with the bundle [0-9a-f]{12}…, not [0-9a-f]{12}…"):
        tokenize(recordings, out, bundle=copy_bundle(tmp_path / "other"), **SHARDS)


def test_a_worker_refuses_another_bundle(recordings: Path, tmp_path: Path) -> None:
    from sc_runtime.collection.worker import Worker, WorkerSettings

    out = tmp_path / "out"
    tokenize(recordings, out, **SHARDS)
    with pytest.raises(BundleError, match="of the plan: put the same one on every machine"):
        Worker(WorkerSettings(str(out), str(copy_bundle(tmp_path / "other")), "onnxruntime"))


def test_a_damaged_plan_is_refused(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / PLAN_FOLDER).mkdir()
    (tmp_path / PLAN_FOLDER / "plan.json").write_text("{}")
    with pytest.raises(OutputError, match=r"plan\.json: KeyError"):
        tokenize(recordings, tmp_path)


def test_an_output_that_is_a_file_is_refused(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"out: (File exists|Not a directory)"):
        tokenize(recordings, tmp_path / "out")


def test_of_two_plans_one_is_first(tmp_path: Path) -> None:
    folder = OutputFolder(str(tmp_path))
    assert folder.create(".plan/plan.json", b"first")
    assert not folder.create(".plan/plan.json", b"second")
    assert read_folder(tmp_path) == {".plan/plan.json": b"first"}


def test_a_plan_has_a_hash_of_sources_settings_and_bundle(tmp_path: Path) -> None:
    def make_hash(name: str, files: int = 2, bundle: str = "bundle", uri: str = "a.wav") -> str:
        wanted = Plan({"shard_files": files, "shard_hours": None}, {}, bundle, "version")
        (part,) = agree(OutputFolder(str(tmp_path / name)), wanted, ["."], [Item("a", uri)], extend=False).parts
        return part.hash

    first = make_hash("first")
    assert make_hash("again") == first
    assert len({first, make_hash("b", files=3), make_hash("c", bundle="other"), make_hash("d", uri="b.wav")}) == 4


def test_two_recordings_of_one_id_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / "in" / name, make_sound(1, 0.3), RATE)
    with pytest.raises(SettingsError, match=r"two recordings of the id 'a': .*a\.flac and .*a\.wav; expected one id"):
        tokenize(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class BarrierFolder(OutputFolder):
    """A folder whose first `create` waits until every driver has come as far."""

    def __init__(self, uri: str, barrier: threading.Barrier) -> None:
        super().__init__(uri)
        self.barrier, self.waited = barrier, False

    def create(self, name: str, data: bytes) -> bool:
        if not self.waited:
            self.waited = True
            self.barrier.wait(20)
        return super().create(name, data)


@pytest.mark.parametrize("begun", [True, False])
def test_drivers_that_extend_at_one_moment_lose_nothing(tmp_path: Path, begun: bool) -> None:
    """All of them have read the same plan when the first writes the next one."""
    wanted = Plan({"shard_files": 2, "shard_hours": None}, {}, "bundle", "version")
    whole = OutputFolder(str(tmp_path))
    if begun:
        agree(whole, wanted, ["begun"], [Item("begun", "begun.wav")], extend=False)
    barrier = threading.Barrier(6)

    def extend(number: int) -> Plan:
        items = [Item(f"{number}{letter}", f"{number}{letter}.wav") for letter in "abc"]
        return agree(BarrierFolder(str(tmp_path), barrier), wanted, [str(number)], items, extend=True)

    with ThreadPoolExecutor(6) as pool:
        plans = list(pool.map(extend, range(6)))
    last = load_plan(whole)
    assert last is not None and len(last.parts) == 6 + begun
    expected = [f"{number}{letter}" for number in range(6) for letter in "abc"] + ["begun"] * begun
    assert sorted(last.read_columns(whole, ["id"])[0]) == expected
    assert sorted(len(plan.parts) for plan in plans) == [number + begun for number in range(1, 7)]
    assert all(last.parts[: len(plan.parts)] == plan.parts for plan in plans)  # no shard changed its number
    assert [len(last.read_items(whole, number)) for number in range(len(last.shards))] == [1] * begun + [2, 1] * 6


def test_a_plan_that_was_removed_is_missed(tmp_path: Path) -> None:
    wanted = Plan({"shard_files": 2, "shard_hours": None}, {}, "bundle", "version")
    folder = OutputFolder(str(tmp_path))
    for name in ("a", "b"):
        agree(folder, wanted, [name], [Item(name, f"{name}.wav")], extend=True)
    (tmp_path / PLAN_FOLDER / "plan.json").unlink()
    with pytest.raises(OutputError, match=r"plan\.json: FileNotFoundError"):
        load_plan(folder)


@pytest.mark.parametrize("conditional", [True, False])
def test_of_two_plans_in_an_object_store_one_is_first(conditional: bool) -> None:
    folder = OutputFolder(f"memory://plans-{conditional}")
    if not conditional:
        folder.filesystem = Unconditional(folder.filesystem)
    assert folder.create(".plan/plan.json", b"first")
    assert not folder.create(".plan/plan.json", b"second")
    assert folder.read(".plan/plan.json") == b"first"
    assert folder.list_names(PLAN_FOLDER) == {"plan.json"}


class Unconditional:
    """A filesystem without conditional writes."""

    def __init__(self, filesystem: Any) -> None:
        self.filesystem = filesystem

    def __getattr__(self, name: str) -> Any:
        return getattr(self.filesystem, name)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise NotImplementedError
        self.filesystem.pipe_file(path, value)
