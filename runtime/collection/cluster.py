"""The Ray engine: Ray Data gives groups of shards to a pool of actors.

Ray chooses where an actor runs, starts it again when it or its node is lost, and repeats what it had in work: without
end, which is the default of Ray Data.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from sc_runtime import errors
from sc_runtime.errors import BackendError, CodecError
from sc_runtime.ray_cluster import connect

from .local import split
from .worker import Failure, ShardReport, Worker, WorkerSettings

DEFAULT_THREADS = 4  #: each actor holds the bundle in memory, so that fewer and larger ones are better


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
    settings: WorkerSettings, numbers: list[int], files: float, workers: int | None, gpus_per_worker: float
) -> Iterator[ShardReport]:
    """Encode the shards `numbers` in actors of Ray. Reports come as groups of shards are finished.

    Arguments:
        files: recordings of a shard, about.
        workers: number of actors. None takes as many as the cluster holds now.
        gpus_per_worker: GPUs that an actor declares, a fraction if several share one. Without one it declares its CPU
            threads.

    Raises what a worker raised, and BackendError for what else ends the job.
    """
    if not numbers:
        return
    ray = connect(quiet=True)
    from ray.data import ActorPoolStrategy, DataContext

    if not gpus_per_worker:
        settings = dataclasses.replace(settings, threads=settings.threads or choose_threads(ray.nodes()))
    cpus = settings.threads or 1
    if not (workers and os.environ.get("RAY_ADDRESS")):  # that cluster may grow: Ray waits for a machine
        check_places(ray.nodes(), cpus, gpus_per_worker)
    size = workers or count_places(ray.cluster_resources(), cpus, gpus_per_worker)
    groups = split(numbers, files, size)
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
