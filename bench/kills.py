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
    however long its start takes. The kind that was killed least is next.

    Arguments:
        start: starts a driver that writes to `folder`.
        kinds: what is killed.
        expected: the files of an undisturbed run. The folder is compared each time it is complete, and begun anew.
        pause: seconds from the shard to the kill, at most: about what two shards take, so that kills meet every moment.

    Returns the kills by kind, how many folders were completed, how many shards each has, and for each kill how many
    shards there were. Raises AssertionError if a folder differs.
    """
    generator, done, folders, failures = random.Random(seed), Counter[str](), 0, 0
    count = sum(name.startswith("shard-") for name in expected)
    present: list[int] = []  # shards at each kill
    missed: set[str] = set()  # kinds that had no victim before the driver ended
    moments: list[int] = []  # number of shards at which each next kill is due, in descending order
    while True:
        if not folder.is_dir():
            left = min(KILLS_A_FOLDER, kills - done.total())
            moments = sorted((generator.randrange(count) for _ in range(left)), reverse=True)
        process = start()
        while moments:
            if len(missed) == len(kinds):
                missed.clear()
            kind = min(kinds, key=lambda name: (name in missed, done[name], generator.random()))
            if not wait_for_shards(process, folder, moments[-1], find_victims, kind):
                if process.returncode == 0:  # it was not killed
                    missed.add(kind)
                break
            if has_ended(process, generator.uniform(0.0, pause)):
                break
            victims = find_victims(process)
            if kind not in victims:  # it has ended by itself meanwhile
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                shards = count_shards(folder)
                victims[kind]()
                done[kind] += 1
                moments.pop()
                present.append(shards)
                missed.clear()
                failures = 0
        _, errors = process.communicate()
        if process.returncode == 0:
            assert read_folder(folder) == expected, "the folder differs from an undisturbed run's"
            folders, failures = folders + 1, 0
            if done.total() >= kills:
                return {"kills": dict(done), "folders": folders, "shards": count, "shards_at_kill": present}
            shutil.rmtree(folder)
        else:
            failures += 1
            known = process.returncode == -signal.SIGKILL or any(text in errors for text in EXPECTED_ERRORS)
            assert known and failures <= MOST_FAILURES, f"exit code {process.returncode}: {errors}"


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
