"""Every error of the application becomes a problem document."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sc_runtime.errors import CodecError

from .problems import ProblemError, answer_problem, explain_error, explain_http_error, find_request_id
from .validation import explain_validation


def install_handlers(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        request_id = find_request_id(request.scope)
        if isinstance(error, RequestValidationError):
            problem = explain_validation(error)
        elif isinstance(error, HTTPException):
            problem = explain_http_error(error, request.method, request.url.path)
        else:
            problem = explain_error(error, request_id)
        response = answer_problem(problem, request_id)
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    for kind in (ProblemError, CodecError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)
