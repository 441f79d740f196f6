"""What a command reads and where it writes: inputs and -o become jobs before anything is computed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from sc_runtime.config import CodecConfig
from sc_runtime.errors import AudioError, CodecError, OutputError, SettingsError, TokensError
from sc_runtime.tokens import Tokens

from .jobs import Job, Plan

STANDARD = "-"  #: standard input or output
TOKEN_SUFFIXES = (".sct", ".npy")  #: of token files; the first is the default


def plan_jobs(
    inputs: list[str],
    output: str | None,
    find: Callable[[Path], list[Path]],
    suffixes: Iterable[str],
    ending: str = "",
) -> Plan:
    """Jobs for `inputs`, and the errors of folders among them.

    Arguments:
        inputs: files, folders, or "-".
        output: a file for one file; a folder for several inputs, or for a folder, whose sub-folders are kept. None
            writes each output beside its input.
        find: finds the files in a folder. Raises CodecError if there are none.
        suffixes: those that an output may have.
        ending: replaces the suffix of an input to name its output. "" is the first of `suffixes`.

    Raises SettingsError or OutputError if that cannot work.
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
        return Plan([Job(source, None)], [])
    if source and (output is None or is_folder(output)):
        folder = Path(output) if output else source.parent
        return Plan([Job(source, folder / replace_suffix(source.name, ending), makes_folders=bool(output))], [])
    target = Path(output or "")
    check_suffix(target, suffixes)
    if not target.parent.is_dir():
        raise OutputError(f"{target}: no folder {target.parent}", "a folder that exists", "make it first")
    return Plan([Job(source, target)], [])


def plan_collection(
    inputs: list[str],
    output: str | None,
    find: Callable[[Path], list[Path]],
    suffixes: tuple[str, ...],
    ending: str,
) -> Plan:
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
    return Plan(list(jobs.values()), problems)


def peek_config(jobs: list[Job]) -> CodecConfig | None:
    """The settings of the first .sct file among the inputs. None if there is none, or it cannot be read."""
    source = next((job.source for job in jobs if job.source and job.source.suffix.lower() == TOKEN_SUFFIXES[0]), None)
    try:
        return Tokens.load(source).config if source else None
    except TokensError:  # decoding reports it
        return None


def find_tokens(folder: Path) -> list[Path]:
    """Token files in `folder` and the folders in it, sorted. Hidden files are left out. Raises TokensError."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in TOKEN_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise TokensError(f"{folder}: no tokens in this folder", "files in " + " ".join(TOKEN_SUFFIXES))
    return found


def find_nothing(folder: Path) -> list[Path]:
    """For a command that takes no folders. Raises AudioError."""
    raise AudioError(f"{folder}: a folder", "one audio file")


def check_suffix(target: Path, suffixes: tuple[str, ...]) -> None:
    """Raises OutputError if `target` has none of `suffixes`."""
    if target.suffix.lower() not in suffixes:
        expected = " or ".join(filter(None, [", ".join(suffixes[:-1]), suffixes[-1]]))
        raise OutputError(f"{target}: suffix {target.suffix!r}", f"{expected}, or a folder that exists")


def replace_suffix(name: str, ending: str) -> str:
    return Path(name).stem + ending


def is_folder(output: str) -> bool:
    return Path(output).is_dir() or output.endswith(("/", os.sep))
