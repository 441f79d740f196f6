"""One NVIDIA GPU through cuda-core and cuda-bindings: memory, one stream, copies, CUDA graphs, the solver's kernel."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from ..bundle import Bundle
from ..cuda_centroids import Gpu, Memory
from ..cuda_source import check, find_source, import_core, load_cubin
from ..errors import BackendError, MissingExtraError
from ..plans import find_capability
from ..semanticodec.config import LATENT_SHAPE
from ..semanticodec.samplers import PHILOX_DOMAIN
from .base import Arrays, first_line

THREADS = 128  #: of a block of kernels/solver.cu
LANES = int(np.prod(LATENT_SHAPE)) // 8  #: its threads for one window
RECENT = 4  #: sizes of batches that stay prepared; each holds the memory that its graphs work in

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")
Addresses = Mapping[str, int]  #: tensor -> where it lies on the GPU
Shapes = Mapping[str, tuple[int, ...]]


class Call(Protocol):
    """A graph with its shapes and addresses fixed."""

    def enqueue(self) -> None:
        """Put one run on the device's stream and return. Raises BackendError."""
        ...


Prepare = Callable[[Shapes, Addresses], Call]  #: one graph, for shapes and addresses of all inputs and outputs


@dataclass(frozen=True)
class Replay:
    """Work for the device, ready to be repeated: `refusal` None, or why it is not one CUDA graph."""

    launch: Callable[[], None]
    refusal: str | None = None


class Device:
    """The first GPU. Everything goes through one stream, in order; only `read` and `sync` wait for it.

    Raises MissingExtraError without cuda-core, BackendError without a GPU that can run the kernels.
    """

    def __init__(self) -> None:
        if (reason := explain_absence()) is not None:
            raise BackendError(reason, "an NVIDIA GPU that works", "use --backend onnxruntime")
        self.gpu = Gpu()
        core = import_core()
        self._device = core.Device(0)
        self._device.set_current()
        self.name = str(self._device.name)
        self._held = self._device.create_stream()
        self.stream = int(self._held.handle)  #: a cudaStream_t's address
        self._launch, self._config = core.launch, core.LaunchConfig
        self._advance = core.ObjectCode.from_cubin(load_solver(self.gpu.arch)).get_kernel("advance")

    def allocate(self, size: int) -> Memory:
        """`size` bytes, given back with the last reference. Raises BackendError when there are not so many."""
        return self.gpu.allocate(max(size, 1))

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy `array` to `address`; it may be changed when this returns."""
        from cuda.bindings import driver

        self._device.set_current()  # another thread's first step is always to write
        array = np.ascontiguousarray(array)
        check(driver.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, self.stream))

    def read(self, address: int, array: np.ndarray) -> None:
        """Fill the contiguous `array` from `address`, when everything before has been done."""
        from cuda.bindings import driver

        check(driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, self.stream))
        self.sync()

    def copy_rows(self, source: int, target: int, rows: int, pitch: int, width: int) -> None:
        """Of `rows` rows, `pitch` bytes apart, the first `width` bytes of each, close together."""
        from cuda.bindings import driver

        copy = driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch = driver.CUdeviceptr(source), pitch
        copy.dstDevice, copy.dstPitch = driver.CUdeviceptr(target), width
        copy.WidthInBytes, copy.Height = width, rows
        check(driver.cuMemcpy2DAsync(copy, self.stream))

    def advance(self, addresses: tuple[int, ...], batch: int, row: int) -> None:
        """Launch kernels/solver.cu for `row` of its table; `addresses` are its arguments up to `sources`."""
        config = self._config(grid=(LANES // THREADS, batch), block=THREADS)
        arguments = (*addresses, PHILOX_DOMAIN, np.int32(batch), np.int32(row))
        self._launch(self._held, config, self._advance, *arguments)

    def capture(self, work: Callable[[], None]) -> Replay:
        """`work`, which only enqueues and has been done before, as one CUDA graph; where that is refused, as it is."""
        from cuda.bindings import driver

        self.sync()
        check(driver.cuStreamBeginCapture(self.stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        refusal = None
        try:
            work()
        except Exception as error:  # whatever the library raises, it may still run without a graph
            refusal = first_line(error)
        status, graph = driver.cuStreamEndCapture(self.stream)
        if refusal is None and int(status):
            refusal = status.name
        if refusal is not None:
            with suppress(Exception):  # the library may yet report what went wrong in the capture
                work()
            return Replay(work, refusal)
        (ready,) = check(driver.cuGraphInstantiate(graph, 0))
        check(driver.cuGraphDestroy(graph))

        def launch() -> None:
            check(driver.cuGraphLaunch(ready, self.stream))

        weakref.finalize(launch, driver.cuGraphExecDestroy, ready)
        return Replay(launch)

    def sync(self) -> None:
        """Wait until the stream has nothing left to do."""
        from cuda.bindings import driver

        check(driver.cuStreamSynchronize(self.stream))


class ResidentGraph:
    """One graph on a GPU: `run` takes and gives arrays of the host, `bind` works on addresses and copies nothing."""

    def __init__(self, device: Device, bundle: Bundle, graph: str, prepare: Prepare) -> None:
        self.device, self.entry, self._prepare = device, bundle.manifest.graphs[graph], prepare
        self._measure_axes = partial(bundle.manifest.model.measure_axes, graph)
        self._calls: dict[tuple[tuple[str, int], ...], tuple[dict[str, Memory], Call]] = {}

    def resolve(self, **axes: int) -> dict[str, tuple[int, ...]]:
        """The shapes of all inputs and outputs, from the sizes of the inputs' dynamic axes."""
        axes = self._measure_axes(axes)
        return {name: spec.resolve(**axes) for name, spec in {**self.entry.inputs, **self.entry.outputs}.items()}

    def count_bytes(self, **axes: int) -> dict[str, int]:
        """What each of them takes."""
        dtypes = {name: np.dtype(spec.dtype) for name, spec in {**self.entry.inputs, **self.entry.outputs}.items()}
        return {name: math.prod(shape) * dtypes[name].itemsize for name, shape in self.resolve(**axes).items()}

    def bind(self, addresses: Addresses, **axes: int) -> Call:
        """The graph for inputs of these sizes, reading and writing at `addresses`."""
        return self._prepare(self.resolve(**axes), addresses)

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        axes = {
            axis: size
            for name, spec in self.entry.inputs.items()
            for axis, size in zip(spec.shape, feeds[name].shape, strict=True)
            if isinstance(axis, str)
        }
        memories, call = keep_recent(self._calls, tuple(axes.items()), lambda: self._open(**axes))
        for name, spec in self.entry.inputs.items():
            self.device.write(memories[name].address, feeds[name].astype(spec.dtype, copy=False))
        call.enqueue()
        shapes = self.resolve(**axes)
        results = {name: np.empty(shapes[name], spec.dtype) for name, spec in self.entry.outputs.items()}
        for name, array in results.items():
            self.device.read(memories[name].address, array)
        return results

    def _open(self, **axes: int) -> tuple[dict[str, Memory], Call]:
        memories = {name: self.device.allocate(size) for name, size in self.count_bytes(**axes).items()}
        return memories, self.bind({name: memory.address for name, memory in memories.items()}, **axes)


def explain_absence() -> str | None:
    """Why no GPU can be used here, or None."""
    try:
        import_core()
    except MissingExtraError as error:
        return f"{error.given}: {error.remedy}"
    return None if find_capability() else "no NVIDIA GPU with a driver of CUDA 13 or newer is found"


def load_solver(arch: str) -> bytes:
    """The cubin of kernels/solver.cu for `arch`, as `load_cubin` has it."""
    return load_cubin(find_source("solver.cu"), arch)


def keep_recent(kept: dict[Key, Made], key: Key, make: Callable[[], Made]) -> Made:
    """What `kept` holds under `key`, made where it is not there; of the others, the `RECENT` latest stay."""
    made = kept.pop(key) if key in kept else None
    while made is None and len(kept) >= RECENT:
        del kept[next(iter(kept))]
    kept[key] = make() if made is None else made
    return kept[key]
