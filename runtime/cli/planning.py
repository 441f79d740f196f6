"""What a command reads and where it writes: inputs and -o become jobs before anything is computed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from sc_runtime.audio.folders import Scan, scan_folder
from sc_runtime.config import CodecConfig
from sc_runtime.errors import AudioError, CodecError, OutputError, SettingsError, TokensError
from sc_runtime.tokens import Tokens

from .jobs import Job, Plan, check_folder

STANDARD = "-"  #: standard input or output
TOKEN_SUFFIXES = (".sct", ".npy")  #: of token files; the first is the default


def plan_jobs(
    inputs: list[str],
    output: str | None,
    scan: Callable[[Path], Scan],
    suffixes: Iterable[str],
    ending: str = "",
) -> Plan:
    """Jobs for `inputs`, and what is wrong with some of them.

    Arguments:
        inputs: files, folders, or "-".
        output: a file for one file; a folder for several inputs, or for a folder, whose sub-folders are kept. None
            writes each output beside its input.
        scan: finds the files in a folder. Raises CodecError if there are none.
        suffixes: the suffixes that an output may have.
        ending: replaces the suffix of an input to name its output. "" uses the first of `suffixes`.

    Raises SettingsError or OutputError if no job can work.
    """
    suffixes = tuple(suffixes)
    ending = ending or suffixes[0]
    if "" in inputs:
        raise SettingsError("an input without a name", "a file or a folder")
    if len(inputs) > 1 or (inputs[0] != STANDARD and Path(inputs[0]).is_dir()):
        return plan_several(inputs, output, scan, suffixes, ending)
    source = None if inputs[0] == STANDARD else Path(inputs[0])
    if output == STANDARD or (output is None and source is None):
        if sys.stdout is None or sys.stdout.isatty():
            state = "closed" if sys.stdout is None else "a terminal"
            raise OutputError(f"standard output is {state}", "a file or a pipe", "name a file with -o")
        return Plan([Job(source, None)])
    if source and (output is None or is_folder(output)):
        folder = Path(output) if output else source.parent
        return Plan([Job(source, folder / replace_suffix(source.name, ending), folder if output else None)])
    target = Path(output or "")
    check_suffix(target, suffixes)
    if not target.parent.is_dir():
        check_folder(target)
        raise OutputError(f"{target}: no folder {target.parent}", "a folder that exists", "make it first")
    return Plan([Job(source, target, is_named=True)])


def plan_several(
    inputs: list[str],
    output: str | None,
    scan: Callable[[Path], Scan],
    suffixes: tuple[str, ...],
    ending: str,
) -> Plan:
    """`plan_jobs` for several inputs or a folder. Two inputs with the same output are a problem and make no job."""
    if STANDARD in (*inputs, output):
        raise SettingsError("- together with several inputs", "one input for standard input or output")
    if output and not is_folder(output) and (Path(output).exists() or Path(output).suffix.lower() in suffixes):
        raise OutputError(f"{output}: one file for several inputs", "a folder", "name a folder with -o")
    plan = Plan([])
    jobs: dict[str, list[Job]] = {}  #: by the file that is written, whatever its spelling
    for path in map(Path, inputs):
        root, found = path.parent, [path]
        if path.is_dir():
            try:
                scanned = scan(path)
            except CodecError as error:
                plan.problems.append(error)
                continue
            root, found = path, scanned.files
            plan.problems.extend(AudioError(text, "a folder that can be listed") for text in scanned.errors)
            if scanned.left_out:
                plan.notes.append(f"note: {path}: left out {scanned.describe_left_out()}")
        for source in found:
            folder = Path(output) / source.parent.relative_to(root) if output else source.parent
            job = Job(source, folder / replace_suffix(source.name, ending), Path(output) if output else None)
            same = jobs.setdefault(os.path.realpath(job.target or ""), [])
            if os.path.realpath(source) not in (os.path.realpath(other.name) for other in same):
                same.append(job)
    for same in jobs.values():
        if len(same) == 1:
            plan.jobs.append(same[0])
        else:
            names, number = " and ".join(job.name for job in same), "both" if len(same) == 2 else "all"
            given = f"{names} would {number} become {same[0].target}"
            plan.problems.append(SettingsError(given, "one output for each input", "name them one at a time, with -o"))
    return plan


def peek_config(jobs: list[Job]) -> CodecConfig | None:
    """The settings of the first .sct file among the inputs. None if there is none, or it cannot be read."""
    source = next((job.source for job in jobs if job.source and job.source.suffix.lower() == TOKEN_SUFFIXES[0]), None)
    try:
        return Tokens.load(source).config if source else None
    except TokensError:  # decoding reports it
        return None


def scan_tokens(folder: Path) -> Scan:
    """Find the token files in `folder`. Raises TokensError if there are none."""
    scan = scan_folder(folder, TOKEN_SUFFIXES)
    if not scan.files:
        detail = f" ({scan.explain()})" if scan.explain() else ""
        raise TokensError(f"{folder}: no tokens in this folder{detail}", "files in " + " ".join(TOKEN_SUFFIXES))
    return scan


def refuse_folder(folder: Path) -> Scan:
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
