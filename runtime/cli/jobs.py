"""What a command reads and where it writes: inputs and `-o` become jobs, before anything is computed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from sc_runtime.audio import audio_writer
from sc_runtime.codec import load_tokens
from sc_runtime.config import CodecConfig
from sc_runtime.errors import AudioError, CodecError, OutputError, SettingsError, TokensError
from sc_runtime.token_files import MAGIC
from sc_runtime.tokens import Tokens

STANDARD = "-"  #: standard input or output
TOKEN_SUFFIXES = (".sct", ".npy")  #: of token files; the first is the one made


@dataclass(frozen=True)
class Job:
    """One input and the output made of it; None is standard input and standard output."""

    source: Path | None
    target: Path | None
    makes_folders: bool = False  #: whether the target lies in a folder that may be created

    @property
    def name(self) -> str:
        return "standard input" if self.source is None else str(self.source)

    def is_done(self) -> bool:
        """Whether the output exists, which is then whole: nothing is written in part. A lost input is for an error."""
        return self.target is not None and self.target.is_file() and (self.source is None or self.source.exists())

    def check_target(self) -> None:
        """Find out before the work whether its output could be written. Raises `OutputError`."""
        if self.target is None:
            return
        if self.target.is_dir():
            raise OutputError(f"{self.target}: a folder", "the name of a file", "choose another name")
        folder = next((folder for folder in self.target.parents if folder.exists()), self.target.parent)
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{self.target}: {folder} is not writable", "a folder that is", "name another with -o")

    def make_folders(self) -> None:
        if self.makes_folders and self.target is not None:
            try:
                self.target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{error.filename}: {error.strerror}", "a folder that can be made") from error

    def read_tokens(self, config: CodecConfig) -> Tokens:
        """The input's tokens: an .sct says what it is, an .npy is taken to be of `config`. Raises `TokensError`."""
        if self.source:
            return load_tokens(self.source, config)
        stream = open_input()
        is_container = stream.peek(1)[:1] == MAGIC[:1]
        return Tokens.read(stream, None if is_container else config)

    def write_tokens(self, tokens: Tokens) -> None:
        """Write the output, whole or not at all. Raises `OutputError`."""
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
        """Write the output, whole or not at all, in pieces as they come. Raises `OutputError`."""
        self.make_folders()
        with audio_writer(self.target or sys.stdout.buffer, sample_rate) as writer:
            for piece in pieces:
                writer.write(piece)


def peek_config(jobs: list[Job]) -> CodecConfig | None:
    """What the first .sct file among the inputs is of; None where there is none, or it cannot be read."""
    source = next((job.source for job in jobs if job.source and job.source.suffix.lower() == TOKEN_SUFFIXES[0]), None)
    try:
        return Tokens.load(source).config if source else None
    except TokensError:  # which decoding will meet again
        return None


def plan_jobs(
    inputs: list[str],
    output: str | None,
    find: Callable[[Path], list[Path]],
    suffixes: Iterable[str],
    ending: str = "",
) -> tuple[list[Job], list[CodecError]]:
    """Jobs for `inputs`, and what is wrong with folders among them that `find` finds nothing in.

    `suffixes` are those an output may have; without `output` it stands beside its input, its suffix replaced by
    `ending`, the first of `suffixes` by default. `output` is a file for one file, a folder for several inputs or for
    a folder, whose sub-folders are kept. Raises SettingsError or OutputError where that cannot work.
    """
    suffixes = tuple(suffixes)
    ending = ending or suffixes[0]
    if "" in inputs:
        raise SettingsError("an input without a name", "a file or a folder")
    if len(inputs) > 1 or (inputs[0] != STANDARD and Path(inputs[0]).is_dir()):
        return plan_collection(inputs, output, find, suffixes, ending)
    source = None if inputs[0] == STANDARD else Path(inputs[0])
    if output == STANDARD or (output is None and source is None):
        if sys.stdout is None or sys.stdout.isatty():
            state = "closed" if sys.stdout is None else "a terminal"
            raise OutputError(f"standard output is {state}", "a file or a pipe", "name a file with -o")
        return [Job(source, None)], []
    if source and (output is None or is_folder(output)):
        folder = Path(output) if output else source.parent
        return [Job(source, folder / replace_suffix(source.name, ending), makes_folders=bool(output))], []
    target = Path(output or "")
    check_suffix(target, suffixes)
    if not target.parent.is_dir():
        raise OutputError(f"{target}: no folder {target.parent}", "a folder that exists", "make it first")
    return [Job(source, target)], []


def plan_collection(
    inputs: list[str],
    output: str | None,
    find: Callable[[Path], list[Path]],
    suffixes: tuple[str, ...],
    ending: str,
) -> tuple[list[Job], list[CodecError]]:
    """`plan_jobs` for several inputs or a folder."""
    if STANDARD in (*inputs, output):
        raise SettingsError("- together with several inputs", "one input for standard input or output")
    if output and not is_folder(output) and (Path(output).exists() or Path(output).suffix.lower() in suffixes):
        raise OutputError(f"{output}: one file for several inputs", "a folder", "name a folder with -o")
    jobs: dict[Path, Job] = {}
    problems: list[CodecError] = []
    for path in map(Path, inputs):
        root, found = path.parent, [path]
        if path.is_dir():
            try:
                root, found = path, find(path)
            except CodecError as error:
                problems.append(error)
                continue
        for source in found:
            folder = Path(output) / source.parent.relative_to(root) if output else source.parent
            target = folder / replace_suffix(source.name, ending)
            other = jobs.setdefault(target, Job(source, target, makes_folders=bool(output))).source
            if other and os.path.realpath(other) != os.path.realpath(source):
                given = f"{other} and {source} would both become {target}"
                raise SettingsError(given, "one output for each input", "name them one at a time, with -o")
    return list(jobs.values()), problems


def find_tokens(folder: Path) -> list[Path]:
    """Token files in `folder` and the folders in it, sorted; hidden ones are left out. Raises `TokensError`."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in TOKEN_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise TokensError(f"{folder}: no tokens in this folder", "files in " + " ".join(TOKEN_SUFFIXES))
    return found


def find_nothing(folder: Path) -> list[Path]:
    """For a command that takes no folders. Raises `AudioError`."""
    raise AudioError(f"{folder}: a folder", "one audio file")


def check_suffix(target: Path, suffixes: tuple[str, ...]) -> None:
    if target.suffix.lower() not in suffixes:
        expected = " or ".join(filter(None, [", ".join(suffixes[:-1]), suffixes[-1]]))
        raise OutputError(f"{target}: suffix {target.suffix!r}", f"{expected}, or a folder that exists")


def replace_suffix(name: str, ending: str) -> str:
    return Path(name).stem + ending


def is_folder(output: str) -> bool:
    return Path(output).is_dir() or output.endswith(("/", os.sep))


def open_input() -> BufferedReader:
    """Standard input, binary. Raises `SettingsError` where there is none."""
    if sys.stdin is None or not isinstance(sys.stdin.buffer, BufferedReader):
        raise SettingsError("standard input is closed", "a file or a pipe")
    return sys.stdin.buffer
