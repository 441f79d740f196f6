"""Parts of the OpenAPI document that several routes share."""

from __future__ import annotations

from typing import Any

from .problems import PROBLEM

ANY_FILE = {"type": "string", "format": "binary"}
SOUND_EXAMPLE = "speech.wav"

BOUNDED = {
    400: "A request that cannot be read.",
    401: "The API key is missing or wrong.",
    403: "The request comes from a web page of another server.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the server accepts.",
    422: "The recording, the tokens or a setting cannot work.",
    429: "The server has as many requests as it accepts. `Retry-After` states when to try again.",
    500: "An error of the server. Its log has the request id.",
    503: "The server is starting or ending.",
    504: "The request took too long.",
    507: "The server has no room for the request. `Retry-After` states when to try again.",
}


def describe_problem(text: str) -> dict[str, Any]:
    return {"description": text, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


PROBLEMS: dict[str, Any] = {
    "problem": describe_problem("The request cannot be answered in this form."),
    "bounded": {status: describe_problem(text) for status, text in BOUNDED.items()},
}


def describe_body(text: str, contents: dict[str, Any], example: str) -> dict[str, Any]:
    """`requestBody` of a route that reads its body itself. Each of `contents` is a media type and its schema."""
    form = {"type": "object", "properties": {"file": ANY_FILE}, "required": ["file"]}
    media = {name: {"schema": schema} for name, schema in contents.items()}
    media["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "description": f"{text} Example: {example}.", "content": media}}
