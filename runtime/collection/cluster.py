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
from pathlib import Path
from typing import Any

from sc_runtime.errors import BackendError, CodecError, MissingExtraError, first_line

from .local import split
from .worker import Failure, ShardReport, Worker, WorkerSettings

DEFAULT_THREADS = 4  #: each actor holds the bundle in memory, so that fewer and larger ones are better
USAGE_VARIABLE = "RAY_USAGE_STATS_ENABLED"


def connect() -> Any:
    """Ray, joined to the cluster of $RAY_ADDRESS, or started on this machine.

    Raises MissingExtraError, BackendError.
    """
    if not is_usage_reporting_chosen():
        os.environ[USAGE_VARIABLE] = "0"
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("engine ray: Ray is not installed", "Ray", "pip install 'sc-runtime[ray]'") from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or "local"
        try:
            options: dict[str, Any] = {} if address != "local" else {"include_dashboard": False}
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            given = f"Ray at {address}: {first_line(error)}"
            raise BackendError(given, "a cluster that runs", "start one, or unset RAY_ADDRESS") from error
    return ray


def is_usage_reporting_chosen() -> bool:
    """Whether the user turned Ray's usage reporting on or off: by its variable, or by `ray enable-usage-stats`."""
    if os.environ.get(USAGE_VARIABLE):
        return True
    path = os.environ.get("RAY_USAGE_STATS_CONFIG_PATH") or Path("~/.ray/config.json").expanduser()
    try:
        return json.loads(Path(path).read_text()).get("usage_stats") is not None
    except (OSError, ValueError, AttributeError):
        return False


class ShardActor:
    """An actor of Ray Data: one bundle, which encodes a group of shards a call."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.worker = Worker(settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        reports = self.worker.run(json.loads(row["numbers"]))
        return {"reports": json.dumps([asdict(report) for report in reports])}


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
    ray = connect()
    from ray.data import ActorPoolStrategy, DataContext

    if not numbers:
        return
    if not gpus_per_worker:
        settings = dataclasses.replace(settings, threads=settings.threads or choose_threads(ray.nodes()))
    cpus = settings.threads or 1
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
    except ray.exceptions.RayError as error:
        raise find_cause(error) from error


def choose_threads(nodes: list[dict[str, Any]]) -> int:
    """CPU threads of an actor: DEFAULT_THREADS, or fewer if a node has fewer."""
    cores = [int(node["Resources"]["CPU"]) for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    return min([DEFAULT_THREADS, *cores])


def count_places(resources: dict[str, float], cpus: int, gpus_per_worker: float) -> int:
    """How many workers a cluster of `resources` holds, at least 1."""
    if gpus_per_worker:
        return max(1, int(resources.get("GPU", 0) / gpus_per_worker))
    return max(1, int(resources.get("CPU", 1)) // cpus)


def find_cause(error: BaseException) -> CodecError:
    """The error of this package that Ray wrapped; BackendError for any other."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, CodecError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__ or seen.__context__
    return BackendError(f"Ray: {first_line(error)}", "workers that live", "is there enough memory?")
