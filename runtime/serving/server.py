"""The process: uvicorn, its bounds, and its end on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from .app import create_app
from .protocol import HEAD_BYTES, BoundedProtocol
from .service import Service
from .settings import ServeSettings

KEEP_SECONDS = 30  #: that a connection is kept for another request; longer than clients keep theirs
LAST_SECONDS = 2.0  #: between the end of the time to drain and the end of what has not stopped by itself


class Server(uvicorn.Server):
    """uvicorn, which on SIGTERM or SIGINT finishes what runs and refuses the rest.

    After `drain_seconds` what still runs is answered with 503, or cut. A second signal does that at once.
    """

    def __init__(self, app: FastAPI, config: uvicorn.Config, drain_seconds: float) -> None:
        super().__init__(config)
        self.app, self.drain_seconds = app, drain_seconds

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Without uvicorn's second delivery of the signal, so that a server that was asked to end exits with 0."""
        if threading.current_thread() is not threading.main_thread():  # which alone receives signals
            yield
            return
        signals = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(each, self.handle_exit) for each in signals]
        try:
            yield
        finally:
            for each, handler in zip(signals, before, strict=True):
                signal.signal(each, handler)

    async def shutdown(self, sockets: Any = None) -> None:
        service: Service = self.app.state.service
        service.drain()
        timer = asyncio.get_running_loop().call_later(self.drain_seconds, service.end_running)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.should_exit:
            self.app.state.service.end_running()
        self.should_exit = True


def make_server(settings: ServeSettings, host: str = "127.0.0.1", port: int = 8000) -> Server:
    """A server that `run` starts, and SIGTERM or SIGINT ends."""
    limits, app = settings.limits, create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedProtocol,
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=int(limits.drain_seconds + LAST_SECONDS),
        timeout_keep_alive=KEEP_SECONDS,
        ws_max_size=limits.token_bytes,
        ws_per_message_deflate=False,
        server_header=False,
        access_log=False,
        log_level="info",
    )
    return Server(app, config, limits.drain_seconds)
