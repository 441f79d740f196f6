"""The two sides that are compared, each timed by stage in a process of its own.

A process does one direction (encode or decode) on one side and nothing else, so that its peak memory is that side's.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np

import sc_runtime.semanticodec.model as model_module
from bench.machine import measure_peak_memory
from bench.speed.subjects import SUBJECTS
from sc_runtime import Codec, CodecError
from sc_runtime.backends.base import Backend
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.config import CodecConfig
from sc_runtime.networks import Arrays, CompiledGraph, Graph, Search, Shapes
from sc_runtime.semanticodec.presets import PRESETS, Sampling
from sc_runtime.spec import DecodeOptions

DIRECTIONS = ("encode", "decode")
GRAPH_STAGES = {"tunet_step": "tunet", "routed_encoder": "encoder"}  #: where a graph's name is not its stage's

COMPARED = 60 * 24_000  #: values of an output that are handed back, to compare the sides by
SETTLE_SECONDS = 0.3  #: before a run, for the other side's threads to stop waiting actively


@dataclass(frozen=True)
class Settings:
    """What both sides are asked to do."""

    bundle: Path
    sampling: Sampling | None = PRESETS["reference"]  #: None for a codec that has none
    published_sampling: Sampling | None = PRESETS["reference"]
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    encode_batch: int = 1
    decode_batch: int = 1
    checkpoint: Path | None = None  #: of the published side, where the weights are no stand-ins


@dataclass(frozen=True)
class Run:
    """One timed run: wall seconds by stage, every second in exactly one; the process's peak memory after it."""

    stages: dict[str, float]
    peak_bytes: int
    device: str
    output: np.ndarray  #: codes [T, C] or waveform [n], the first part of it

    @property
    def total(self) -> float:
        return sum(self.stages.values())


class StageClock:
    """Splits the time of a run into stages."""

    def start(self) -> None:
        self.stages: dict[str, float] = {}
        self.latest = ""
        self.mark = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Charge the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.mark
        self.latest, self.mark = stage, now

    def lap_host(self) -> None:
        """Charge the time since the last lap to the host: after a T-UNet call it is the solver's, else "rest"."""
        self.lap("tunet" if self.latest == "tunet" else "rest")


class TimedBackend:
    """A backend that charges each graph's runs to the graph's stage."""

    def __init__(self, backend: Backend, clock: StageClock) -> None:
        self.backend, self.clock = backend, clock
        self.name, self.device, self.encode_batch = backend.name, backend.device, backend.encode_batch
        self.gpu = backend.gpu

    def open(self, bundle: Bundle, graph: str) -> TimedGraph:
        opened = self.backend.open(bundle, graph)
        return TimedGraph(opened, GRAPH_STAGES.get(graph, graph), self.clock)

    def open_search(self, codebook: np.ndarray) -> TimedSearch:
        return TimedSearch(self.backend.open_search(codebook), self.clock)


class TimedSearch:
    def __init__(self, search: Search, clock: StageClock) -> None:
        self.inner, self.clock = search, clock

    def search(self, queries: np.ndarray) -> np.ndarray:
        self.clock.lap_host()
        found = self.inner.search(queries)
        self.clock.lap("centroids")
        return found


class TimedGraph:
    def __init__(self, graph: Graph, stage: str, clock: StageClock) -> None:
        self.graph, self.stage, self.clock = graph, stage, clock

    def prepare(self, shapes: Shapes) -> None:
        if isinstance(self.graph, CompiledGraph):
            self.graph.prepare(shapes)

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        self.clock.lap_host()
        outputs = self.graph.run(feeds)
        self.clock.lap(self.stage)
        return outputs


def time_host_stages(clock: StageClock) -> None:
    """Charge the filterbank to its stage, in this process from now on."""

    def time_segments(blocks: Iterable[np.ndarray], samples: int, total: float) -> Iterator[np.ndarray]:
        segments = fbank_segments(blocks, samples, total)
        clock.lap_host()
        for segment in segments:
            clock.lap("fbank")
            yield segment
            clock.lap_host()

    fbank_segments: Callable[..., Iterator[np.ndarray]] = model_module.fbank_segments
    patch.object(model_module, "fbank_segments", time_segments).start()


class Side(Protocol):
    """One way of encoding and decoding, whose clock runs."""

    device: str

    def encode(self, sound: np.ndarray) -> np.ndarray:
        """Sound float32 [n] at the codec's rate -> codes [T, C]."""
        ...

    def decode(self, codes: np.ndarray, steps: int) -> np.ndarray:
        """Codes [T, C] -> sound float32 [n]."""
        ...


class RuntimeSide:
    """sc_runtime as its users have it."""

    def __init__(self, settings: Settings, clock: StageClock) -> None:
        self.settings = settings
        bundle = Bundle.load(settings.bundle)
        chosen = choose_backend(settings.backend, settings.threads, settings.precision, bundle)
        backend = TimedBackend(chosen, clock)
        self.device = f"{backend.name}, {backend.device}"
        self.codec = Codec(bundle, backend)
        time_host_stages(clock)

    def encode(self, sound: np.ndarray) -> np.ndarray:
        return self.codec.encode(sound, batch=self.settings.encode_batch).codes

    def decode(self, codes: np.ndarray, steps: int) -> np.ndarray:
        sampling = self.settings.sampling
        if sampling is None:
            return self.codec.decode(codes, batch=self.settings.decode_batch)
        return self.codec.decode(
            codes,
            steps=steps,
            guidance=sampling.guidance,
            eta=sampling.eta,
            solver=sampling.solver,
            interval=sampling.interval,
            batch=self.settings.decode_batch,
        )


class PublishedSide:
    """The published procedure in PyTorch eager on the weights the bundle was made from."""

    device = "torch, CPU"

    def __init__(self, settings: Settings, clock: StageClock) -> None:
        import torch

        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.settings = settings
        bundle = Bundle.load(settings.bundle)
        self.codec = SUBJECTS[bundle.manifest.codec].open_published(bundle, settings.checkpoint, clock.lap)

    def encode(self, sound: np.ndarray) -> np.ndarray:
        return self.codec.encode(sound)

    def decode(self, codes: np.ndarray, steps: int) -> np.ndarray:
        sampling = self.settings.published_sampling
        options = DecodeOptions(steps=steps, guidance=sampling.guidance, eta=sampling.eta) if sampling else None
        return self.codec.decode(codes, options or DecodeOptions())


SIDES: dict[str, Callable[[Settings, StageClock], Side]] = {"runtime": RuntimeSide, "published": PublishedSide}


def make_sound(seconds: float, rate: int = 16_000) -> np.ndarray:
    """A gliding, swelling tone under noise, float32 [n] at `rate` Hz, which repeats every 7 s; the same every time."""
    moment = np.arange(7 * rate) / rate
    level = 0.3 + 0.2 * np.sin(1.7 * moment)
    noise = np.random.default_rng(0).standard_normal(len(moment))
    sound = level * (np.sin(2 * np.pi * (220 * moment + 60 * np.sin(3 * moment))) + 0.1 * noise)
    return np.resize(sound.astype(np.float32), round(seconds * rate))


def make_codes(seconds: float, config: CodecConfig) -> np.ndarray:
    """Random codes int64 [T, C] of that many seconds: what decoding costs does not depend on what they say."""
    entries = list(config.codebook_sizes.values())
    positions = config.count_positions(round(seconds * config.sample_rate))
    return np.random.default_rng(0).integers(0, entries, (positions, len(entries)))


def serve(connection: Connection, side_name: str, direction: str, settings: Settings) -> None:
    """In the process of one side: do the runs that are asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends its children
    clock = StageClock()
    side: Side | None = None
    try:
        while True:
            seconds, steps = connection.recv()
            if side is None:  # not before: the sides load one after the other
                config = Bundle.load(settings.bundle).choose_config()
                side = SIDES[side_name](settings, clock)
            given = make_sound(seconds, config.sample_rate) if direction == "encode" else make_codes(seconds, config)
            time.sleep(SETTLE_SECONDS)
            clock.start()
            output = side.encode(given) if direction == "encode" else side.decode(given, steps)
            clock.lap("rest")
            connection.send(Run(clock.stages, measure_peak_memory(), side.device, output[:COMPARED]))
    except CodecError as error:
        connection.send((error.given, error.expected, error.remedy))
    except EOFError:  # the parent is gone
        sys.exit(1)


class Worker:
    """The process of one side, seen from the parent. Use as a context manager."""

    def __init__(self, side: str, direction: str, settings: Settings) -> None:
        self.side, self.direction = side, direction
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, side, direction, settings), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, seconds: float, steps: int) -> Run:
        """Encode or decode `seconds` of audio once. Raises CodecError: the side's own, or that its process died."""
        try:
            self.connection.send((seconds, steps))
            reply: Run | tuple[str, str, str] = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            raise CodecError(
                f"the {self.side} side's process ended with code {self.process.exitcode} while it was to "
                f"{self.direction} {seconds:g} s",
                "an answer",
                "its own message is above; code -9 means that memory ran out",
            ) from None
        if isinstance(reply, tuple):
            raise CodecError(*reply)
        return reply

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()
