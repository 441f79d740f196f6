"""The OpenAPI document: what the routes declare, and what they read by themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from .middleware import OPEN
from .schemas import AudioDocument, DecodeSettings, EncodeSettings, Problem

REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = """
Errors are problem documents (RFC 9457): `given`, `expected` and `remedy` state what to change. Only 503 for too many
connections, a refused preflight of another origin and a refused handshake of a WebSocket hold none. `x-request-id` of
a request is sent back, and stands in every problem document.

`WS /v1/stream` takes one task a connection. The first message is text, JSON:

- `{"task": "decode", "preset": "fast", "seed": 1}` (`DecodeSettings`). Then the client sends the bytes of an .sct or
  .npy file. The server sends `{"type": "start", "sample_rate": ..., "bit_depth": ..., "samples": ...}`, the PCM in
  binary messages as it is made, and `{"type": "end"}`.
- `{"task": "encode", "sample_rate": 48000, "channels": 2}` (`EncodeSettings`). Then the client sends PCM in binary
  messages and `{"type": "end"}`. The server sends `{"type": "window", "codes": ...}` for each window as it is encoded,
  the .sct file in a binary message, `{"type": "segment", "samples": ..., "sha256": ...}` and `{"type": "end"}`. The
  last window's codes may reach beyond the recording's end; the file's do not. With `segment_seconds` each segment of
  that length is a recording of its own, which is encoded when it has arrived.

Close codes: 1000 done; 1007 settings, tokens or samples that cannot work; 1008 API key; 1009 too large; 1011 an error
of the server; 1013 try again later; 4408 the client was silent; 4504 the task took too long. A problem document in a
text message precedes every code but 1000. The handshake of a page of another origin gets 403.
"""


def describe_interface(app: FastAPI) -> None:
    """Have `app.openapi` return the whole document."""

    def make_document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete_document(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    summary=app.summary,
                    description=DESCRIPTION.strip(),
                    routes=app.routes,
                )
            )
        return app.openapi_schema

    app.openapi = make_document  # type: ignore[method-assign]


def complete_document(document: dict[str, Any]) -> dict[str, Any]:
    """Add the schemas of bodies that the routes read by themselves, and the API key."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in (AudioDocument, DecodeSettings, EncodeSettings, Problem):
        schema = model.model_json_schema(ref_template=REFERENCE)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        if path not in OPEN:
            for operation in operations.values():
                operation["security"] = [{"key": []}, {}]
    return document
