"""The Ray engine: Ray Data gives groups of shards to a pool of actors.

Ray chooses where an actor runs, starts it again when it or its node is lost, and repeats what it had in work: without
end, which is the default of Ray Data.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sc_runtime import errors
from sc_runtime.errors import BackendError, CodecError, MissingExtraError, first_line

from .local import split
from .worker import Failure, ShardReport, Worker, WorkerSettings

DEFAULT_THREADS = 4  #: each actor holds the bundle in memory, so that fewer and larger ones are better
ANSWER_SECONDS = 10  #: that a cluster has to answer
USAGE_VARIABLE = "RAY_USAGE_STATS_ENABLED"


def connect() -> Any:
    """Ray, joined to the cluster of $RAY_ADDRESS, or started on this machine.

    Raises MissingExtraError, BackendError.
    """
    turn_off_usage_reports()
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("engine ray: Ray is not installed", "Ray", "pip install 'sc-runtime[ray]'") from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or "local"
        check_address(address)
        try:
            options: dict[str, Any] = {} if address != "local" else {"include_dashboard": False}
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            given = f"Ray at {address}: {first_line(error)}"
            raise BackendError(given, "a cluster that runs", "start one, or unset RAY_ADDRESS") from error
    return ray


def check_address(address: str) -> None:
    """Raises BackendError if nothing answers at an address "host:port"; Ray 2.60 waits for minutes there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        given = f"Ray at {address}: {error.strerror or error}"
        raise BackendError(given, "a cluster that runs", "start one, or unset RAY_ADDRESS") from error


def turn_off_usage_reports() -> None:
    """Turn Ray's usage reports off, unless the user chose: by the variable, or by `ray enable-usage-stats`."""
    path = os.environ.get("RAY_USAGE_STATS_CONFIG_PATH") or Path("~/.ray/config.json").expanduser()
    try:
        chosen = json.loads(Path(path).read_text()).get("usage_stats")
    except (OSError, ValueError, AttributeError):
        chosen = None
    if chosen is None:
        os.environ.setdefault(USAGE_VARIABLE, "0")


class ShardActor:
    """An actor of Ray Data: one bundle, which encodes a group of shards a call.

    An error of this package is a result too: Ray keeps the text of an exception, and not the exception.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.worker: Worker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        reports, failure = [], None
        try:
            self.worker = self.worker or Worker(self.settings)
            for report in self.worker.run(json.loads(row["numbers"])):
                reports.append(asdict(report))
        except CodecError as error:
            failure = [type(error).__name__, error.given, error.expected, error.remedy]
        return {"reports": json.dumps(reports), "failure": json.dumps(failure)}


def run_on_ray(
    settings: WorkerSettings, numbers: list[int], workers: int | None, gpus_per_worker: float
) -> Iterator[ShardReport]:
    """Encode the shards `numbers` in actors of Ray. Reports come as groups of shards are finished.

    Arguments:
        workers: number of actors. None takes as many as the cluster holds now.
        gpus_per_worker: GPUs that an actor declares, a fraction if several share one. Without one it declares its CPU
            threads.

    Raises what a worker raised, and BackendError for what else ends the job.
    """
    if not numbers:
        return
    ray = connect()
    from ray.data import ActorPoolStrategy, DataContext

    if not gpus_per_worker:
        settings = dataclasses.replace(settings, threads=settings.threads or choose_threads(ray.nodes()))
    cpus = settings.threads or 1
    if not (workers and os.environ.get("RAY_ADDRESS")):  # that cluster may grow: Ray waits for a machine
        check_places(ray.nodes(), cpus, gpus_per_worker)
    size = workers or count_places(ray.cluster_resources(), cpus, gpus_per_worker)
    groups = split(numbers, size)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = ray.data.from_items(
        [{"numbers": json.dumps(group)} for group in groups], override_num_blocks=len(groups)
    ).map(
        ShardActor,
        fn_constructor_args=(settings,),
        compute=ActorPoolStrategy(min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=1),
        num_cpus=None if gpus_per_worker else cpus,
        num_gpus=gpus_per_worker or None,
    )
    try:
        for row in rows.iter_rows():
            for report in json.loads(row["reports"]):
                failures = [Failure(**failure) for failure in report.pop("failures")]
                yield ShardReport(**report, failures=failures)
            if failure := json.loads(row["failure"]):
                raise getattr(errors, failure[0])(*failure[1:])
    except ray.exceptions.RayError as error:
        given = f"Ray: {str(error).strip().splitlines()[-1]}"
        raise BackendError(given, "a job that ends", "Ray's logs say more") from error


def choose_threads(nodes: list[dict[str, Any]]) -> int:
    """CPU threads of an actor: DEFAULT_THREADS, or fewer if a node has fewer."""
    cores = [int(node["Resources"]["CPU"]) for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    return min([DEFAULT_THREADS, *cores])


def check_places(nodes: list[dict[str, Any]], cpus: int, gpus_per_worker: float) -> None:
    """Raises BackendError if no node has room for a worker: Ray would wait without end for one that has."""
    name, need = ("GPU", gpus_per_worker) if gpus_per_worker else ("CPU", float(cpus))
    most = max((node["Resources"].get(name, 0.0) for node in nodes if node["Alive"]), default=0.0)
    if most < need:
        what = "GPUs" if gpus_per_worker else "threads"
        given = f"workers of {need:g} {what} on Ray, where a machine has at most {most:g} {name}s"
        raise BackendError(given, "a machine that holds one", "ask for less, or name --workers on a cluster that grows")


def count_places(resources: dict[str, float], cpus: int, gpus_per_worker: float) -> int:
    """How many workers a cluster of `resources` holds, at least 1."""
    if gpus_per_worker:
        return max(1, int(resources.get("GPU", 0) / gpus_per_worker))
    return max(1, int(resources.get("CPU", 1)) // cpus)
