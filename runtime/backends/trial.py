"""A trial runs what may hang or abort on the GPU in a child process. The last line of its output is the result."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from sc_runtime.errors import first_line


def run_child(command: Sequence[str], seconds: float) -> tuple[str | None, str]:
    """(the last line of a child's standard output, ""), or (None, why there is none). It is killed after `seconds`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"a trial failed: {first_line(error)}"
    said = done.stdout.strip().splitlines()
    if done.returncode == 0 and said:
        return said[-1], ""
    lines = [*said, *done.stderr.strip().splitlines()]
    return None, f"a trial ended with code {done.returncode}: {lines[-1] if lines else 'it printed nothing'}"
