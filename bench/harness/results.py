"""Files of results: JSON with the machine's record, numbers of six digits, lists of numbers in one line."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from sc_runtime.files import write_atomically

from .machine import ROOT, describe_commit, describe_machine, list_versions

RESULTS = ROOT / "bench" / "results"
NUMBERS = re.compile(r"\[[^][{}\"]*\]")  #: a JSON list without strings, lists or objects
#: Absolute paths in an argument: "/a", "/a,/b", "--out=/a", "-o/a", "file:///a".
PATHS = re.compile(r"(?:(?<![^=,])|(?<=://)|(?<=^-\w))(?:/|[A-Za-z]:[\\/])[^,]*")


def describe_run(*packages: str) -> dict[str, Any]:
    """`date`, `commit`, `machine` and `versions` of a run. The versions include those of `packages`.

    Call it before anything is measured: it records the load of the machine.
    """
    return {
        "date": name_moment(),
        "commit": describe_commit(),
        "machine": describe_machine(),
        "versions": list_versions(*packages),
    }


def name_moment() -> str:
    """The time now, ISO 8601, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def describe_command(*program: str) -> str:
    """The command line of this process, as a user would repeat it: "python", `program`, the arguments.

    Results are published, so a path in the checkout begins at its root, and another absolute path is only a name.
    """
    return " ".join(["python", *program, *map(shorten_paths, sys.argv[1:])])


def shorten_paths(argument: str) -> str:
    """An argument in which absolute paths are paths from the root of the checkout, or names."""

    def shorten(found: re.Match[str]) -> str:
        path = Path(found[0])
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name

    return PATHS.sub(shorten, argument)


def write_results(path: Path, document: dict[str, Any]) -> None:
    """Write `document` to `path`, in folders that are made where they are missing. Raises OutputError."""
    text = json.dumps(round_floats(document), indent=1, ensure_ascii=False, default=np.generic.item)
    text = NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (text + "\n").encode())


def round_floats(value: Any) -> Any:
    """`value`, a tree of dictionaries and lists, with every float rounded to six significant digits."""
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: round_floats(entry) for key, entry in value.items()}
    return [round_floats(entry) for entry in value] if isinstance(value, (list, tuple)) else value
