"""What the server measures of itself, as Prometheus reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
WINDOWS = (1, 2, 4, 8, 12, 16)
PREFIX = "sc_runtime_"


class Metrics:
    """The metrics of one server.

    Stages of a request: `read` its body, `prepare` its sound (reading, resampling, spectrograms), `wait` of a
    decoding for its turn, `encode` with the wait for a batch, `decode`, `write` the answer's sound.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            PREFIX + "requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.latency = Histogram(
            PREFIX + "request_seconds", "Seconds of a request.", ["route"], buckets=LATENCY, registry=registry
        )
        self.stages = Histogram(
            PREFIX + "stage_seconds", "Seconds of a request in a stage.", ["stage"], buckets=LATENCY, registry=registry
        )
        self.first_sound = Histogram(
            PREFIX + "first_sound_seconds",
            "Seconds from a request for sound to its first piece.",
            buckets=LATENCY,
            registry=registry,
        )
        self.batches = Histogram(
            PREFIX + "batch_windows", "Windows that were encoded together.", buckets=WINDOWS, registry=registry
        )
        self.groups = Histogram(
            PREFIX + "group_windows", "Windows that were decoded together.", buckets=WINDOWS, registry=registry
        )
        self.queue = Gauge(PREFIX + "queue", "Requests that are received, waiting or running.", registry=registry)
        self.streams = Gauge(PREFIX + "streams", "Streams that are open.", registry=registry)
        self.rejected = Counter(PREFIX + "rejected", "Requests refused, by reason.", ["reason"], registry=registry)
        self.abandoned = Counter(PREFIX + "abandoned", "Requests whose client left.", registry=registry)
        self.audio_seconds = Counter(
            PREFIX + "audio_seconds", "Seconds of sound that were processed.", ["direction"], registry=registry
        )
        self.factor = Histogram(
            PREFIX + "real_time_factor",
            "Seconds of a request in the networks, per second of its sound.",
            ["direction"],
            buckets=FACTORS,
            registry=registry,
        )

    @contextmanager
    def measure_stage(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(stage).observe(time.perf_counter() - started)

    def count_sound(self, direction: str, seconds: float, spent: float) -> None:
        """Count sound of `seconds` for which a request was `spent` seconds in the networks."""
        self.audio_seconds.labels(direction).inc(seconds)
        if seconds:
            self.factor.labels(direction).observe(spent / seconds)

    def to_text(self) -> bytes:
        return generate_latest(self.registry)
