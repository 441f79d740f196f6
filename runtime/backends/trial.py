"""Trials: a child process tries on the GPU what may hang or abort, and its last line says what it found."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from sc_runtime.errors import first_line


def run_child(command: Sequence[str], seconds: float) -> tuple[str | None, str]:
    """The last line of a child's standard output, or None and why there is none. After `seconds` it is killed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"a trial failed: {first_line(error)}"
    said = done.stdout.strip().splitlines()
    if done.returncode == 0 and said:
        return said[-1], ""
    lines = [*said, *done.stderr.strip().splitlines()]
    return None, f"a trial ended with code {done.returncode}: {lines[-1] if lines else 'it printed nothing'}"
