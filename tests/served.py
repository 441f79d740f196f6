"""A server in a thread of the test's process, on a port of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from sc_runtime.serving.server import Server, make_server
from sc_runtime.serving.service import Service
from sc_runtime.serving.settings import Limits, ServeSettings

__all__ = ["Limits", "ServeSettings", "Served", "serving", "wait_until"]


@dataclass
class Served:
    server: Server
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    @property
    def service(self) -> Service:
        service: Service = self.server.app.state.service
        return service

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, headers=headers)

    def wait_idle(self, seconds: float = 20.0) -> None:
        """Wait until no request is left and the worker has no decoding."""
        wait_until(lambda: not self.service.admission.tickets and not self.service.worker.jobs, seconds)


@contextmanager
def serving(settings: ServeSettings, wait_ready: bool = True) -> Iterator[Served]:
    server = make_server(settings, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 20)
    served = Served(server, server.servers[0].sockets[0].getsockname()[1])
    try:
        if wait_ready:
            wait_until(served.service.loaded.is_set, 120)
        yield served
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def wait_until(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)
