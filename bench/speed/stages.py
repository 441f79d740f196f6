"""Times by stage: a clock, and a backend and a model that charge each stage's time to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from sc_runtime.audio import Audio
from sc_runtime.backends.base import Backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.codec import Codec
from sc_runtime.cuda.device import Device
from sc_runtime.model import Model, WindowPlan
from sc_runtime.networks import Arrays, CompiledGraph, Graph, Networks, Search, Shapes
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.semanticodec.model import SemantiCodecModel
from sc_runtime.semanticodec.noise import WindowNoise
from sc_runtime.semanticodec.presets import Sampling
from sc_runtime.semanticodec.resident import ResidentDecoder
from sc_runtime.semanticodec.resident_encoder import ResidentEncoder
from sc_runtime.unicodec.model import UniCodecModel
from sc_runtime.unicodec.resident import ResidentUniCodec

#: Graph -> its stage, where the names differ.
GRAPH_STAGES = {"tunet_step": "tunet", "routed_encoder": "encoder"}


class StageClock:
    """Splits the time of a run into stages. Nothing is charged until `start` is called."""

    def __init__(self) -> None:
        self.is_running = False
        self.stages: dict[str, float] = {}  #: seconds by stage since the start
        self.latest = ""
        self.mark = 0.0

    def start(self) -> None:
        self.is_running, self.stages, self.latest = True, {}, ""
        self.mark = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Charge the time since the last lap to `stage`."""
        if not self.is_running:
            return
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.mark
        self.latest, self.mark = stage, now

    def lap_host(self) -> None:
        """Charge the time since the last lap to "rest", or to "tunet" after a T-UNet call: then it is the solver's."""
        self.lap("tunet" if self.latest == "tunet" else "rest")


class TimedBackend:
    """A backend that charges the runs of each graph to the graph's stage, and searches to "centroids"."""

    def __init__(self, backend: Backend, clock: StageClock) -> None:
        self.backend, self.clock = backend, clock
        self.name, self.device, self.encode_batch = backend.name, backend.device, backend.encode_batch

    @property
    def gpu(self) -> Device | None:
        return self.backend.gpu

    def open(self, bundle: Bundle, graph: str) -> Graph:
        opened = self.backend.open(bundle, graph)
        if self.gpu is not None:  # there the codec's resident class is timed, and it needs the `DeviceGraph` itself
            return opened
        return TimedGraph(opened, GRAPH_STAGES.get(graph, graph), self.clock)

    def open_search(self, codebook: np.ndarray) -> Search:
        search = self.backend.open_search(codebook)
        return search if self.gpu is not None else TimedSearch(search, self.clock)


class TimedSearch:
    """A search that charges its time to "centroids"."""

    def __init__(self, search: Search, clock: StageClock) -> None:
        self.inner, self.clock = search, clock

    def search(self, queries: np.ndarray) -> np.ndarray:
        self.clock.lap_host()
        found = self.inner.search(queries)
        self.clock.lap("centroids")
        return found


class TimedGraph:
    """A graph that charges its time to `stage`."""

    def __init__(self, graph: Graph, stage: str, clock: StageClock) -> None:
        self.graph, self.stage, self.clock = graph, stage, clock
        self.shared = graph.shared if isinstance(graph, CompiledGraph) else frozenset[str]()

    def prepare(self, shapes: Shapes) -> None:
        if isinstance(self.graph, CompiledGraph):
            self.graph.prepare(shapes)

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        self.clock.lap_host()
        outputs = self.graph.run(feeds)
        self.clock.lap(self.stage)
        return outputs


class TimedDecoder(ResidentDecoder):
    """A decoder on a GPU that waits for it after each stage, which costs about ten microseconds a stage."""

    def __init__(self, device: Device, networks: Networks, clock: StageClock) -> None:
        super().__init__(device, networks)
        self.clock = clock

    def run(
        self,
        codes: list[np.ndarray],
        config: SemantiCodecConfig,
        sampling: Sampling,
        noises: Sequence[WindowNoise],
        samples: int,
    ) -> np.ndarray:
        if not self.clock.is_running:
            return super().run(codes, config, sampling, noises, samples)
        with self.device.lock:
            group = self.prepare(len(codes))
            stages: dict[str, Callable[[], None]] = {
                "conditioning": partial(self.condition, group, codes, config),
                "tunet": partial(group.denoise, sampling, config.schedule, noises),
                "vae_decoder": group.decode_latent,
            }
            self.clock.lap("rest")
            for stage, enqueue in stages.items():
                enqueue()
                self.device.sync()
                self.clock.lap(stage)
            sound = group.vocode(samples)
            self.clock.lap("hifigan")
        return sound


def time_stage(clock: StageClock, device: Device, stage: str, enqueue: Callable[[], None]) -> None:
    """Run a stage on `device` to its end, and charge its time to it."""
    clock.lap_host()
    enqueue()
    if clock.is_running:
        device.sync()
    clock.lap(stage)


class TimedSemantiCodec(SemantiCodecModel):
    """SemantiCodec that charges the filterbank and, on a GPU, the stages."""

    def __init__(self, networks: Networks, clock: StageClock) -> None:
        super().__init__(networks)
        self.clock = clock

    def plan_windows(self, recording: Audio, config: SemantiCodecConfig) -> WindowPlan:
        plan = super().plan_windows(recording, config)
        return replace(plan, windows=self.time_windows(plan.windows))

    def time_windows(self, windows: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield `windows`, and charge their computation to the filterbank: each is computed when it is asked for."""
        self.clock.lap_host()
        for window in windows:
            self.clock.lap("fbank")
            yield window
            self.clock.lap_host()

    @cached_property
    def decoder(self) -> ResidentDecoder | None:
        device = self.networks.device
        return None if device is None else TimedDecoder(device, self.networks, self.clock)

    @cached_property
    def encoder(self) -> ResidentEncoder | None:
        device = self.networks.device
        return (
            None if device is None else ResidentEncoder(device, self.networks, partial(time_stage, self.clock, device))
        )


class TimedUniCodec(UniCodecModel):
    """UniCodec that times its stages on a GPU.

    If the runtime uses the host there, the graphs' time counts as "rest".
    """

    def __init__(self, networks: Networks, clock: StageClock) -> None:
        super().__init__(networks)
        self.clock = clock

    def open_resident(self, device: Device) -> ResidentUniCodec:
        return ResidentUniCodec(device, self.networks, partial(time_stage, self.clock, device))


TimedModel = Callable[[Networks, StageClock], Model]  #: makes a model that charges its stages to the clock
MODELS: dict[str, TimedModel] = {
    TimedSemantiCodec.spec.name: TimedSemantiCodec,
    TimedUniCodec.spec.name: TimedUniCodec,
}


def open_timed_codec(
    bundle: Bundle, backend: Backend, clock: StageClock, models: Mapping[str, TimedModel] = MODELS
) -> Codec:
    """The codec of `bundle` on `backend`, which charges its stages to `clock`.

    Of a codec that `models` lacks, the graphs and searches are timed on the host, and nothing on a GPU.
    """
    make = models.get(bundle.manifest.codec)
    if make is None:
        return Codec(bundle, TimedBackend(backend, clock) if backend.gpu is None else backend)
    return Codec(bundle, TimedBackend(backend, clock), lambda networks: make(networks, clock))
