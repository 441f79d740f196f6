"""The codec as the routes use it: encoding, decoding, readiness, and the end."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Literal

import anyio.to_thread
import numpy as np

from sc_runtime.codec import Codec
from sc_runtime.spec import DecodeOptions
from sc_runtime.tokens import Tokens

from .admission import Admission, Ticket
from .batcher import EncodeBatcher
from .encoder import Encoder, explain_length
from .groups import DecodeGroups
from .metrics import Metrics
from .problems import ProblemError
from .settings import ServeSettings
from .threads import Threads
from .worker import DecodeJob, Worker

log = logging.getLogger("sc_runtime.serving")


class Service:
    """One codec, the worker that runs it, and the bounds of its requests. Made inside the event loop."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings, self.limits = settings, settings.limits
        self.metrics = Metrics()
        self.admission = Admission(settings.limits, self.metrics)
        self.worker = Worker()
        self.groups = DecodeGroups(self.worker, settings.batch_ms / 1000, self.metrics.groups.observe)
        self.worker.find_delay = self.groups.due_in
        self.threads = Threads()
        self.encoder: Encoder | None = None
        self.failure: Exception | None = None  #: why the codec could not be loaded
        self.loaded = asyncio.Event()  #: set when loading has ended, well or not

    def start(self) -> None:
        """Load and warm up the codec on the worker's thread."""
        loop = asyncio.get_running_loop()

        def load() -> None:
            chosen = self.settings
            load_codec = partial(Codec.load, backend=chosen.backend, threads=chosen.threads, precision=chosen.precision)
            try:
                self.use_codec(load_codec(chosen.bundle))
            except Exception as error:
                log.error("the codec could not be loaded", exc_info=error)
                # Its frames, and those of the errors before it, keep what was loaded of the codec.
                error.__traceback__ = error.__cause__ = error.__context__ = None
                self.failure = error
            loop.call_soon_threadsafe(self.loaded.set)

        self.worker.call(load)

    def use_codec(self, codec: Codec) -> None:
        """Encode and decode a second of silence, so that the networks are compiled, and take requests."""
        tokens = codec.encode(np.zeros(codec.sample_rate, np.float32))
        takes_steps = "steps" in codec.model.spec.decode_options
        codec.decode(tokens, DecodeOptions(steps=2 if takes_steps else None))
        wait, report = self.settings.batch_ms / 1000, self.metrics.batches.observe
        self.worker.batcher = EncodeBatcher(codec.model, codec.choose_batch(), wait, self.worker.wake, report)
        self.groups.model = codec.model
        self.encoder = Encoder(codec, self.worker.batcher, self.threads, self.metrics, self.limits.seconds)

    @property
    def state(self) -> Literal["ok", "starting", "failed", "ending"]:
        if not self.admission.is_open:
            return "ending"
        if self.failure is not None:
            return "failed"
        return "starting" if self.encoder is None else "ok"

    def require_encoder(self) -> Encoder:
        """Raises ProblemError (503) if the codec is not loaded, or the server ends."""
        self.admission.check_open()
        if self.failure is not None:
            given, remedy = "a server whose codec failed to load", "ask the server's owner, whose log states why"
            raise ProblemError(503, "failed", given, "a loaded codec", remedy)
        if self.encoder is None:
            raise ProblemError(503, "starting", "a server that is starting", "a ready one", "wait for /readyz", 1)
        return self.encoder

    def require_codec(self) -> Codec:
        """As `require_encoder`."""
        return self.require_encoder().codec

    def check_decoding(self, tokens: Tokens, options: DecodeOptions) -> None:
        """Raises CodecError for tokens or options that cannot work, ProblemError for more than the bounds allow."""
        codec = self.require_codec()
        codec.resolve_options(options)
        if len(tokens) > self.limits.positions:
            given, expected = f"{len(tokens)} positions", f"at most {self.limits.positions}"
            raise ProblemError(422, "too-long", given, expected, "send parts")
        if tokens.seconds > self.limits.seconds:
            raise explain_length("tokens", self.limits.seconds)
        codec.count_windows(tokens)  # raises for tokens of another codec

    def start_decoding(self, tokens: Tokens, options: DecodeOptions, vocab: int | None, ticket: Ticket) -> DecodeJob:
        """Decode `tokens`, which `check_decoding` accepted: the pieces of `Codec.decode_stream`.

        The decoding ends with the request, at its next step.
        """
        codec = self.require_codec()
        job = self.groups.open(codec.plan_decoding(tokens, options, vocab))

        def end() -> None:
            self.groups.close(job)
            self.metrics.count_sound("decode", job.samples / codec.sample_rate, job.seconds)
            if job.begun:
                self.metrics.stages.labels("wait").observe(job.begun - job.created)
                self.metrics.stages.labels("decode").observe(job.seconds)

        ticket.at_end.append(end)
        return job

    async def take_first(self, job: DecodeJob) -> np.ndarray | None:
        """The first piece of a decoding. Raises what the decoding raised."""
        piece = await job.take()
        self.metrics.first_sound.observe(time.perf_counter() - job.created)
        return piece

    def drain(self) -> None:
        """Refuse new requests, and decodings that have not begun."""
        self.admission.is_open = False
        given = "a decoding that had not begun when the server began to end"
        self.worker.refuse_waiting(ProblemError(503, "ending", given, "a running server", "use another server", 1))

    def end_running(self) -> None:
        """Cancel what runs, as the time to drain is over."""
        given = f"a request that ran for {self.limits.drain_seconds:g} s after the server began to end"
        self.admission.end_all(ProblemError(503, "ending", given, "a running server", "use another server", 1))

    async def stop(self) -> None:
        self.drain()
        self.end_running()
        await anyio.to_thread.run_sync(self.worker.stop, 10.0)
