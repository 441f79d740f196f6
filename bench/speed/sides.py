"""The two sides that are compared, each timed by stage in a process of its own.

Each process only encodes or only decodes, on one side, so that its peak memory is that side's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from bench.harness.machine import measure_peak_memory
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.semanticodec.presets import PRESETS, Sampling
from sc_runtime.spec import DecodeOptions

from .inputs import make_codes, make_sound
from .stages import StageClock, open_timed_codec
from .subjects import find_subject

DIRECTIONS = ("encode", "decode")
COMPARED = 60 * 24_000  #: values of an output that are sent to the parent, which compares the sides
SETTLE_SECONDS = 0.3  #: waited before a timed run, so that idle threads of the other side stop spinning


@dataclass(frozen=True)
class Settings:
    """What both sides run.

    sampling, published_sampling: of the runtime and of the published procedure; None for a codec without a sampler.
    encode_batch, decode_batch: windows that the runtime runs together.
    checkpoint: the published side's weights, where the bundle's are not stand-ins.
    peer_device: torch's name of the device that peers run on, "cpu" or "cuda".
    """

    bundle: Path
    sampling: Sampling | None = PRESETS["reference"]
    published_sampling: Sampling | None = PRESETS["reference"]
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    encode_batch: int = 1
    decode_batch: int = 1
    checkpoint: Path | None = None
    peer_device: str = "cpu"


@dataclass(frozen=True)
class Run:
    """One timed run.

    stages: wall seconds by stage; every second is in exactly one.
    peak_bytes: the process's peak memory after the run.
    cpu_seconds: CPU time of all the process's threads during the run. Other programs change it little.
    device: what the networks ran on, in words.
    output: codes [T, C] or a waveform [n], the first `COMPARED` entries.
    """

    stages: dict[str, float]
    peak_bytes: int
    device: str
    output: np.ndarray
    cpu_seconds: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.stages.values())


class Side(Protocol):
    """One way of encoding and decoding, which charges its stages to a clock."""

    device: str

    def encode(self, sound: np.ndarray) -> np.ndarray:
        """Sound float32 [n] at the codec's rate -> codes [T, C]."""
        ...

    def decode(self, codes: np.ndarray, steps: int) -> np.ndarray:
        """Codes [T, C] -> sound float32 [n]."""
        ...


class RuntimeSide:
    """sc_runtime, as its users run it."""

    def __init__(self, settings: Settings, clock: StageClock) -> None:
        self.settings = settings
        bundle = Bundle.load(settings.bundle)
        backend = choose_backend(settings.backend, settings.threads, settings.precision, bundle)
        self.device = f"{backend.name}, {backend.device}"
        self.codec = open_timed_codec(bundle, backend, clock)

    def encode(self, sound: np.ndarray) -> np.ndarray:
        return self.codec.encode(sound, batch=self.settings.encode_batch).codes

    def decode(self, codes: np.ndarray, steps: int) -> np.ndarray:
        sampling = self.settings.sampling
        options = DecodeOptions(**asdict(replace(sampling, steps=steps))) if sampling else None
        return self.codec.decode(codes, options, batch=self.settings.decode_batch)


class PublishedSide:
    """The published procedure in PyTorch eager, on the weights that the bundle was made from."""

    device = "torch, CPU"

    def __init__(self, settings: Settings, clock: StageClock) -> None:
        import torch

        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.sampling = settings.published_sampling
        bundle = Bundle.load(settings.bundle)
        self.codec = find_subject(bundle).open_published(bundle, settings.checkpoint, clock.lap)

    def encode(self, sound: np.ndarray) -> np.ndarray:
        return self.codec.encode(sound)

    def decode(self, codes: np.ndarray, steps: int) -> np.ndarray:
        return self.codec.decode(codes, replace(self.sampling, steps=steps) if self.sampling else None)


SIDES: dict[str, Callable[[Settings, StageClock], Side]] = {"runtime": RuntimeSide, "published": PublishedSide}


class SideProgram:
    """What the process of one side runs (`bench.harness.processes.Program`)."""

    def __init__(self, side: str, direction: str, settings: Settings) -> None:
        self.direction, self.clock = direction, StageClock()
        self.config = Bundle.load(settings.bundle).choose_config()
        self.side = SIDES[side](settings, self.clock)

    def answer(self, seconds: float, steps: int, settle_seconds: float = SETTLE_SECONDS) -> Run:
        """Wait, then encode or decode `seconds` of audio once."""
        is_encoding = self.direction == "encode"
        given = make_sound(seconds, self.config.sample_rate) if is_encoding else make_codes(seconds, self.config)
        time.sleep(settle_seconds)
        self.clock.start()
        cpu = time.process_time()
        output = self.side.encode(given) if is_encoding else self.side.decode(given, steps)
        self.clock.lap("rest")
        spent = time.process_time() - cpu
        return Run(self.clock.stages, measure_peak_memory(), self.side.device, output[:COMPARED], spent)
