"""A collection to tokens: sources are planned, an engine encodes them, and what came of it is returned."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from typing import Literal

from sc_runtime.codec import Codec, check_batch
from sc_runtime.errors import MissingExtraError, SettingsError, check_whole
from sc_runtime.spec import EncodeOptions

from .engines import Engine
from .folder import OutputFolder
from .formats import FORMATS
from .outcome import Outcome
from .plan import Plan, fingerprint
from .planning import agree
from .progress import Progress, Show
from .rows import describe_codec
from .shards import Shards
from .sources import find_items
from .verify import verify_rows
from .worker import Worker, WorkerSettings

Source = str | os.PathLike[str]
DEFAULT_FILES = 1000  #: of a shard


def tokenize_collection(
    sources: Source | Sequence[Source],
    output: Source,
    *,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    threads: int | None = None,
    gpus_per_worker: float = 0.0,
    part: tuple[int, int] = (1, 1),
    format: Literal["parquet", "webdataset"] = "parquet",
    shard_hours: float | None = None,
    shard_files: int | None = None,
    vocab: int | None = None,
    domain: str | None = None,
    bundle: Source | None = None,
    backend: str = "auto",
    precision: str = "auto",
    batch: int | None = None,
    extend: bool = False,
    retry_errors: bool = False,
    verify: int = 0,
    progress: Show | None = None,
) -> Outcome:
    """Encode every recording of `sources` into shards in the folder `output`, each recording once.

    The same call again goes on where the last one ended, however it ended. A shard appears whole or not at all. Its
    bytes depend on the sources, the bundle and the settings, not on the engine, the workers or what went wrong.

    Arguments:
        sources: audio files, folders, patterns, lists (.txt, .jsonl, .csv, .tsv, .parquet), tars or Parquet files with
            audio bytes: paths, or URIs that fsspec opens.
        output: a folder: a path, or a URI.
        engine: "local" works on this machine, "ray" on a Ray cluster (of $RAY_ADDRESS, else one started here).
        workers: processes, or Ray actors. None is 1 locally, and on Ray as many as the cluster holds.
        threads: CPU threads of each worker. None shares all among them locally, and is at most 4 on Ray.
        gpus_per_worker: GPUs of each worker, a fraction if several share one.
        part: (i, n): every n-th shard from the i-th on, i from 1 to n, for n machines that share one folder.
        format: "parquet" or "webdataset".
        shard_hours: hours of sound of a shard. Lengths come from a list, or from every file's header.
        shard_files: recordings of a shard. The default is 1000, unless `shard_hours` is given.
        vocab, domain, bundle, backend, precision, batch: as for `Codec.load` and `Codec.encode`.
        extend: whether recordings that the folder's plan lacks become further shards.
        retry_errors: whether recordings that failed in an earlier run are tried again.
        verify: number of random rows that are encoded again, alone, and compared.
        progress: called with a `progress.Snapshot`.

    With several local workers, a script must guard its call by `if __name__ == "__main__":`.

    Raises AudioError for sources that cannot be read, SettingsError for arguments that cannot work, OutputError for a
    folder of another collection or one that cannot be written, BundleError, BackendError, MissingExtraError. A
    recording that cannot be encoded does not end the run: its row says why.
    """
    started = time.perf_counter()
    require_pyarrow()
    check_arguments(workers, threads, part, format, shard_hours, shard_files, batch, verify)
    chosen = Engine(engine, workers, gpus_per_worker)
    # The driver of a cluster need not have what its workers compute with.
    codec = Codec.load(bundle, backend="auto" if engine == "ray" else backend, precision=precision)
    config = codec.check_encoding(vocab, EncodeOptions(domain))
    settings = {
        "format": format,
        "shard_files": DEFAULT_FILES if shard_hours is None and shard_files is None else shard_files,
        "shard_hours": shard_hours,
        "vocab": config.vocab,
        "domain": domain,
        "backend": backend,
        "precision": precision,
    }
    wanted = Plan(settings, describe_codec(config), fingerprint(codec.bundle.manifest), find_version())
    names = [os.fspath(source) for source in ([sources] if isinstance(sources, (str, os.PathLike)) else sources)]
    items = find_items(names)
    folder = OutputFolder(os.fspath(output))
    plan = agree(folder, wanted, names, items, extend)
    del items
    folder.remove_leftovers()

    shards = Shards(folder, plan, range(part[0] - 1, len(plan.shards), part[1]))
    counts = shards.count()
    todo = [n for n in shards.numbers if n not in counts or (retry_errors and counts[n].errors)]
    follow = Progress(*shards.measure(), progress)
    for number in counts.keys() - set(todo):
        follow.add_earlier(counts[number])
    work = WorkerSettings(folder.uri, str(codec.bundle.path), backend, threads, precision, batch, retry_errors)
    planned = time.perf_counter()
    files = follow.files / max(len(shards.numbers), 1)
    reports = {report.number: report for report in chosen.run(work, todo, files, follow)}
    elapsed = time.perf_counter() - planned
    folder.remove_leftovers()

    counts |= {number: report.counts for number, report in reports.items()}
    verification = None
    if verify:
        worker = Worker(dataclasses.replace(work, backend="auto" if engine == "ray" else backend))
        verification = verify_rows(worker, {n: counts[n].rows - counts[n].errors for n in sorted(counts)}, verify)
    return Outcome(
        output=folder.uri,
        engine=engine,
        files=sum(each.rows for each in counts.values()),
        seconds=sum(each.seconds for each in counts.values()),
        encoded=sum(report.encoded for report in reports.values()),
        encoded_seconds=sum(report.encoded_seconds for report in reports.values()),
        shards=len(counts),
        planning=planned - started,
        elapsed=elapsed,
        failures=list(shards.list_failures(counts, reports)),
        verification=verification,
    )


def check_arguments(
    workers: int | None,
    threads: int | None,
    part: tuple[int, int],
    format: str,
    shard_hours: float | None,
    shard_files: int | None,
    batch: int | None,
    verify: int,
) -> None:
    """Raises SettingsError."""
    if format not in FORMATS:
        raise SettingsError(f"format {format!r}", f"one of {', '.join(FORMATS)}")
    numbers = {"workers": (workers, 1), "threads": (threads, 1), "shard_files": (shard_files, 1), "verify": (verify, 0)}
    for name, (value, least) in numbers.items():
        if value is not None and check_whole(name, value, f"a whole number, at least {least}") < least:
            raise SettingsError(f"{name} {value}", f"a whole number, at least {least}")
    if shard_hours is not None and not (math.isfinite(shard_hours) and shard_hours > 0):
        raise SettingsError(f"shard_hours {shard_hours}", "a number of hours above 0")
    if shard_hours is not None and shard_files is not None:
        raise SettingsError("both hours and files of a shard", "one of them")
    check_batch(batch)
    index, parts = (check_whole("part", value, "two whole numbers") for value in part)
    if not 1 <= index <= parts:
        raise SettingsError(f"part {index}/{parts}", "1/N to N/N")


def require_pyarrow() -> None:
    """Raises MissingExtraError."""
    try:
        import fsspec
        import pyarrow
    except ImportError as error:
        remedy = "pip install 'sc-runtime[collection]'"
        raise MissingExtraError(f"{error.name} is not installed", "pyarrow and fsspec", remedy) from error
    del fsspec, pyarrow


def find_version() -> str:
    from sc_runtime import __version__

    return __version__
