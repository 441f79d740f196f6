"""`POST /v1/tokens`: a recording in, tokens out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from sc_runtime.spec import EncodeOptions
from sc_runtime.token_files import pack_npy
from sc_runtime.tokens import Tokens

from .describe import ANY_FILE, PROBLEMS, SOUND_EXAMPLE, describe_body
from .problems import ProblemError, shorten
from .requests import find_service, merge_settings
from .schemas import ENCODE_OPTIONS, TokensDocument, TokensQuery, describe_tokens
from .uploads import read_upload

SCT, NPY, JSON = "application/x-sct", "application/x-npy", "application/json"
MEDIA_TYPES = {JSON: "json", SCT: "sct", "application/octet-stream": "sct", NPY: "npy"}

router = APIRouter()


@router.post(
    "/v1/tokens",
    summary="Sound to tokens",
    response_model=TokensDocument,
    responses={
        200: {
            "description": "The tokens. They are those of the command line for the same file.",
            "content": {JSON: {}, SCT: {"schema": ANY_FILE}, NPY: {"schema": ANY_FILE}},
        },
        406: PROBLEMS["problem"],
        **PROBLEMS["bounded"],
    },
    openapi_extra=describe_body(
        "A recording in any format that soundfile reads, or a form with the field `file`. "
        "A form's other fields are parameters of this address.",
        {"audio/*": ANY_FILE, "application/octet-stream": ANY_FILE},
        SOUND_EXAMPLE,
    ),
)
async def make_tokens(request: Request, query: Annotated[TokensQuery, Query()]) -> Response:  # type: ignore[valid-type]
    """Encode a recording.

        curl --data-binary @speech.wav 'http://127.0.0.1:8000/v1/tokens?format=sct' -o speech.sct
        curl -F file=@speech.wav http://127.0.0.1:8000/v1/tokens

    Several channels are mixed and other sample rates are resampled as the command line does it.
    """
    service = find_service(request)
    encoder = service.require_encoder()
    named: Any = query
    accepted = choose_format(named.format, request.headers.get("accept", "*/*"))
    with service.metrics.measure_stage("read"):
        upload = await read_upload(request, service.limits)
    try:
        settings = merge_settings(TokensQuery, upload.fields, query)
        kind = settings.format or accepted
        options = EncodeOptions(**{name: getattr(settings, name) for name in ENCODE_OPTIONS})
        config = encoder.codec.check_encoding(settings.vocab, options)
        tokens = await encoder.encode(upload.as_stream("the recording"), None, config, options)
    finally:
        upload.close()
    return answer_tokens(tokens, kind)


def answer_tokens(tokens: Tokens, kind: str) -> Response:
    headers = {"x-positions": str(len(tokens)), "x-samples": str(tokens.samples)}
    if kind == "sct":
        return Response(tokens.to_bytes(), media_type=SCT, headers=headers)
    if kind == "npy":
        return Response(pack_npy(tokens.codes), media_type=NPY, headers=headers)
    document: dict[str, Any] = describe_tokens(tokens).model_dump()
    return JSONResponse(document, headers=headers)


def choose_format(named: str | None, accept: str) -> str:
    """The format named by `?format=`, else the one that `Accept` prefers. Raises ProblemError (406) if it has none."""
    if named:
        return named
    weighted: list[tuple[float, str]] = []
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            weighted.append((float(weight), media_type))
        except ValueError:
            continue
    for preference, media_type in sorted(weighted, key=lambda entry: -entry[0]):
        if preference > 0 and media_type in ("*/*", "application/*", ""):
            return "json"
        if preference > 0 and media_type in MEDIA_TYPES:
            return MEDIA_TYPES[media_type]
    given, expected = f"Accept {shorten(accept)}", f"one of {', '.join(MEDIA_TYPES)}"
    raise ProblemError(406, "accept", given, expected, "accept one of them, or name the format with ?format=")
