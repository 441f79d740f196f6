"""Memory that the server freed goes back to the system."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from sc_runtime.serving.memory import VARIABLES, return_freed_memory

PROGRAM = """
import numpy as np
from sc_runtime.serving.memory import return_freed_memory

print(return_freed_memory())
np.ones(2**21 + 1, np.uint8)  # freed at once: now glibc by itself would take such arrays from an arena
arrays, held = [], []
for _ in range(100):
    arrays.append(np.ones(2**21, np.uint8))
    held.append(bytes(100_000))  # what is in use between the arrays
del arrays
print(int(open("/proc/self/statm").read().split()[1]) * 4096)
"""


def measure(**variables: str) -> tuple[bool, int]:
    """Whether the settings were made, and the resident bytes after 200 MB of arrays were freed."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**given, **variables})
    made, resident = run.stdout.split()
    return made == "True", int(resident)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="needs glibc")
def test_freed_arrays_are_returned_to_the_system() -> None:
    made, resident = measure()
    assert made
    made, kept = measure(MALLOC_ARENA_MAX="16")  # the user's choice stays, and shows what happens without the settings
    assert not made
    assert kept > resident + 150_000_000


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As musl, which has the name by which glibc is found."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert return_freed_memory(SimpleNamespace()) is False
