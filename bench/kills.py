"""Kills processes that encode a collection, at random moments: drivers, workers, and nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
EXPECTED_ERRORS = (
    "workers died",
    "Ray: ",
    "Ray at ",
)  #: of a driver that stops; the next continues

STARTS = 5  #: of a node, at most, until it has started in time

#: Ray gives its workers less of a processor that other programs want: by default they are nicer by 15.
NICENESS = "RAY_worker_niceness"

Victims = Callable[[subprocess.Popen[str]], dict[str, Callable[[], None]]]  #: what can be killed now, by kind


def start_command(*arguments: object, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """`sc-runtime tokenize` in another process, with the embedded bundle on ONNX Runtime, which loads fast."""
    command = [
        sys.executable,
        "-m",
        "sc_runtime.cli",
        "tokenize",
        *map(str, arguments),
        "--bundle",
        "embedded",
        "--backend",
        "onnxruntime",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file in `folder` and the folders in it, hidden ones too: relative name -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def survive(
    start: Callable[[], subprocess.Popen[str]],
    find_victims: Victims,
    folder: Path,
    expected: Mapping[str, bytes],
    kills: int,
    longest: float,
    seed: int = 16,
) -> dict[str, Any]:
    """Start drivers until `kills` kills have happened and the last driver has succeeded.

    Arguments:
        start: starts a driver that writes to `folder`.
        expected: the files of an undisturbed run. The folder is compared each time it is complete, and begun anew.
        longest: seconds between two kills, at most: what an undisturbed run takes, so that kills meet its every moment.

    Returns the kills by kind, how many folders were completed, and for each kill how many shards there were: the
    kills are spread over the run. Raises AssertionError if a folder differs.
    """
    generator, done, folders = random.Random(seed), Counter[str](), 0
    shards: list[int] = []
    while True:
        process = start()
        while done.total() < kills and not has_ended(process, generator.uniform(0.2, longest)):
            victims = find_victims(process)
            kind = min(victims, key=lambda kind: (done[kind], generator.random()))  # that was killed least
            with contextlib.suppress(psutil.NoSuchProcess):
                present = len(list(folder.glob("shard-*")))
                victims[kind]()
                done[kind] += 1
                shards.append(present)
        _, errors = process.communicate()
        if process.returncode == 0:
            assert read_folder(folder) == expected, "the folder differs from an undisturbed run's"
            folders += 1
            if done.total() >= kills:
                return {"kills": dict(done), "folders": folders, "shards_at_kill": shards}
            shutil.rmtree(folder)
        else:
            known = process.returncode == -signal.SIGKILL or any(text in errors for text in EXPECTED_ERRORS)
            assert known, f"exit code {process.returncode}: {errors}"


def has_ended(process: subprocess.Popen[str], seconds: float) -> bool:
    """Whether `process` ends within `seconds`."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def find_local_victims(process: subprocess.Popen[str]) -> dict[str, Callable[[], None]]:
    """The driver, and one of its worker processes."""
    victims: dict[str, Callable[[], None]] = {"driver": process.kill}
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            if "spawn_main" in " ".join(child.cmdline()):
                victims["worker"] = child.kill
    return victims


def start_in_time(start: Callable[[], Any]) -> Any:
    """A node or a cluster. Ray 2.60 gives a node 30 s to start, which is too little on a busy machine: then again."""
    for _ in range(STARTS - 1):
        with contextlib.suppress(Exception):
            return start()
    return start()


@contextlib.contextmanager
def ray_cluster(nodes: int = 3, num_gpus: int = 0) -> Iterator[tuple[str, Victims]]:
    """A Ray cluster of `nodes` nodes with one core each, and a head without: its address, and what can be killed.

    num_gpus: GPUs that each node declares. Ray counts them and does not look for them.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(NICENESS, "0")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = start_in_time(lambda: Cluster(initialize_head=True, head_node_args=head))

    def add_node() -> Any:
        return start_in_time(lambda: cluster.add_node(num_cpus=1, num_gpus=num_gpus))

    workers = [add_node() for _ in range(nodes)]
    cluster.wait_for_nodes()

    def find_victims(process: subprocess.Popen[str]) -> dict[str, Callable[[], None]]:
        def kill_node() -> None:
            """A node dies without notice, and another joins."""
            cluster.remove_node(workers.pop(0), allow_graceful=False)
            workers.append(add_node())

        victims: dict[str, Callable[[], None]] = {"driver": process.kill, "node": kill_node}
        for child in psutil.Process().children(recursive=True):  # the nodes are children of this process
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(name.startswith("ray::") and "MapWorker" in name for name in child.cmdline()):
                    victims["worker"] = child.kill
        return victims

    try:
        yield cluster.address, find_victims
    finally:
        cluster.shutdown()
