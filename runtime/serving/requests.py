"""What the routes share: the service, the ticket, and settings from several places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from .admission import Ticket
from .service import Service

Query = TypeVar("Query", bound=BaseModel)


def find_service(request: Request | WebSocket) -> Service:
    """The service of the application that `request` came to."""
    service: Service = request.app.state.service
    return service


def find_ticket(request: Request) -> Ticket:
    """The ticket that the middleware has taken for a bounded request."""
    ticket: Ticket = request.state.ticket
    return ticket


def merge_settings(kind: type[Query], body: Mapping[str, Any], query: Query) -> Query:
    """Settings of a body, which those of the address replace. Raises RequestValidationError."""
    named = {name: getattr(query, name) for name in query.model_fields_set}
    return validate(kind, {**body, **named})


def validate(kind: type[Query], values: Any) -> Query:
    """`values`, a mapping or JSON as bytes, as a `kind`. Raises RequestValidationError, as FastAPI does."""
    try:
        return kind.model_validate_json(values) if isinstance(values, bytes) else kind.model_validate(values)
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found) from error
