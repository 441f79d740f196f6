"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sc_runtime.errors import AudioError, CodecError, SettingsError, TokensError

PROBLEM = "application/problem+json"
TYPE_PREFIX = "urn:sc-runtime:problem:"

log = logging.getLogger("sc_runtime.serving")


class ProblemError(Exception):
    """An answer that is an error.

    status: the HTTP status.
    kind: a name of the problem that stays the same across versions; the document's `type` ends with it.
    given, expected, remedy: as `CodecError` has them.
    retry_after: seconds after which a client may try again.
    """

    def __init__(
        self, status: int, kind: str, given: str, expected: str, remedy: str = "", retry_after: int | None = None
    ) -> None:
        self.status, self.kind = status, kind
        self.given, self.expected, self.remedy = given, expected, remedy
        self.retry_after = retry_after
        super().__init__(str(CodecError(given, expected, remedy)))

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def to_document(self, request_id: str) -> dict[str, Any]:
        return {
            "type": TYPE_PREFIX + self.kind,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": str(self),
            "given": self.given,
            "expected": self.expected,
            "remedy": self.remedy,
            "request_id": request_id,
        }


def explain_error(error: Exception, request_id: str) -> ProblemError:
    """`error` as a problem. An error that no client can cause is logged, and its text stays on the server."""
    if isinstance(error, ProblemError):
        return error
    for kind, name in ((AudioError, "audio"), (TokensError, "tokens"), (SettingsError, "settings")):
        if isinstance(error, kind):
            return ProblemError(422, name, error.given, error.expected, error.remedy)
    log.error("request %s failed", request_id, exc_info=error)
    return ProblemError(500, "internal", "an error of the server", "an answer", "see the server's log")


def explain_http_error(error: HTTPException) -> ProblemError:
    """A router's or a parser's error: no such route, no such method, a form that cannot be read."""
    if error.status_code == 404:
        return ProblemError(404, "not-found", "an address without a resource", "an address of /docs")
    if error.status_code == 405:
        return ProblemError(405, "method", "a method that the address does not have", "a method of /docs")
    return ProblemError(error.status_code, "request", str(error.detail), "a request as /docs has it")


def explain_validation(error: RequestValidationError) -> ProblemError:
    """The first of the values that do not fit the schema."""
    first: Mapping[str, Any] = error.errors()[0]
    place = ".".join(str(part) for part in first.get("loc", ()) if part not in ("query", "body"))
    if first.get("type") == "extra_forbidden":
        return ProblemError(422, "settings", f"parameter {place}", "a parameter of /docs", "leave it out")
    given = f"{place} {first.get('input')!r}"[:200]
    return ProblemError(422, "settings", given, str(first.get("msg", "another value")), "see /docs")


def answer_problem(problem: ProblemError, request_id: str) -> JSONResponse:
    document = problem.to_document(request_id)
    return JSONResponse(document, problem.status, headers=problem.headers, media_type=PROBLEM)


def install_handlers(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, RequestValidationError):
            problem = explain_validation(error)
        elif isinstance(error, HTTPException):
            problem = explain_http_error(error)
        else:
            problem = explain_error(error, find_request_id(request.scope))
        response = answer_problem(problem, find_request_id(request.scope))
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    for kind in (ProblemError, CodecError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def find_request_id(scope: Mapping[str, Any]) -> str:
    """The id that `middleware.Envelope` gave the request."""
    return str(scope.get("state", {}).get("request_id", ""))
