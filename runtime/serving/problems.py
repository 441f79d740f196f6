"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sc_runtime.errors import FULL, AudioError, CodecError, SettingsError, TokensError, one_line

PROBLEM = "application/problem+json"
TYPE_PREFIX = "urn:sc-runtime:problem:"
SHOWN = 80  #: characters of a client's value that an error repeats
LONGEST = 160  #: characters of each part of an error
STORAGE_SECONDS = 30  #: after which a client may try again if the disk was full

#: Finds remedies that an HTTP client cannot follow: commands, options of the command line, arguments and calls in
#: Python, changes to files of the server. `tests/test_serving_errors.py` sorts all remedies of the code.
ELSEWHERE = re.compile(
    r"(^|\W)--?[a-z]|\b(sc-runtime|pip|in Python|max_seconds|permissions|name the bundle)\b"
    r"|ulimit|make room there|the connection|\$TMPDIR|\w\.\w+\(|\bCodec\.|rename the output"
    r"|while it is read"
)
#: For each class of error: the kind of the problem, and the remedy for an HTTP client if the error's own remedy does
#: not suit one.
REMEDIES = (
    (AudioError, "audio", "send one whole recording, such as a WAV or FLAC file"),
    (TokensError, "tokens", "send tokens as POST /v1/tokens answers them"),
    (SettingsError, "settings", "correct it, or leave it out; /docs and /v1/models list the values"),
)

log = logging.getLogger("sc_runtime.serving")


class ProblemError(Exception):
    """An answer that is an error.

    status: the HTTP status.
    kind: a name of the problem that stays the same across versions; the document's `type` ends with it.
    given, expected, remedy: as `CodecError` has them.
    retry_after: seconds after which a client may try again.
    """

    def __init__(
        self, status: int, kind: str, given: str, expected: str, remedy: str, retry_after: int | None = None
    ) -> None:
        self.status, self.kind = status, kind
        self.given, self.expected, self.remedy = (shorten(text, LONGEST) for text in (given, expected, remedy))
        self.retry_after = retry_after
        super().__init__(str(CodecError(self.given, self.expected, self.remedy)))

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
    system = next((each for each in (error.__cause__, error) if isinstance(each, OSError)), None)
    if system is not None and system.errno in FULL:
        log.error("request %s: no room for its data: %s", request_id, error)
        given, remedy = "a request for whose data the server has no room", "send it again later"
        return ProblemError(507, "storage", given, "free space on its disk", remedy, STORAGE_SECONDS)
    for kind, name, remedy in REMEDIES:
        if isinstance(error, kind) and system is None:  # the server opens only files of its own
            own = "" if ELSEWHERE.search(error.remedy) else error.remedy
            return ProblemError(422, name, error.given, error.expected, own or remedy)
    log.error("request %s failed", request_id, exc_info=error)
    return ProblemError(500, "internal", "an error of the server", "an answer", "see the server's log")


def explain_http_error(error: HTTPException, method: str, path: str) -> ProblemError:
    """A router's error: no such address, no such method."""
    if error.status_code == 404:
        given = f"an address without a resource, {shorten(path)}"
        return ProblemError(404, "not-found", given, "an address of /docs", "correct it; /docs lists them all")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "a method of /docs")
        given = f"{method} {shorten(path)}"
        return ProblemError(405, "method", given, f"{allowed} for this address", f"send it as {allowed}")
    return ProblemError(
        error.status_code, "request", str(error.detail), "a request as /docs describes it", "correct it as /docs has it"
    )


def shorten(text: str, most: int = SHOWN) -> str:
    """`text` in one line of at most `most` characters."""
    line = one_line(text[:most])
    return line if len(line) <= most and len(text) <= most else line[: most - 1] + "…"


def answer_problem(problem: ProblemError, request_id: str) -> JSONResponse:
    document = problem.to_document(request_id)
    return JSONResponse(document, problem.status, headers=problem.headers, media_type=PROBLEM)


def find_request_id(scope: Mapping[str, Any]) -> str:
    """The id that `middleware.Envelope` gave the request."""
    return str(scope.get("state", {}).get("request_id", ""))
