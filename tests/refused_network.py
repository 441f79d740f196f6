"""Child processes without a network: what they try to reach is refused and noted, in whatever language it is written.

A library that is loaded before the C library's own functions takes the place of `connect`, `sendto` and `getaddrinfo`.
Addresses of this machine and local sockets stay. Needs Linux and g++.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

CAN_REFUSE = sys.platform.startswith("linux") and shutil.which("g++") is not None
needs_refusal = pytest.mark.skipif(not CAN_REFUSE, reason="NO NETWORK WAS REFUSED: this needs Linux and g++")


@dataclass(frozen=True)
class RefusedNetwork:
    """`variables` of the environment that a child process and all of its own start with."""

    variables: dict[str, str]
    log: Path

    @property
    def attempts(self) -> list[str]:
        """What was refused, such as "connect 192.0.2.1", in order."""
        return [line for line in self._read() if line != "loaded"]

    @property
    def processes(self) -> int:
        """How many programs have run under the refusal so far."""
        return self._read().count("loaded")

    def _read(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def refuse_network(folder: Path) -> RefusedNetwork:
    """Compile the library into `folder`, where the log lies too."""
    library, log = folder / "refused_network.so", folder / "network.log"
    source = ROOT / "tests" / "refused_network.cpp"
    subprocess.run(
        ["g++", "-O2", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Werror", source, "-o", library, "-ldl"], check=True
    )
    return RefusedNetwork({"LD_PRELOAD": str(library), "NETWORK_LOG": str(log)}, log)
