"""Exactly once: runs that go on, are killed, run twice at a time or in parts, and disks that fill up."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from bench.kills import (
    LOCAL_KINDS,
    RAY_KINDS,
    STARTS,
    find_local_victims,
    read_folder,
    running,
    start_command,
    start_in_time,
    survive,
)
from sc_runtime.collection.folder import OutputFolder
from sc_runtime.collection.plan import load_plan
from sc_runtime.collection.progress import Snapshot
from sc_runtime.errors import OutputError
from sc_runtime.files import PREFIX, name_machine
from tests.collections import run_command, tokenize, write_recordings, write_with_a_broken_one
from tests.test_collection_sources import pack_tar

SHARDS = {"shard_files": 2}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_with_a_broken_one(tmp_path_factory.mktemp("recordings"), 7)


@pytest.fixture(scope="module")
def undisturbed(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    tokenize(recordings, folder, **SHARDS)
    return read_folder(folder)


def test_the_same_call_goes_on(recordings: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    tokenize(recordings, tmp_path, **SHARDS)
    (tmp_path / "shard-000002.parquet").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    outcome = tokenize(recordings, tmp_path, **SHARDS)
    assert (outcome.files, outcome.encoded, len(outcome.failures)) == (8, 2, 1)
    assert read_folder(tmp_path) == undisturbed
    assert all((tmp_path / name).stat().st_mtime_ns == then for name, then in times.items())
    assert tokenize(recordings, tmp_path, **SHARDS).encoded == 0


def test_a_shard_of_nothing_but_errors_is_committed_and_never_runs_again(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "in" / name).write_bytes(b"")
    outcome = tokenize(tmp_path / "in", tmp_path / "out")
    assert (outcome.encoded, len(outcome.failures), outcome.shards) == (2, 2, 1)
    again = tokenize(tmp_path / "in", tmp_path / "out")
    assert (again.encoded, len(again.failures)) == (0, 2)


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_errors_are_retried_if_that_is_asked_for(tmp_path: Path, format: str) -> None:
    source = tmp_path / "in"
    write_recordings(source, 5)
    broken = source / "speaker0" / "0002.flac"
    whole = broken.read_bytes()
    tokenize(source, tmp_path / "whole", format=format, **SHARDS)
    broken.write_bytes(b"")
    out = tmp_path / "out"
    assert len(tokenize(source, out, format=format, **SHARDS).failures) == 1
    broken.write_bytes(whole)
    assert len(tokenize(source, out, format=format, **SHARDS).failures) == 1
    seen: list[Snapshot] = []
    outcome = tokenize(source, out, format=format, retry_errors=True, progress=seen.append, **SHARDS)
    assert (seen[-1].done, seen[-1].errors, seen[-1].hours_left) == (5, 0, 0.0)
    assert (outcome.files, outcome.encoded, outcome.failures) == (5, 1, [])
    assert read_folder(out) == read_folder(tmp_path / "whole")


def test_parts_make_one_folder(recordings: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    files = [tokenize(recordings, tmp_path, part=(index, 3), **SHARDS).files for index in (2, 3, 1)]
    assert sorted(files) == [2, 2, 4]
    assert read_folder(tmp_path) == undisturbed


def test_leftovers_of_the_dead_are_removed_and_not_those_of_the_living(tmp_path: Path) -> None:
    folder = OutputFolder(str(tmp_path))
    dead = tmp_path / f"{PREFIX}{name_machine()}-0123456789abcdef.parquet"
    dead.write_bytes(b"half a shard")
    with folder.replacing("shard-000000.parquet") as living:
        folder.remove_leftovers()
        assert (dead.exists(), living.exists()) == (False, True)
        living.write_bytes(b"a shard")
        folder.remove_leftovers()
    assert read_folder(tmp_path) == {"shard-000000.parquet": b"a shard"}


def test_a_writer_keeps_its_file_until_it_is_renamed(tmp_path: Path) -> None:
    """One thread removes leftovers all the time: its lock must not end before the rename."""
    folder, ended = OutputFolder(str(tmp_path)), threading.Event()

    def clean() -> None:
        while not ended.is_set():
            folder.remove_leftovers()

    cleaner = threading.Thread(target=clean)
    cleaner.start()
    try:
        for number in range(100):
            folder.write(f"shard-{number:06d}.parquet", b"a shard")
    finally:
        ended.set()
        cleaner.join()
    assert len(read_folder(tmp_path)) == 100


def test_two_drivers_on_one_folder_do_no_harm(recordings: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    drivers = [start_command(recordings, "-o", tmp_path, "--shard-files", 2) for _ in range(2)]
    for driver in drivers:
        _, errors = driver.communicate()
        assert driver.returncode == 0, errors
    assert read_folder(tmp_path) == undisturbed


LIMITED = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tests.collections import tokenize
from sc_runtime.errors import CodecError
done, bytes, sources, output = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, bytes))
if not done:
    tokenize(sources, output + "/warm")  # the caches of this session are written before the limit
    limit()
try:
    tokenize(sources, output + "/out", shard_files=2, progress=lambda snapshot: snapshot.done > done and limit())
except CodecError as error:
    print(error)
"""


def run_limited(done: int, limit: int, sources: Path, output: Path) -> list[str]:
    """Encode with a limit of the size of files, after `done` recordings, which stands for a full disk: the output."""
    command = [sys.executable, "-c", LIMITED, *map(str, (done, limit, sources, output))]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.skipif(os.name == "nt", reason="no limit of file sizes")
def test_a_disk_that_fills_up_is_one_line_and_what_is_done_stays_done(
    recordings: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """The second shard cannot be written."""
    (line,) = run_limited(3, 100, recordings, tmp_path)
    assert "shard-000001.parquet" in line and "make room there" in line
    out = tmp_path / "out"
    assert {name for name in read_folder(out) if name.startswith("shard")} == {"shard-000000.parquet"}
    tokenize(recordings, out, **SHARDS)
    assert read_folder(out) == undisturbed


@pytest.mark.skipif(os.name == "nt", reason="no limit of file sizes")
@pytest.mark.parametrize("packed", [True, False])
def test_a_full_temporary_folder_ends_the_run_and_is_no_error_of_a_recording(tmp_path: Path, packed: bool) -> None:
    """A member of a tar, or a part of a recording, cannot be copied."""
    (path,) = write_recordings(tmp_path / "in", 1, (3.0,))
    source = tmp_path / "list.csv"
    source.write_text(f"path,start,duration\n{path},0.5,2\n")
    if packed:
        source = pack_tar(tmp_path / "a.tar", {"a.flac": path.read_bytes()})
    (line,) = run_limited(0, 20_000, source, tmp_path)
    assert line.startswith(f"{tempfile.gettempdir()}: ") and "name another folder in $TMPDIR" in line
    assert not list((tmp_path / "out").glob("shard-*"))
    assert tokenize(source, tmp_path / "out", **SHARDS).failures == []


def test_a_full_temporary_folder_is_one_line_for_an_object_store() -> None:
    """A shard is written to a temporary file before it is sent: not the store is full."""
    folder = OutputFolder("memory://full")
    with pytest.raises(OutputError) as caught, folder.replacing("shard-000000.parquet"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.given == f"{tempfile.gettempdir()}: No space left on device"
    assert caught.value.remedy.startswith("make room there, or name another folder in $TMPDIR")
    assert folder.list_names() == set()


def test_a_missing_temporary_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = OutputFolder("memory://missing")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError) as caught, folder.replacing("shard-000000.parquet"):
        pass
    assert caught.value.given == f"{tmp_path}/gone: No such file or directory"


@pytest.mark.parametrize("output", ["memory://bugs", "bugs"])
def test_a_bug_in_writing_a_shard_is_no_error_of_the_output(output: str, tmp_path: Path) -> None:
    folder = OutputFolder(output if "://" in output else str(tmp_path / output))
    for bug in (AssertionError("a bug"), ValueError("a bug")):
        with pytest.raises(type(bug), match=r"^a bug$"), folder.replacing("shard-000000.parquet"):
            raise bug


class Silent:
    """A filesystem that does not answer."""

    def __init__(self, filesystem: Any) -> None:
        self.filesystem = filesystem

    def __getattr__(self, name: str) -> Any:
        return getattr(self.filesystem, name)

    def cat_file(self, path: str) -> bytes:
        raise TimeoutError

    def put_file(self, source: str, target: str) -> None:
        raise TimeoutError


def test_a_store_that_does_not_answer_is_one_line() -> None:
    folder = OutputFolder("memory://silent")
    folder.write(".plan/plan.json", b"{}")
    folder.filesystem = Silent(folder.filesystem)
    calls = [lambda: folder.write("shard-000000.parquet", b"a shard"), lambda: load_plan(folder)]
    for call, expected in zip(calls, ["a folder that can be written", "a folder whose files can be read"], strict=True):
        with pytest.raises(OutputError, match=r"^memory://.*silent/.*: timed out;") as caught:
            call()
        assert caught.value.expected == expected
        assert caught.value.remedy == "check the connection, or try again later"


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_shard_is_synced_whole_before_it_is_renamed(
    recordings: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it has its name by one rename within its folder."""
    synced: dict[int, int] = {}  # inode -> bytes
    renamed: list[str] = []
    sync, replace = os.fsync, Path.replace

    def record_sync(descriptor: int) -> None:
        sync(descriptor)
        facts = os.fstat(descriptor)
        synced[facts.st_ino] = facts.st_size

    def record_replace(self: Path, target: Path) -> Path:
        facts = self.stat()
        assert synced[facts.st_ino] == facts.st_size > 0 and self.parent == target.parent
        renamed.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_replace)
    tokenize(recordings, tmp_path, format=format, **SHARDS)
    shards = [name for name in renamed if name.startswith("shard-")]
    assert shards == sorted(path.name for path in tmp_path.glob("shard-*")) and len(shards) == 4


def test_a_killed_driver_loses_nothing(recordings: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    process = start_command(recordings, "-o", tmp_path, "--shard-files", 2)
    while process.poll() is None and not list(tmp_path.glob("shard-*")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    code, _, errors = run_command(recordings, "-o", tmp_path, "--shard-files", 2)
    assert code == 0, errors
    assert read_folder(tmp_path) == undisturbed


SLOW_DRIVER = """
import pathlib, sys, time
time.sleep(0.3)  # its start
pathlib.Path(sys.argv[1]).mkdir(exist_ok=True)
for number in range(10):
    path = pathlib.Path(sys.argv[1], f"shard-{number}")
    if not path.exists():
        path.touch()
        time.sleep(0.05)
"""


def test_kills_are_spread_over_the_run_however_long_its_start_takes(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-S", "-c", SLOW_DRIVER, str(tmp_path / "out")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def find_victims(process: subprocess.Popen[str]) -> dict[str, Callable[[], None]]:
        return {"driver": process.kill, "worker": lambda: None, "node": lambda: None}

    expected = {f"shard-{number}": b"" for number in range(10)}
    found = survive(start, find_victims, RAY_KINDS, tmp_path / "out", expected, kills=9, pause=0.01)
    assert sum(found["kills"].values()) == 9 and min(found["kills"].values()) >= 2
    assert found["folders"] >= 2
    assert sum(shards > 0 for shards in found["shards_at_kill"]) >= 5
    assert len(set(found["shards_at_kill"])) >= 4
    assert found["shards"] == 10


def test_kills_go_on_without_a_victim_of_one_kind(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-S", "-c", SLOW_DRIVER, str(tmp_path / "out")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    expected = {f"shard-{number}": b"" for number in range(10)}
    find_victims = lambda process: {"driver": process.kill}  # noqa: E731
    found = survive(start, find_victims, ("driver", "worker"), tmp_path / "out", expected, kills=2, pause=0.0)
    assert found["kills"] == {"driver": 2}


def test_a_driver_that_fails_by_itself_ends_the_kills(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-S", "-c", "raise SystemExit('Ray: gone')"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with pytest.raises(AssertionError, match="exit code 1: Ray: gone"):
        survive(start, lambda process: {}, ("driver",), tmp_path / "out", {"shard-0": b""}, kills=1, pause=0.0)


def test_a_node_that_does_not_start_in_time_is_started_again() -> None:
    called: list[str] = []

    def start() -> str:
        called.append("start")
        if len(called) < 5:
            raise Exception("The current node timed out during startup.")
        return "node"

    assert start_in_time(start, lambda: called.append("clean")) == "node"
    assert called == ["start", "clean", "start", "clean", "start"]


def test_a_node_that_never_starts_leaves_nothing() -> None:
    called: list[str] = []

    def start() -> None:
        called.append("start")
        raise Exception("The current node timed out during startup.")

    with pytest.raises(Exception, match="timed out"):
        start_in_time(start, lambda: called.append("clean"))
    assert called == ["start", "clean"] * STARTS


class StubCluster:
    """A cluster that counts its nodes, and starts no more than `most`."""

    def __init__(self, most: int) -> None:
        self.most, self.nodes, self.is_up = most, 0, True

    def add_node(self) -> int:
        if self.nodes == self.most:
            raise RuntimeError("no node")
        self.nodes += 1
        return self.nodes

    def shutdown(self) -> None:
        self.is_up = False


def test_a_cluster_is_shut_down_after_the_block_and_if_a_node_does_not_start() -> None:
    whole = StubCluster(3)
    with running(whole, whole.add_node, 3) as nodes:
        assert (nodes, whole.is_up) == ([1, 2, 3], True)
    assert not whole.is_up
    small = StubCluster(2)
    with pytest.raises(RuntimeError, match="no node"), running(small, small.add_node, 3):
        pass
    assert not small.is_up


@pytest.mark.heavy
def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """The driver goes on, and the folder is that of an undisturbed run."""
    source, out = tmp_path / "in", tmp_path / "out"
    write_recordings(source, 60)
    tokenize(source, tmp_path / "expected", **SHARDS)
    process = start_command(source, "-o", out, "--shard-files", 2, "--workers", 2)
    for shards in (3, 12):
        while process.poll() is None and len(list(out.glob("shard-*"))) < shards:
            time.sleep(0.01)
        find_local_victims(process)["worker"]()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert read_folder(out) == read_folder(tmp_path / "expected")


@pytest.mark.heavy
def test_kills_of_drivers_and_workers(tmp_path: Path) -> None:
    """The folder is byte for byte that of an undisturbed run. `bench/bulk.py` kills a hundred times."""
    source, out = tmp_path / "in", tmp_path / "out"
    write_recordings(source, 200)
    tokenize(source, tmp_path / "expected", shard_files=4)
    expected = read_folder(tmp_path / "expected")
    arguments = [source, "-o", out, "--shard-files", 4, "--workers", 2]
    start = lambda: start_command(*arguments)  # noqa: E731
    found = survive(start, find_local_victims, LOCAL_KINDS, out, expected, kills=12, pause=0.3)
    assert sum(found["kills"].values()) == 12 and min(found["kills"][kind] for kind in LOCAL_KINDS) >= 3


@pytest.mark.heavy
def test_two_thousand_short_files(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_recordings(source, 2000, (0.2, 0.5, 1.0))
    outcome = tokenize(source, tmp_path / "out", shard_files=250, verify=20)
    assert (outcome.files, outcome.shards, outcome.failures) == (2000, 8, [])
    assert outcome.verification is not None and outcome.verification.differing == []
    folder = OutputFolder(str(tmp_path / "out"))
    plan = load_plan(folder)
    assert plan is not None and len(set(plan.read_columns(folder, ["id"])[0])) == 2000
