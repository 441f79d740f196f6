"""Temporary files: removed by the next run when their process is dead, and never before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sc_runtime import files
from sc_runtime.bundle.locate import list_bundles
from sc_runtime.cli.jobs import Job
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")

WRITER = """
import signal, sys, time
from pathlib import Path
from sc_runtime.files import replacing
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background run of tests ignores it
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(600)
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    return writer


def list_hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_what_a_killed_writer_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    """The file of a writer that still runs is kept."""
    dead, alive = (start_writer(tmp_path / f"{name}.wav") for name in ("dead", "alive"))
    try:
        assert len(list_hidden(tmp_path)) == 2
        dead.kill()
        dead.communicate()
        files._swept.clear()
        files.write_atomically(tmp_path / "a.sct", b"whole")
        (left,) = list_hidden(tmp_path)
        alive.send_signal(signal.SIGINT)
        alive.communicate()
        assert files.TEMPORARY.fullmatch(left)
        assert [path.name for path in tmp_path.iterdir()] == ["a.sct"]
    finally:
        for writer in (dead, alive):
            writer.kill()
            writer.wait()


def test_another_machines_file_is_removed_after_a_day(tmp_path: Path) -> None:
    """Locks of another machine may be invisible here, so only the age counts."""
    path = tmp_path / f"{files.PREFIX}{'0' * 8}-{'1' * 16}.sct"
    path.touch()
    files.remove_abandoned(tmp_path)
    assert path.exists()
    os.utime(path, (0, time.time() - files.OLD - 10))
    files.remove_abandoned(tmp_path)
    assert not path.exists()


@pytest.mark.parametrize("name", [".0123456789abcdef.sct", ".sc-runtime-notes", ".sc-runtime-", "sc-runtime-a.wav"])
def test_files_of_other_names_are_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    os.utime(tmp_path / name, (0, 0))
    files.remove_abandoned(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_links_pipes_and_folders_are_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{files.PREFIX}{files.name_machine()}-{'1' * 16}.sct"
    (tmp_path / "mine").write_text("mine")
    if kind == "link":
        path.symlink_to(tmp_path / "mine")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    files.remove_abandoned(tmp_path)
    assert path.exists() and (tmp_path / "mine").read_text() == "mine"


def test_writers_and_removers_at_once_lose_nothing(tmp_path: Path) -> None:
    done, errors = threading.Event(), list[BaseException]()

    def remove() -> None:
        while not done.is_set():
            files.remove_abandoned(tmp_path)

    def write(number: int) -> None:
        try:
            for i in range(30):
                files.write_atomically(tmp_path / f"{number}-{i}", b"whole")
        except BaseException as error:
            errors.append(error)

    removers = [threading.Thread(target=remove) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in (*removers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in removers:
        thread.join()
    assert not errors
    assert len(list(tmp_path.iterdir())) == 120 and not list_hidden(tmp_path)


def test_an_empty_output_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    job = Job(tmp_path / "a.wav", tmp_path / "a.sct")
    (tmp_path / "a.sct").touch()
    assert not job.is_done()
    (tmp_path / "a.sct").write_bytes(b"x")
    assert job.is_done()


def test_listing_bundles_while_one_is_replaced_raises_nothing(tmp_path: Path) -> None:
    folder, done = tmp_path / "bundle", threading.Event()
    folder.mkdir()
    (folder / "manifest.json").touch()

    def rename() -> None:
        while not done.is_set():
            folder.rename(tmp_path / "away")
            (tmp_path / "away").rename(folder)

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        for _ in range(300):
            assert list_bundles(tmp_path) in ([], [folder], [tmp_path / "away"])
    finally:
        done.set()
        thread.join()
