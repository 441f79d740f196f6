"""`POST /v1/audio`: tokens in, sound out."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from sc_runtime.codec import Codec
from sc_runtime.spec import DecodeOptions
from sc_runtime.token_files import is_container
from sc_runtime.tokens import Tokens

from .describe import ANY_FILE, PROBLEMS, describe_body
from .requests import find_service, find_ticket, merge_settings, validate
from .schemas import DECODE_OPTIONS, AudioDocument, AudioQuery, take_tokens
from .service import Service
from .sounds import FORMATS, SoundEncoder, SoundFormat, find_format
from .uploads import Upload, read_upload
from .worker import DecodeJob

router = APIRouter()


@router.post(
    "/v1/audio",
    summary="Tokens to sound",
    response_class=Response,
    responses={
        200: {
            "description": "The sound, mono. It is that of the command line for the same tokens and options.",
            "content": {each.media_type: {"schema": ANY_FILE} for each in FORMATS.values()},
        },
        **PROBLEMS["bounded"],
    },
    openapi_extra=describe_body(
        "An .sct or .npy file, a JSON document as `POST /v1/tokens` answers, or a form with the field `file`. "
        "The document and the form may also hold the parameters of this address.",
        {"application/octet-stream": ANY_FILE, "application/json": {"$ref": "#/components/schemas/AudioDocument"}},
        "speech.sct",
    ),
)
async def make_audio(request: Request, query: Annotated[AudioQuery, Query()]) -> Response:  # type: ignore[valid-type]
    """Decode tokens.

        curl --data-binary @speech.sct 'http://127.0.0.1:8000/v1/audio?preset=fast&seed=1' -o speech.wav
        curl --data-binary @speech.sct 'http://127.0.0.1:8000/v1/audio?response_format=pcm&stream=true' |
            aplay -r 16000 -f S16_LE

    With `stream=true` each piece is sent when it is made. The joined pieces are the whole, sample for sample.
    """
    service, ticket = find_service(request), find_ticket(request)
    codec = service.require_codec()
    with service.groups.announce():
        with service.metrics.measure_stage("read"):
            upload = await read_upload(request, service.limits)
        try:
            tokens, settings = read_tokens(upload, query, codec)
        finally:
            upload.close()
        sound = find_format(settings.response_format, settings.bit_depth, settings.stream)
        options = DecodeOptions(**{name: getattr(settings, name) for name in DECODE_OPTIONS})
        service.check_decoding(tokens, options)
        if settings.stream:
            ticket.open_stream()
        job = service.start_decoding(tokens, options, settings.vocab, ticket)
    samples = tokens.samples or tokens.config.count_samples(len(tokens))
    encoder = SoundEncoder(sound, codec.sample_rate, samples, settings.stream)
    first = await service.take_first(job)
    answer = SoundStream(first, job, encoder, service, sound, samples)
    return answer if settings.stream else await answer.join()


def read_tokens(upload: Upload, query: Any, codec: Codec) -> tuple[Tokens, Any]:
    """The tokens of a body, and its settings with those of the address. Raises CodecError, RequestValidationError."""
    data = upload.file.read()
    if upload.media_type == "application/json":
        document = validate(AudioDocument, data)
        named = document.model_fields_set & set(AudioQuery.model_fields)
        settings = merge_settings(AudioQuery, {name: getattr(document, name) for name in named}, query)
        return take_tokens(document, codec, settings.vocab), settings
    settings = merge_settings(AudioQuery, upload.fields, query)
    config = codec.bundle.choose_config(settings.vocab)
    return Tokens.from_bytes(data, None if is_container(data) else config), settings


class SoundStream(Response):
    """An answer whose body is sent piece by piece, or joined by `join`."""

    def __init__(
        self,
        first: np.ndarray | None,
        job: DecodeJob,
        encoder: SoundEncoder,
        service: Service,
        sound: SoundFormat,
        samples: int,
    ) -> None:
        super().__init__(media_type=sound.media_type, headers=encoder.describe(samples))
        del self.headers["content-length"]
        self.first, self.job, self.encoder, self.service = first, job, encoder, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        piece = self.first
        while piece is not None:
            await send({"type": "http.response.body", "body": await self.encode(piece), "more_body": True})
            piece = await self.job.take()
        await send({"type": "http.response.body", "body": await self.service.threads.run(self.encoder.finish)})

    async def join(self) -> Response:
        """The answer with the whole sound."""
        piece = self.first
        while piece is not None:
            await self.encode(piece)
            piece = await self.job.take()
        body = await self.service.threads.run(self.encoder.finish)
        headers = {name: value for name, value in self.headers.items() if name.startswith("x-")}
        return Response(body, media_type=self.media_type, headers=headers)

    async def encode(self, piece: np.ndarray) -> bytes:
        with self.service.metrics.measure_stage("write"):
            return await self.service.threads.run(self.encoder.write, piece)
