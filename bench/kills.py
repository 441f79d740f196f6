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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.harness.printing import log
from sc_runtime.errors import first_line

ROOT = Path(__file__).resolve().parent.parent
EXPECTED_ERRORS = (
    "workers died",
    "Ray: ",
    "Ray at ",
)  #: of a driver that stops; the next continues
MOST_FAILURES = 10  #: of drivers one after the other, without a kill between
KILLS_A_FOLDER = 3  #: at most, before the folder is completed, compared and begun anew
CHECK_SECONDS = 0.05  #: between two looks whether a kill is due
STARTS = 10  #: of a node, at most, until it has started in time

#: Ray gives its workers less of a processor that other programs want: by default they are nicer by 15.
NICENESS = "RAY_worker_niceness"

Victims = Callable[[subprocess.Popen[str]], dict[str, Callable[[], None]]]  #: what can be killed now, by kind
LOCAL_KINDS = ("driver", "worker")
RAY_KINDS = ("driver", "worker", "node")


def start_command(
    *arguments: object, variables: Mapping[str, str] | None = None, errors: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """`sc-runtime tokenize` in another process, with the embedded bundle on ONNX Runtime, which loads fast.

    errors: where its standard error goes: a descriptor, or as `subprocess` names it.
    """
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
        command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
    )


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file in `folder` and the folders in it, hidden ones too: relative name -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Kills:
    """The kills that have happened, and those that are to come.

    kinds: what is killed. The kind that was killed least is next.
    wanted: number of kills, of which a folder sees at most KILLS_A_FOLDER.
    shards: number of shards of a folder that is complete.
    pause: seconds from the shard at which a kill is due to the kill, at most.
    """

    kinds: Sequence[str]
    wanted: int
    shards: int
    pause: float
    generator: random.Random
    done: Counter[str] = field(default_factory=Counter)  #: by kind
    present: list[int] = field(default_factory=list)  #: number of shards at each kill
    due: list[int] = field(default_factory=list)  #: number of shards at each next kill of this folder, descending
    missed: set[str] = field(default_factory=set)  #: kinds that had no victim before a driver ended

    def begin_folder(self) -> None:
        left = min(KILLS_A_FOLDER, self.wanted - self.done.total())
        self.due = sorted((self.generator.randrange(self.shards) for _ in range(left)), reverse=True)

    def choose_kind(self) -> str:
        """The kind to be killed next."""
        if len(self.missed) == len(self.kinds):
            self.missed.clear()
        return min(self.kinds, key=lambda name: (name in self.missed, self.done[name], self.generator.random()))

    def choose_pause(self) -> float:
        """Seconds from the shard at which the kill is due to the kill."""
        return self.generator.uniform(0.0, self.pause)

    def add(self, kind: str, shards: int) -> None:
        """Count a kill that happened when there were `shards` shards."""
        self.done[kind] += 1
        self.due.pop()
        self.present.append(shards)
        self.missed.clear()


def survive(
    start: Callable[[], subprocess.Popen[str]],
    find_victims: Victims,
    kinds: Sequence[str],
    folder: Path,
    expected: Mapping[str, bytes],
    kills: int,
    pause: float,
    seed: int = 16,
) -> dict[str, Any]:
    """Start drivers until `kills` kills have happened and the last driver has succeeded.

    A kill is due when a random number of shards is there, and some time has passed. So kills are spread over the run,
    however long its start takes.

    Arguments:
        start: starts a driver that writes to `folder`.
        kinds: what is killed.
        expected: the files of an undisturbed run. The folder is compared each time it is complete, and begun anew.
        pause: seconds from the shard to the kill, at most: about what two shards take, so that kills meet every moment.

    Returns the kills by kind, how many folders were completed, how many shards each has, and for each kill how many
    shards there were. Raises AssertionError if a folder differs.
    """
    count = sum(name.startswith("shard-") for name in expected)
    counted, folders, failures = Kills(kinds, kills, count, pause, random.Random(seed)), 0, 0
    while True:
        if not folder.is_dir():
            counted.begin_folder()
        process = start()
        if kill_when_due(process, folder, counted, find_victims):
            failures = 0
        _, errors = process.communicate()
        if process.returncode == 0:
            assert read_folder(folder) == expected, "the folder differs from an undisturbed run's"
            folders, failures = folders + 1, 0
            if counted.done.total() >= kills:
                found = {"kills": dict(counted.done), "folders": folders, "shards": count}
                return {**found, "shards_at_kill": counted.present}
            shutil.rmtree(folder)
        else:
            failures += 1
            known = process.returncode == -signal.SIGKILL or any(text in errors for text in EXPECTED_ERRORS)
            assert known and failures <= MOST_FAILURES, f"exit code {process.returncode}: {errors}"


def kill_when_due(process: subprocess.Popen[str], folder: Path, kills: Kills, find_victims: Victims) -> bool:
    """Kill what is due until `process`, a driver that writes to `folder`, ends or nothing is due.

    Returns whether there was a kill.
    """
    before = kills.done.total()
    while kills.due:
        kind = kills.choose_kind()
        if not wait_for_shards(process, folder, kills.due[-1], find_victims, kind):
            if process.returncode == 0:  # it was not killed
                kills.missed.add(kind)
            break
        if has_ended(process, kills.choose_pause()):
            break
        kill = find_victims(process).get(kind)
        if kill is None:  # it has ended by itself meanwhile
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            shards = count_shards(folder)
            kill()
            kills.add(kind, shards)
    return kills.done.total() > before


def count_shards(folder: Path) -> int:
    return len(list(folder.glob("shard-*")))


def wait_for_shards(process: subprocess.Popen[str], folder: Path, count: int, find_victims: Victims, kind: str) -> bool:
    """Wait until `folder` has `count` shards and there is a victim `kind`. Returns whether `process` lives then."""
    while not has_ended(process, CHECK_SECONDS):
        if count_shards(folder) >= count and kind in find_victims(process):
            return True
    return False


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


def start_in_time(start: Callable[[], Any], clean: Callable[[], None] = lambda: None) -> Any:
    """A node or a cluster. Ray 2.60 gives a node 30 s to start, which is too little on a busy machine: then again.

    clean: removes what a start that failed has left. It also runs after the last one, whose error is raised.
    """
    left = STARTS
    while True:
        left -= 1
        try:
            return start()
        except Exception as error:  # Ray raises a plain Exception
            log.print(f"a node did not start: {first_line(error)}")
            clean()
            if not left:
                raise


def find_servers() -> set[psutil.Process]:
    """Ray's servers below this process. What they have started ends with them."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() in ("raylet", "gcs_server"):
                found.add(child)
    return found


@contextlib.contextmanager
def running(cluster: Any, add_node: Callable[[], Any], nodes: int) -> Iterator[list[Any]]:
    """Yield `nodes` nodes that are added to `cluster`. It is shut down after the block, or if a node does not start."""
    try:
        yield [add_node() for _ in range(nodes)]
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def ray_cluster(nodes: int = 3, num_gpus: int = 0) -> Iterator[tuple[str, Victims]]:
    """A Ray cluster of `nodes` nodes with one core each, and a head without: its address, and what can be killed.

    num_gpus: GPUs that each node declares. Ray counts them and does not look for them.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(NICENESS, "0")
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "300")  # 30 is too little on a busy machine
    os.environ.setdefault("RAY_health_check_timeout_ms", "60000")  # a node that answers late is not dead
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    cluster: Any = None

    def start_node(start: Callable[[], Any]) -> Any:
        present, known = find_servers(), set(cluster.worker_nodes) if cluster else set()

        def clean() -> None:
            for server in find_servers() - present:
                with contextlib.suppress(psutil.NoSuchProcess):
                    server.kill()
            if cluster:
                cluster.worker_nodes &= known

        return start_in_time(start, clean)

    def add_node() -> Any:
        return start_node(lambda: cluster.add_node(num_cpus=1, num_gpus=num_gpus))

    cluster = start_node(lambda: Cluster(initialize_head=True, head_node_args=head))

    def find_victims(process: subprocess.Popen[str]) -> dict[str, Callable[[], None]]:
        def kill_node() -> None:
            """A node dies without notice, and another joins."""
            cluster.remove_node(workers.pop(0), allow_graceful=False)
            workers.append(add_node())

        victims: dict[str, Callable[[], None]] = {"driver": process.kill, "node": kill_node}
        begun = psutil.Process(process.pid).create_time()
        for child in psutil.Process().children(recursive=True):  # the nodes are children of this process
            with contextlib.suppress(psutil.NoSuchProcess):
                is_worker = any(name.startswith("ray::") and "MapWorker" in name for name in child.cmdline())
                if is_worker and child.create_time() > begun:  # not one of a driver that was killed
                    victims["worker"] = child.kill
        return victims

    with running(cluster, add_node, nodes) as workers:
        yield cluster.address, find_victims
