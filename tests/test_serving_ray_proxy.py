"""What the proxy of Ray Serve answers by itself, without Ray; `test_serving_ray.py` has the real one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi", reason="needs the extra serve")

from sc_runtime.serving.ray_proxy import make_middlewares  # noqa: E402


def ask(app: Any, path: str = "/v1/tokens", **headers: str) -> Any:
    """The answer of `app` behind the proxy's middlewares."""
    for middleware in make_middlewares():
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)

    async def get() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ray") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(get())


def answering(status: int, kind: str, body: bytes = b"text of Ray, with a Traceback") -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode())]})
        await send({"type": "http.response.body", "body": body[:3], "more_body": True})
        await send({"type": "http.response.body", "body": body[3:]})

    return app


async def lose_replica(scope: Any, receive: Any, send: Any) -> None:
    """As the proxy of Ray 2.60 does when a replica dies: nothing is sent."""


def test_a_replica_that_died() -> None:
    answer = ask(lose_replica, **{"x-request-id": "from.the-client"})
    problem = answer.json()
    assert answer.status_code == problem["status"] == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert problem["type"] == "urn:sc-runtime:problem:replica"
    assert problem["given"] and problem["expected"] and problem["remedy"]
    assert problem["request_id"] == answer.headers["x-request-id"] == "from.the-client"


@pytest.mark.parametrize(
    ("status", "answered", "kind"),
    [
        (404, 404, "not-found"),
        (408, 504, "timeout"),
        (429, 429, "busy"),
        (503, 503, "busy"),
        (400, 400, "request"),
        (413, 413, "request"),
        (499, 400, "request"),  # no status of HTTP
        (500, 500, "internal"),
    ],
)
def test_text_of_the_proxy(status: int, answered: int, kind: str) -> None:
    """Only what another try may mend says so."""
    answer = ask(answering(status, "text/plain; charset=utf-8"))
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (answered, answered)
    assert problem["type"] == f"urn:sc-runtime:problem:{kind}"
    assert ("retry-after" in answer.headers) == (kind == "busy") == ("again" in problem["remedy"])
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Ray, with" not in answer.text


@pytest.mark.parametrize(
    ("status", "kind", "path"),
    [
        (200, "text/plain", "/metrics"),
        (422, "application/problem+json", "/v1/tokens"),
        (200, "audio/wav", "/v1/audio"),
        (503, "text/plain", "/-/healthz"),
    ],
)
def test_what_a_replica_answers_passes(status: int, kind: str, path: str) -> None:
    answer = ask(answering(status, kind), path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, kind)
    assert answer.content == b"text of Ray, with a Traceback"
