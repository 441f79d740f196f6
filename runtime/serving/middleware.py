"""Around every request: an id, the API key, the bounds, and what is counted."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .admission import Ticket
from .problems import ProblemError, answer_problem, explain_error, find_request_id, shorten
from .service import Service

BODY_BOUNDS = {"/v1/tokens": "audio_bytes", "/v1/audio": "token_bytes"}  #: address -> field of `Limits`
OPEN = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz"})  #: addresses that need no API key
OTHERS = frozenset({"/v1/models", "/metrics"})
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
FORM_BYTES = 2**16  #: of a body that a form may hold besides its file

log = logging.getLogger("sc_runtime.serving")


class Envelope:
    """ASGI middleware. Requests to the addresses of `BODY_BOUNDS` run with a ticket, in `request.state.ticket`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            service: Service = scope["app"].state.service
            await Exchange(self.app, service, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await self.open_socket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def open_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse pages of other origins, to which a browser would open a WebSocket without asking."""
        service: Service = scope["app"].state.service
        headers = Headers(scope=scope)
        scope.setdefault("state", {})["request_id"] = choose_id(headers)
        if is_foreign(headers, service.settings.origins):
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "a page of another origin"})
            return
        await self.app(scope, receive, send)


class Exchange:
    """One request and its answer."""

    def __init__(self, app: ASGIApp, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self.app, self.service, self.scope = app, service, scope
        self.receive_message, self.send_message = receive, send
        self.headers = Headers(scope=scope)
        scope.setdefault("state", {})["request_id"] = self.request_id = choose_id(self.headers)
        self.path: str = scope["path"]
        self.received = 0  #: bytes of the body
        self.status = 0  #: of the answer; 0 if it has not begun
        self.is_answered = False
        self.ticket: Ticket | None = None
        self.watcher: asyncio.Task[None] | None = None

    async def run(self) -> None:
        started = time.perf_counter()
        known = self.path in BODY_BOUNDS or self.path in OPEN or self.path in OTHERS
        route = self.path if known else "other"
        try:
            await self.answer()
        except Exception as error:
            problem = explain_error(error, self.request_id)
            if self.status:
                log.warning("request %s: the answer was cut: %s", self.request_id, problem)
            else:
                await self.refuse(problem)
        finally:
            self.service.metrics.requests.labels(route, str(self.status or "none")).inc()
            self.service.metrics.latency.labels(route).observe(time.perf_counter() - started)

    async def answer(self) -> None:
        if self.path not in OPEN:
            check_key(self.headers, self.service.settings.api_key)
        if self.path not in BODY_BOUNDS or self.scope["method"] != "POST":
            await self.app(self.scope, self.receive_message, self.send)
            return
        if is_foreign(self.headers, self.service.settings.origins):
            given, expected = f"a page of {shorten(self.headers['origin'])}", "a page of this server"
            raise ProblemError(403, "origin", given, expected, "ask the server's owner to allow it with --origin")
        declared = self.headers.get("content-length", "")
        self.check_size(int(declared) if declared.isdecimal() else 0)
        with self.service.admission.admit() as ticket:
            self.scope["state"]["ticket"] = self.ticket = ticket
            try:
                await self.app(self.scope, self.receive, self.send)
            finally:
                if self.watcher:
                    self.watcher.cancel()
        if ticket.scope.cancelled_caught and ticket.problem and not self.is_answered:
            raise ticket.problem

    def check_size(self, size: int) -> None:
        """Raises ProblemError (413) for a body of more than the address accepts."""
        limit = getattr(self.service.limits, BODY_BOUNDS[self.path])
        if size > limit + FORM_BYTES:
            given, expected = f"a body of more than {limit} bytes", f"at most {limit} bytes"
            self.service.metrics.rejected.labels("too-large").inc()  # not `refuse`: the same body would never fit
            raise ProblemError(413, "too-large", given, expected, "send it in parts")

    async def receive(self) -> Message:
        """The next part of the body, whose size is bounded. After the last part the client is watched."""
        if self.watcher:
            await asyncio.shield(self.watcher)
            return {"type": "http.disconnect"}
        message = await self.receive_message()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self.check_size(self.received)
            if not message.get("more_body", False):
                self.watcher = asyncio.create_task(self.watch_client())
        return message

    async def watch_client(self) -> None:
        """Cancel the request if its client leaves before the answer is complete."""
        while (await self.receive_message())["type"] != "http.disconnect":
            pass
        if self.ticket and not self.is_answered:
            self.service.metrics.abandoned.inc()
            self.ticket.end(None)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["x-content-type-options"] = "nosniff"
        elif not message.get("more_body", False):
            self.is_answered = True
        await self.send_message(message)

    async def refuse(self, problem: ProblemError) -> None:
        response = answer_problem(problem, find_request_id(self.scope))
        if problem.status == 401:
            response.headers["www-authenticate"] = "Bearer"
        with suppress(OSError):  # the client has left
            await response(self.scope, self.receive_message, self.send)


def is_foreign(headers: Mapping[str, str], origins: Collection[str]) -> bool:
    """Whether a request comes from a web page of another server that is not among `origins`."""
    origin = headers.get("origin")
    return bool(origin) and urlsplit(origin).netloc != headers.get("host") and origin not in origins


def choose_id(headers: Mapping[str, str]) -> str:
    """The client's `X-Request-Id`, if it can be logged as it is; else a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def check_key(headers: Mapping[str, str], expected: str | None) -> None:
    """Raises ProblemError (401) if the API key is not the expected one."""
    if expected is not None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        compare_key(given, expected)


def compare_key(given: str, expected: str) -> None:
    """Compare in constant time. Raises ProblemError (401)."""
    if not hmac.compare_digest(given.encode(), expected.encode()):
        wanted = "Authorization: Bearer KEY"
        raise ProblemError(401, "key", "a request without the API key", wanted, "ask the server's owner for the key")
