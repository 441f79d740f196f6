"""A server in a process of its own, and what it holds."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from bench.harness.machine import ROOT

PROGRAM = """
import json, sys
from sc_runtime.serving.server import make_server
from sc_runtime.serving.settings import ServeSettings
make_server(ServeSettings.from_mapping(json.loads(sys.argv[1])), port=int(sys.argv[2])).run()
"""
READY_SECONDS = 180
END_SECONDS = 60


@dataclass
class ServedProcess:
    port: int
    process: psutil.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def measure(self) -> dict[str, int]:
        """Resident bytes, file descriptors and threads."""
        with self.process.oneshot():
            memory = self.process.memory_info().rss
            return {"rss_bytes": memory, "descriptors": self.process.num_fds(), "threads": self.process.num_threads()}

    def read_metrics(self) -> dict[str, float]:
        """Samples of /metrics by name and labels."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}


@contextmanager
def serve_process(**settings: Any) -> Iterator[ServedProcess]:
    """A ready server with these `ServeSettings`. At the block's end it gets SIGTERM, and must exit with 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", PROGRAM, json.dumps(settings), str(port)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            served = ServedProcess(port, psutil.Process(process.pid))
            wait_ready(served.url, process)
            yield served
            process.terminate()
            code = process.wait(END_SECONDS)
            assert code == 0, f"the server ended with {code}"
        finally:
            process.kill()


def wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, "the server ended before it was ready"
        assert time.monotonic() < deadline, "the server is not ready"
        time.sleep(0.1)
