"""What the proxy of Ray Serve answers by itself, as problem documents. This runs in the proxy's process.

If a replica dies, Ray 2.60 sends no answer. Its HTTP server then sends "Internal Server Error". Other errors of Ray are
plain text.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .middleware import choose_id
from .problems import ProblemError, answer_problem

RAYS_OWN = "/-/"  #: addresses of the proxy, whose text its health checks read

LOST = ProblemError(503, "replica", "a request whose replica ended", "a replica that answers", "send it again", 1)
REFUSALS = {
    404: ProblemError(404, "not-found", "an address that no replica serves yet", "a ready server", "wait for /readyz"),
    408: ProblemError(504, "timeout", "a request that took longer than Ray waits", "an answer in time", "send less"),
    429: ProblemError(429, "busy", "more requests than the replicas take", "fewer", "send it again later", 1),
    503: ProblemError(503, "busy", "a request that no replica can take now", "fewer", "send it again later", 1),
}


def make_middlewares() -> list[Middleware]:
    """Ray calls this when it starts a proxy, as $RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it."""
    return [Middleware(ProxyProblems)]


class ProxyProblems:
    """ASGI middleware around the proxy. What a replica answers passes unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(RAYS_OWN):
            await self.app(scope, receive, send)
            return
        answer = ProxyAnswer(send)
        await self.app(scope, receive, answer.send)
        if answer.problem:
            request_id = choose_id(Headers(scope=scope))
            response = answer_problem(answer.problem, request_id)
            response.headers["x-request-id"] = request_id
            await response(scope, receive, send)


class ProxyAnswer:
    """The answer to one request. It is held back if it is an error in plain text, which no replica sends.

    problem: what is answered in its place; None if the answer was passed on.
    """

    def __init__(self, send: Send) -> None:
        self.send_message = send
        self.problem: ProblemError | None = LOST  #: until an answer begins

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            is_rays = message["status"] >= 400 and kind.startswith("text/plain")
            self.problem = explain_refusal(message["status"]) if is_rays else None
        if self.problem is None:
            await self.send_message(message)


def explain_refusal(status: int) -> ProblemError:
    """An error of Ray as a problem with the same status, unless `REFUSALS` has a better one."""
    if status in REFUSALS:
        return REFUSALS[status]
    known = status if status in list(HTTPStatus) else status // 100 * 100  # RFC 9110, section 15
    if known < 500:
        return ProblemError(known, "request", "a request that Ray refuses", "one as /docs describes it", "correct it")
    return ProblemError(
        known, "internal", "an error of Ray", "an answer", "ask the server's owner, whose log states why"
    )
