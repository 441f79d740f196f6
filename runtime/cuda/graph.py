"""Graphs of a bundle on one GPU: bound to addresses there, or run on arrays of the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from sc_runtime.once import OnceEach
from sc_runtime.spec import GraphSpec, TensorSpec

from .device import Device, Memory

RECENT = 4  #: batch sizes that stay prepared; each holds the memory that its graphs work in

Addresses = Mapping[str, int]  #: tensor -> where it lies on the GPU
Shapes = Mapping[str, tuple[int, ...]]


class Call(Protocol):
    """A graph with its shapes and addresses fixed."""

    def enqueue(self) -> None:
        """Put one run on the device's stream and return. Raises BackendError."""
        ...


Prepare = Callable[[Shapes, Addresses], Call]  #: fixes the shapes and addresses of all inputs and outputs of a graph
ExplainCapture = Callable[[Mapping[str, int]], str | None]  #: as `DeviceGraph.explain_capture`, of the axes' sizes
RunStage = Callable[[str, Callable[[], None]], None]  #: called with the name of a stage and what enqueues it


def enqueue_stage(stage: str, enqueue: Callable[[], None]) -> None:
    """Put a stage on the device's stream. A benchmark waits for each stage instead."""
    enqueue()


class DeviceGraph:
    """One graph on a GPU.

    `run` takes and returns arrays of the host; several threads may call it. `bind` works on addresses and copies
    nothing; its caller holds the device's lock.
    """

    def __init__(
        self,
        device: Device,
        spec: GraphSpec,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        prepare: Prepare,
        explain: ExplainCapture = lambda axes: None,
        record: Prepare | None = None,
    ) -> None:
        """
        explain: see `explain_capture`.
        record: as `prepare`, of a call whose library makes a CUDA graph of its first run and replays it.
        """
        self.device, self.spec, self.inputs, self.outputs, self._prepare = device, spec, inputs, outputs, prepare
        self._explain, self._record = explain, record
        self._tensors = {**inputs, **outputs}
        self._calls: OnceEach[tuple[tuple[str, int], ...], tuple[dict[str, Memory], Call]] = OnceEach(RECENT)

    def resolve(self, **axes: int) -> dict[str, tuple[int, ...]]:
        """The shapes of all inputs and outputs, from the sizes of the inputs' dynamic axes."""
        axes = self.spec.resolve_axes(axes)
        return {name: tensor.resolve(**axes) for name, tensor in self._tensors.items()}

    def count_bytes(self, **axes: int) -> dict[str, int]:
        """The bytes of each input and output."""
        shapes = self.resolve(**axes)
        return {name: math.prod(shapes[name]) * np.dtype(each.dtype).itemsize for name, each in self._tensors.items()}

    def bind(self, addresses: Addresses, **axes: int) -> Call:
        """The graph for inputs of these sizes, reading and writing at `addresses`."""
        return self._prepare(self.resolve(**axes), addresses)

    @property
    def records_itself(self) -> bool:
        """Whether its library makes the CUDA graph of a run. If not, `Device.capture` does."""
        return self._record is not None

    def bind_recorded(self, addresses: Addresses, **axes: int) -> Call:
        """As `bind`, of a graph that records itself: the first run makes a CUDA graph, later runs replay it."""
        assert self._record is not None
        return self._record(self.resolve(**axes), addresses)

    def explain_capture(self, **axes: int) -> str | None:
        """Why a run of these sizes must not become a CUDA graph, or None. It may take seconds, once."""
        return self._explain(axes)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        axes = {
            axis: size
            for name, spec in self.inputs.items()
            for axis, size in zip(spec.shape, feeds[name].shape, strict=True)
            if isinstance(axis, str)
        }
        shapes = self.resolve(**axes)
        results = {name: np.empty(shapes[name], spec.dtype) for name, spec in self.outputs.items()}
        with self.device.lock:
            memories, call = self._calls.get(tuple(axes.items()), lambda: self._open(**axes))
            for name, spec in self.inputs.items():
                self.device.write(memories[name].address, feeds[name].astype(spec.dtype, copy=False))
            call.enqueue()
            for name, array in results.items():
                self.device.read(memories[name].address, array)
        return results

    def _open(self, **axes: int) -> tuple[dict[str, Memory], Call]:
        memories = {name: self.device.allocate(size) for name, size in self.count_bytes(**axes).items()}
        return memories, self.bind({name: memory.address for name, memory in memories.items()}, **axes)
