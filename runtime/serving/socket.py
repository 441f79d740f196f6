"""`WS /v1/stream`: settings as JSON, then tokens in and sound out, or sound in and tokens out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import anyio
import numpy as np
from fastapi import APIRouter, Request, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from sc_runtime.spec import DecodeOptions, EncodeOptions
from sc_runtime.token_files import is_container
from sc_runtime.tokens import Tokens

from .admission import Ticket
from .middleware import check_key, compare_key
from .pcm import PcmUpload, Segment
from .problems import ProblemError, answer_problem, explain_error, find_request_id
from .requests import find_service, validate
from .schemas import (
    DECODE_OPTIONS,
    ENCODE_OPTIONS,
    DecodeSettings,
    EncodeSettings,
    EndMessage,
    TaskSettings,
    hash_tokens,
)
from .service import Service
from .sounds import SoundEncoder, find_format
from .validation import explain_validation

#: HTTP status of a problem -> close code of RFC 6455. 4408 and 4504 are this server's, named after the status.
CLOSE_CODES = {400: 1007, 401: 1008, 408: 4408, 413: 1009, 422: 1007, 429: 1013, 503: 1013, 504: 4504}
FAILED = 1011
REASON_BYTES = 123  #: of a close frame

router = APIRouter()


@router.websocket("/v1/stream")
async def stream(socket: WebSocket) -> None:
    """One task on one connection."""
    service = find_service(socket)
    await socket.accept()
    session = Session(socket, service)
    try:
        with service.admission.admit() as ticket:
            ticket.open_stream()
            await session.run(ticket)
        if ticket.scope.cancelled_caught:
            if ticket.problem is None:
                service.metrics.abandoned.inc()
                return
            raise ticket.problem
        await socket.close(1000)
    except WebSocketDisconnect:
        service.metrics.abandoned.inc()
    except RequestValidationError as error:
        await session.close(explain_validation(error))
    except Exception as error:
        await session.close(explain_error(error, find_request_id(socket.scope)))


@router.api_route("/v1/stream", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def require_socket(request: Request) -> JSONResponse:
    """Answers 426 to a plain HTTP request for this address (RFC 9110, 15.5.22)."""
    given, expected = f"an HTTP {request.method} of /v1/stream", "a WebSocket there"
    remedy = "open it as ws:// or wss:// with a WebSocket library; /docs describes the messages"
    response = answer_problem(ProblemError(426, "websocket", given, expected, remedy), find_request_id(request.scope))
    response.headers.update({"upgrade": "websocket", "connection": "upgrade"})
    return response


class Session:
    """One connection: a message of settings, then the task that it names."""

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self.socket, self.service = socket, service

    async def run(self, ticket: Ticket) -> None:
        text = await self.receive_text("a message of settings")
        task = validate(TaskSettings, text.encode())
        if task.api_key is not None and self.service.settings.api_key is not None:
            compare_key(task.api_key, self.service.settings.api_key)
        else:
            check_key(self.socket.headers, self.service.settings.api_key)
        self.service.require_codec()
        if task.task == "decode":
            await self.decode(validate(DecodeSettings, text.encode()), ticket)
        else:
            await self.encode(validate(EncodeSettings, text.encode()), ticket)

    async def decode(self, settings: Any, ticket: Ticket) -> None:
        """Tokens in one binary message -> PCM in binary messages, between a message `start` and a message `end`."""
        codec = self.service.require_codec()
        with self.service.groups.announce():
            data = await self.receive_bytes(self.service.limits.token_bytes)
            config = codec.bundle.choose_config(settings.vocab)
            tokens = Tokens.from_bytes(data, None if is_container(data) else config)
            options = DecodeOptions(**{name: getattr(settings, name) for name in DECODE_OPTIONS})
            self.service.check_decoding(tokens, options)
            samples = tokens.samples or tokens.config.count_samples(len(tokens))
            encoder = SoundEncoder(find_format("pcm", settings.bit_depth, True), codec.sample_rate, samples, True)
            job = self.service.start_decoding(tokens, options, settings.vocab, ticket)
        async with self.watch_client(ticket):
            piece = await self.service.take_first(job)
            facts = {"sample_rate": codec.sample_rate, "channels": 1, "bit_depth": settings.bit_depth or 16}
            await self.socket.send_json({"type": "start", **facts, "samples": samples})
            while piece is not None:
                await self.socket.send_bytes(await self.service.threads.run(encoder.write, piece))
                piece = await job.take()
        await self.socket.send_json({"type": "end", "samples": samples})

    async def encode(self, settings: Any, ticket: Ticket) -> None:
        """PCM in binary messages, then `{"type": "end"}` -> the codes of each window, then the .sct file.

        With `segment_seconds` every segment of that length is a recording of its own, encoded when it has arrived.
        Without, the recording is encoded as a whole, as a codec may need all of it for its first window.
        """
        encoder = self.service.require_encoder()
        options = EncodeOptions(**{name: getattr(settings, name) for name in ENCODE_OPTIONS})
        config = encoder.codec.check_encoding(settings.vocab, options)
        rate = settings.sample_rate or encoder.codec.sample_rate
        limits = self.service.limits
        upload = PcmUpload(rate, settings.channels, settings.bit_depth, settings.segment_seconds, limits)
        number = 0
        while True:
            segment = await self.receive_segment(upload)
            if segment.is_last and number and not len(segment.samples):
                await self.socket.send_json({"type": "end", "segments": number})
                return
            # Only after the last segment does the client owe nothing, so that reading detects that it left.
            async with self.watch_client(ticket) if segment.is_last else nullcontext():
                tokens = await encoder.encode(segment.samples, rate, config, options, self.send_window)
                await self.socket.send_bytes(tokens.to_bytes())
                await self.socket.send_json({"type": "segment", "segment": number, **describe_recording(tokens)})
            number += 1
            if segment.is_last:
                await self.socket.send_json({"type": "end", "segments": number})
                return

    async def send_window(self, windows: int, codes: np.ndarray) -> None:
        await self.socket.send_json({"type": "window", "windows": windows, "codes": codes.tolist()})

    async def receive_segment(self, upload: PcmUpload) -> Segment:
        """Read samples until a segment is whole, or the recording has ended."""
        while not upload.has_segment():
            message = await self.receive("samples, or a message that ends them")
            if (data := message.get("bytes")) is not None:
                upload.add(data)
            else:
                validate(EndMessage, message["text"].encode())
                upload.finish()
        return upload.take_segment()

    async def receive(self, expected: str) -> dict[str, Any]:
        """The next message. Raises WebSocketDisconnect, and ProblemError (408) if the client is silent."""
        with anyio.move_on_after(self.service.limits.idle_seconds):
            message = dict(await self.socket.receive())
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1006))
            return message
        given = f"a client that is silent for {self.service.limits.idle_seconds:g} s"
        raise ProblemError(408, "slow", given, expected, "send it sooner")

    async def receive_text(self, expected: str) -> str:
        text = (await self.receive(expected)).get("text")
        if text is None:
            raise ProblemError(422, "message", "a binary message", expected, "send it as text")
        return str(text)

    async def receive_bytes(self, largest: int) -> bytes:
        data = (await self.receive("tokens in one binary message")).get("bytes")
        if data is None:
            raise ProblemError(422, "message", "a text message", "tokens in one binary message", "send an .sct file")
        if len(data) > largest:
            raise ProblemError(413, "too-large", f"{len(data)} bytes of tokens", f"at most {largest}", "send parts")
        return bytes(data)

    @asynccontextmanager
    async def watch_client(self, ticket: Ticket) -> AsyncIterator[None]:
        """In the block, end the task if the client leaves, or sends what nobody asked for."""

        async def watch() -> None:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                ticket.end(None)
            else:
                ticket.end(ProblemError(422, "message", "a message during the task", "none", "open another connection"))

        watcher = asyncio.create_task(watch())
        try:
            yield
        finally:
            watcher.cancel()

    async def close(self, problem: ProblemError) -> None:
        """Send the problem document, and close with its code."""
        code = CLOSE_CODES.get(problem.status, FAILED)
        reason = str(problem).encode()[:REASON_BYTES].decode(errors="ignore")
        with suppress(RuntimeError, WebSocketDisconnect):  # the client has left
            await self.socket.send_json(problem.to_document(find_request_id(self.socket.scope)))
            await self.socket.close(code, reason)


def describe_recording(tokens: Tokens) -> dict[str, Any]:
    return {"positions": len(tokens), "samples": tokens.samples, "sha256": hash_tokens(tokens)}
