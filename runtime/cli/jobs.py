"""A job is one input and the output made from it. `run_jobs` does the jobs of a command and reports on them."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import typer

from sc_runtime.audio import audio_writer
from sc_runtime.config import CodecConfig
from sc_runtime.errors import AudioError, CodecError, OutputError, SettingsError, TokensError
from sc_runtime.files import make_folder
from sc_runtime.token_files import is_container
from sc_runtime.token_sources import load_tokens
from sc_runtime.tokens import Tokens

from .console import Console, ShowProgress


@dataclass(frozen=True)
class Job:
    """One input and the output made from it; None is standard input and standard output."""

    source: Path | None
    target: Path | None
    root: Path | None = None  #: the output folder, in and below which folders may be made. None: none are made
    is_named: bool = False  #: whether the user named `target`; otherwise its name follows from that of `source`

    @property
    def name(self) -> str:
        return "standard input" if self.source is None else str(self.source)

    def is_done(self) -> bool:
        """Whether the output exists and is not empty. It is whole then, as nothing is written in part.

        A missing input is an error.
        """
        if self.target is None or not (self.source is None or self.source.exists()):
            return False
        return self.target.is_file() and self.target.stat().st_size > 0

    def check_target(self) -> None:
        """Raises OutputError if the output cannot be written, as far as that is visible before the work."""
        if self.target is None:
            return
        if self.target.is_dir():
            raise OutputError(f"{self.target}: a folder", "the name of a file", "choose another name")
        check_folder(self.target)
        folder = next((folder for folder in self.target.parents if folder.exists()), self.target.parent)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{self.target}: {folder} is not writable", "a folder that is", "name another with -o")

    def make_folders(self) -> None:
        """Make the folder of the output, if the job may. Raises OutputError."""
        if self.root is not None and self.target is not None:
            make_folder(self.target.parent, self.root)

    def read_tokens(self, config: CodecConfig) -> Tokens:
        """The input's tokens. An .sct file states its settings; an .npy file gets `config`. Raises TokensError."""
        if self.source:
            return load_tokens(self.source, config)
        stream = open_input()
        return Tokens.read(stream, None if is_container(stream.peek(1)) else config)

    def write_tokens(self, tokens: Tokens) -> None:
        """Write the output, whole or not at all. Raises OutputError."""
        if self.target:
            self.make_folders()
            tokens.save(self.target)
            return
        try:
            sys.stdout.buffer.write(tokens.to_bytes())
            sys.stdout.buffer.flush()
        except OSError as error:
            given = f"standard output: {error.strerror}"
            raise OutputError(given, "an output that takes the tokens") from error

    def write_audio(self, pieces: Iterable[np.ndarray], sample_rate: int) -> None:
        """Write the output, whole or not at all: `pieces`, each float32 [n] at `sample_rate` Hz. Raises OutputError."""
        self.make_folders()
        with audio_writer(self.target or sys.stdout.buffer, sample_rate) as writer:
            for piece in pieces:
                writer.write(piece)


@dataclass(frozen=True)
class Plan:
    """The jobs of a command.

    problems: the errors of inputs that make no job.
    notes: what the user should know about the other inputs.
    """

    jobs: list[Job]
    problems: list[CodecError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find_inputs(self) -> dict[FileIdentity, str]:
        """Identity of each input's file -> its name. All names and links of a file have one identity."""
        found = ((identify(job.source), job.name) for job in self.jobs)
        return {identity: name for identity, name in found if identity}


FileIdentity = tuple[int, int]  #: device and inode
Facts = dict[str, Any]  #: name -> value, of what is printed about one job
Work = Callable[[Job, ShowProgress | None], Facts]  #: does one job


def identify(path: Path | None) -> FileIdentity | None:
    """The identity of the file at `path`; None is standard input. Returns None if there is no regular file."""
    try:
        status = os.fstat(open_input().fileno()) if path is None else path.stat()
    except (OSError, ValueError, SettingsError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def check_folder(target: Path) -> None:
    """Raises OutputError if a file stands where a folder of `target` would be."""
    taken = next((folder for folder in target.parents if folder.exists() and not folder.is_dir()), None)
    if taken:
        raise OutputError(f"{target}: {taken} is a file", "a folder there", "name another output with -o")


def open_input() -> BufferedReader:
    """Standard input, binary. Raises SettingsError if it is closed."""
    if sys.stdin is None or not isinstance(sys.stdin.buffer, BufferedReader):
        raise SettingsError("standard input is closed", "a file or a pipe")
    return sys.stdin.buffer


def run_jobs(
    console: Console, plan: Plan, start: Callable[[list[Job]], Work], force: bool, document: Facts
) -> list[Facts]:
    """Do the jobs of `plan`, and report on each of them. Exits with 1 if one failed.

    Arguments:
        start: called with the jobs to do. It returns a function that does one job, and that is called in their order.
        force: whether a job whose output exists is done again.
        document: the facts of the whole command. JSON holds them beside those of the jobs.

    Returns the facts of every problem and every job. AudioError, TokensError and OutputError concern one job, and the
    others go on. Any other error ends the run.
    """
    if console.as_json and any(job.target is None for job in plan.jobs):
        raise SettingsError("--json with the output on standard output", "one of them", "name a file with -o")
    for text in plan.notes:
        console.note(text)
    records = [fail(console, error) for error in plan.problems]
    inputs, todo = plan.find_inputs(), []
    for job in plan.jobs:
        record = begin_record(console, job, inputs, force)
        records.append(record)
        if "status" not in record:
            todo.append((job, record))
    work = start([job for job, _ in todo])
    started = time.perf_counter()
    for number, (job, record) in enumerate(todo):
        with console.follow(job.name, len(plan.jobs) - len(todo) + number, len(plan.jobs)) as progress:
            record |= run_job(console, job, work, progress)
        if record["status"] == "written" and job.target:
            took = f"; took {record['elapsed']:.1f} s" if len(todo) == 1 else ""
            length, bitrate = f"{record['seconds']:.2f} s, {record['positions']} positions", record["bitrate"] / 1000
            console.result(f"{job.target}: {length}, {bitrate:.3g} kbps{took}")
    elapsed = time.perf_counter() - started
    if len(todo) > 1:
        states = [record["status"] for record in records]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states, reverse=True)))
        seconds = sum(record.get("seconds", 0.0) for record in records)
        console.result(f"{counts}: {seconds:.2f} s of sound; took {elapsed:.1f} s")
    console.finish({**document, "elapsed": elapsed, "files": records})
    if any(record["status"] == "failed" for record in records):
        raise typer.Exit(1)
    return records


def begin_record(console: Console, job: Job, inputs: dict[FileIdentity, str], force: bool) -> Facts:
    """The first facts of `job`. They have a "status" if there is nothing to do: the output exists, or cannot be made.

    inputs: those of all jobs. An output must not be one of them.
    """
    record: Facts = {"input": str(job.source or "-"), "output": str(job.target or "-")}
    identity = identify(job.target) if job.target else None
    if replaced := identity and inputs.get(identity):
        error = OutputError(f"{job.target}: the input {replaced}", "an output that is no input", "name another with -o")
        return record | fail(console, error, job.name)
    if job.is_done() and not force:
        if job.is_named:  # the file does not state what it was made from, and `-o` may name that of another recording
            remedy = "name another with -o, or replace it with --force"
            return record | fail(
                console, OutputError(f"{job.target}: it exists already", "a new file", remedy), job.name
            )
        console.note(f"kept {job.target}, so {job.name} was not read (-o names another output, --force replaces it)")
        return record | {"status": "kept"}
    try:
        job.check_target()
    except OutputError as error:
        return record | fail(console, error, job.name)
    return record


def run_job(console: Console, job: Job, work: Work, progress: ShowProgress | None) -> Facts:
    """Do `job`. Returns its facts, with "status" and "elapsed".

    "elapsed" is the time since the job before: recordings may be encoded together.
    """
    started = time.perf_counter()
    try:
        facts = work(job, progress)
    except (AudioError, TokensError, OutputError) as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise
        return fail(console, error, job.name)
    return {"status": "written", **facts, "elapsed": time.perf_counter() - started}


def fail(console: Console, error: CodecError, name: str = "") -> Facts:
    """Print `error`, which is about the input `name`. Returns the facts of a failure."""
    text = str(error) if name in str(error) else f"{name}: {error}"
    console.error(text)
    return {"status": "failed", "error": text}
