"""`sc-runtime tokenize`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from sc_runtime.errors import SettingsError, one_line
from sc_runtime.spec import EncodeOptions

from .console import Console
from .options import BackendName, BundleName, Json, Precision, Vocabulary, spread_options
from .program import muted_libraries

if TYPE_CHECKING:
    from sc_runtime.collection.outcome import Outcome
    from sc_runtime.collection.progress import Show, Snapshot

SHOWN_FILES = 5  #: files that are listed for each kind of error
UPDATE_SECONDS = 0.1  #: between two updates of the progress


@spread_options()
def tokenize(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Audio files, folders, patterns, lists (.txt, .jsonl, .csv, .tsv, .parquet), tars, or Parquet files "
            "with audio bytes: paths, or URIs such as s3://bucket/folder.",
        ),
    ],
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="The folder of the shards: a path, or a URI.")
    ],
    engine: Annotated[str, typer.Option(help="local, or ray: the cluster of $RAY_ADDRESS, or one on this machine.")] = (
        "local"
    ),
    workers: Annotated[
        int | None,
        typer.Option(help="Processes, by default 1; on ray as many as the cluster holds.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each worker; on ray at most 4 by default.", show_default=False)
    ] = None,
    gpus_per_worker: Annotated[
        float, typer.Option(metavar="X", help="GPUs of each worker, a fraction if several share one.")
    ] = 0.0,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="Every N-th shard from the I-th on, for N machines that share OUT.")
    ] = "1/1",
    format: Annotated[str, typer.Option(help="parquet or webdataset.")] = "parquet",
    shard_hours: Annotated[
        float | None, typer.Option(metavar="H", help="Hours of sound per shard.", show_default=False)
    ] = None,
    shard_files: Annotated[
        int | None, typer.Option(metavar="N", help="Recordings per shard, by default 1000.", show_default=False)
    ] = None,
    vocab: Vocabulary = None,
    options: EncodeOptions,
    bundle: BundleName = None,
    backend: BackendName = "auto",
    precision: Precision = "auto",
    batch: Annotated[
        int | None, typer.Option(help="Windows that run together. It does not change tokens.", show_default=False)
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="Add recordings that OUT lacks, as further shards.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Try recordings again that failed in an earlier run.")
    ] = False,
    verify: Annotated[
        int, typer.Option(metavar="K", help="Encode K random recordings again, alone, and compare.", show_default=False)
    ] = 0,
    as_json: Json = False,
) -> None:
    """Turn a collection into shards of tokens, each recording once.

    The same command again goes on where the last one ended, however it ended. Recordings that cannot be encoded do not
    end the run: their rows state the error. The exit code is 1 if --verify finds a difference.
    """
    from sc_runtime.collection.tokenize import tokenize_collection

    with Console(as_json) as console, show_progress() as show, muted_libraries():
        outcome = tokenize_collection(
            sources,
            output,
            engine=engine,  # type: ignore[arg-type]  # checked there
            workers=workers,
            threads=threads,
            gpus_per_worker=gpus_per_worker,
            part=parse_part(part),
            format=format,  # type: ignore[arg-type]  # checked there
            shard_hours=shard_hours,
            shard_files=shard_files,
            vocab=vocab,
            domain=options.domain,
            bundle=bundle,
            backend=backend,
            precision=precision,
            batch=batch,
            extend=extend,
            retry_errors=retry_errors,
            verify=verify,
            progress=show,
        )
    report_outcome(console, outcome)
    if outcome.verification and outcome.verification.differing:
        raise typer.Exit(1)


def parse_part(text: str) -> tuple[int, int]:
    """ "3/16" -> (3, 16). Raises SettingsError."""
    index, slash, parts = text.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal()):
        raise SettingsError(f"part {text!r}", "I/N, such as 3/16")
    return int(index), int(parts)


@contextmanager
def show_progress() -> Iterator[Show | None]:
    """Yield a function that shows progress on stderr. Without a terminal it is None."""
    import sys
    import time

    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn

    columns = BarColumn(bar_width=10), TextColumn("{task.fields[detail]}", markup=False)
    terminal = RichConsole(stderr=True, highlight=False)
    with Progress(*columns, console=terminal, transient=True, redirect_stdout=False, redirect_stderr=False) as bars:
        task = bars.add_task("", total=None, detail="planning")
        updated = 0.0

        def show(snapshot: Snapshot) -> None:
            nonlocal updated
            now = time.perf_counter()
            if now - updated > UPDATE_SECONDS or snapshot.done == snapshot.files:
                updated = now
                bars.update(task, total=snapshot.files, completed=snapshot.done, detail=format_snapshot(snapshot))

        yield show


def format_snapshot(snapshot: Snapshot) -> str:
    """The progress on one line."""
    left = "" if snapshot.hours_left is None else f", {snapshot.hours_left:.2f} h left"
    errors = f", {snapshot.errors} errors" if snapshot.errors else ""
    eta = "" if snapshot.eta is None else f", ETA {format_time(snapshot.eta)}"
    speed = f"{snapshot.speed:.3g} × real time, {snapshot.files_per_second:.3g} files/s"
    return f"{snapshot.done}/{snapshot.files}{errors}{eta}, {snapshot.hours_done:.2f} h done{left}, {speed}"


def format_time(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03"."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def report_outcome(console: Console, outcome: Outcome) -> None:
    """Print the errors by kind, the verification and the sum."""
    for kind, failures in outcome.errors_by_kind.items():
        console.note(f"{len(failures)} recordings: {kind}")
        for failure in failures[:SHOWN_FILES]:
            console.note(f"  {one_line(failure.source)}: {failure.reason}")
        if len(failures) > SHOWN_FILES:
            console.note(f"  and {len(failures) - SHOWN_FILES} more; --json lists all")
    facts = outcome.to_json()
    if outcome.verification:
        differing = outcome.verification.differing
        text = f"{outcome.verification.rows} recordings encoded again, alone: "
        console.result(text + (f"{len(differing)} differ: {', '.join(differing)}" if differing else "all codes equal"))
    held = f"{outcome.files} recordings, {outcome.seconds / 3600:.2f} h, {len(outcome.failures)} errors"
    speed = f"{outcome.encoded} encoded in {outcome.elapsed:.1f} s, {facts['real_time_factor']:.3g} × real time"
    console.result(f"{outcome.output}: {held}, {outcome.shards} shards; {speed}")
    console.finish(facts)
