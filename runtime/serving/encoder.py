"""Recordings to tokens, their windows in the batches of all requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import BinaryIO

import anyio
import numpy as np

from sc_runtime.audio import Audio
from sc_runtime.audio.blocks import BLOCK_VALUES, Samples
from sc_runtime.codec import Codec
from sc_runtime.config import CodecConfig
from sc_runtime.model import WindowPlan
from sc_runtime.spec import EncodeOptions
from sc_runtime.tokens import Tokens

from .batcher import Codes, EncodeBatcher
from .metrics import Metrics
from .problems import ProblemError
from .threads import Threads
from .worker import Abandoned

Sound = BinaryIO | np.ndarray  #: a file's bytes as a stream, or samples [n] or [n, channels]
ShowWindow = Callable[[int, np.ndarray], Awaitable[None]]  #: (windows in all, codes of the next one, int32 [n, C])


class BoundedAudio(Audio):
    """A recording of at most `seconds`. Reading beyond raises ProblemError, whatever its header declares.

    `abandoned` ends the reading at the next block.
    """

    def __init__(self, source: Sound, sample_rate: int | None, codec: Codec, seconds: float) -> None:
        self.seconds, self.abandoned = seconds, False
        super().__init__(source, sample_rate, rate=codec.sample_rate, mono=codec.model.spec.mono)

    def blocks(self, values: int = BLOCK_VALUES) -> Iterator[Samples]:
        samples = 0
        for block in super().blocks(values):
            samples += len(block)
            if samples > self.seconds * self.rate:
                raise explain_length("sound", self.seconds)
            if self.abandoned:
                raise Abandoned
            yield block


def explain_length(what: str, seconds: float) -> ProblemError:
    return ProblemError(422, "too-long", f"{what} of more than {seconds:g} s", f"at most {seconds:g} s", "send parts")


class Encoder:
    """Encodes recordings of at most `seconds` by the batches of `batcher`.

    room: for windows that are read and not yet encoded, of all requests: two batches.
    """

    def __init__(
        self, codec: Codec, batcher: EncodeBatcher, threads: Threads, metrics: Metrics, seconds: float
    ) -> None:
        self.codec, self.batcher, self.threads, self.metrics = codec, batcher, threads, metrics
        self.seconds = seconds
        self.room = anyio.Semaphore(2 * batcher.size)

    async def encode(
        self,
        sound: Sound,
        sample_rate: int | None,
        config: CodecConfig,
        options: EncodeOptions,
        show: ShowWindow | None = None,
    ) -> Tokens:
        """The tokens of a recording: those of `Codec.encode`.

        sample_rate: of an array, in Hz.
        config, options: as `Codec.check_encoding` accepted them.
        show: awaited with the codes of each window, in order, as they are made.

        Raises AudioError, ProblemError. If it is cancelled, the windows that wait are not encoded.
        """
        recording: BoundedAudio | None = None
        pending: deque[asyncio.Future[Codes]] = deque()
        found: list[np.ndarray] = []
        spent = 0.0

        async def take(plan: WindowPlan) -> None:
            nonlocal spent
            with self.metrics.measure_stage("encode"):
                codes, seconds = await pending[0]
            pending.popleft()
            found.append(codes)
            spent += seconds
            if show:
                await show(plan.count, codes)

        try:
            with self.batcher.announce(), self.metrics.measure_stage("prepare"):
                recording = await self.threads.run(BoundedAudio, sound, sample_rate, self.codec, self.seconds)
                plan = await self.threads.run(self.codec.model.plan_windows, recording, config)
            for _ in range(plan.count):
                await self.room.acquire()
                try:
                    with self.batcher.announce():
                        window = await self.threads.run(next, plan.windows)
                        future = asyncio.wrap_future(self.batcher.submit(config, options, window))
                except BaseException:
                    self.room.release()
                    raise
                future.add_done_callback(lambda _: self.room.release())
                pending.append(future)
                while pending and (len(pending) >= self.batcher.size or pending[0].done()):
                    await take(plan)
            while pending:
                await take(plan)
            codes = await self.threads.run(plan.join, found)
        finally:
            for future in pending:
                future.cancel()
            if recording is not None:
                recording.abandoned = True
                recording.close()
        tokens = Tokens(codes, config, plan.samples)
        self.metrics.count_sound("encode", tokens.seconds, spent)
        return tokens
