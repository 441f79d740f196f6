"""One NVIDIA GPU through cuda-core and cuda-bindings: memory, one stream, copies, kernels, CUDA graphs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import BackendError, MissingExtraError, first_line

from .source import Macro, check, find_source, import_core, load_cubin

Argument = int | np.int32 | np.uint64 | float  #: of a kernel: an address, an int, a 64-bit word, a double


@dataclass(frozen=True)
class Memory:
    """Bytes on a GPU, freed when the last reference to `owner` goes."""

    address: int
    size: int
    owner: object = field(repr=False)


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel: the threads of a block, and the bytes of shared memory that a block asks for."""

    handle: Any
    threads: int
    shared_bytes: int = 0


@dataclass(frozen=True)
class Replay:
    """Work for the device that can be launched again. `refusal` says why it is not one CUDA graph; None if it is."""

    launch: Callable[[], None]
    refusal: str | None = None


class Device:
    """One GPU. Its copies and kernels go through one stream, in order; only `upload`, `read` and `sync` wait for it.

    Raises MissingExtraError without cuda-core, BackendError without a GPU or a driver that works.
    """

    def __init__(self, ordinal: int = 0) -> None:
        self._core = import_core()
        from cuda.bindings import driver

        self._driver = driver
        try:
            self._device = self._core.Device(ordinal)
            self._device.set_current()
            self.name = str(self._device.name)
            self.arch = "sm_{}{}".format(*self._device.compute_capability)
            self.processors = int(self._device.properties.multiprocessor_count)
            self._stream = self._device.create_stream()
        except Exception as error:  # what is missing decides whose error it is: Python's, the loader's or CUDA's
            given = f"no CUDA device {ordinal} ({first_line(error)})"
            raise BackendError(given, "an NVIDIA GPU and its driver", "use --backend onnxruntime") from error
        self.stream = int(self._stream.handle)  #: the address of a cudaStream_t

    def load_kernels(
        self, source: str, threads: int, shared_bytes: Mapping[str, int], macro: Macro | None = None
    ) -> dict[str, Kernel]:
        """Compile kernels/`source` for this GPU and load the kernels named in `shared_bytes`.

        `shared_bytes`: name -> bytes of dynamic shared memory that a block asks for. Raises BackendError.
        """
        cubin = load_cubin(find_source(source), self.arch, macro)
        try:
            loaded = self._core.ObjectCode.from_cubin(cubin)
            kernels = {name: Kernel(loaded.get_kernel(name), threads, size) for name, size in shared_bytes.items()}
            for kernel in kernels.values():
                if kernel.shared_bytes:
                    self._allow_shared(kernel)
        except Exception as error:
            given = f"kernels/{source} for {self.arch} cannot be loaded ({first_line(error)})"
            raise BackendError(given, "a driver of CUDA 13 or newer", "update the NVIDIA driver") from error
        return kernels

    def allocate(self, size: int) -> Memory:
        """`size` bytes that any stream may use. Raises BackendError when there are not so many."""
        self._device.set_current()
        try:
            buffer = self._device.allocate(max(size, 1), stream=self._device.default_stream)
        except Exception as error:
            given = f"{size} bytes on the GPU ({first_line(error)})"
            raise BackendError(given, "enough free memory there", "end other programs on it") from error
        self.sync_all()
        return Memory(int(buffer.handle), size, buffer)

    def upload(self, array: npt.NDArray[Any]) -> Memory:
        """A copy of `array` in memory of its own, which any stream may read."""
        memory = self.allocate(array.nbytes)
        self.write(memory.address, array)
        self.sync()
        return memory

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy `array` to `address`, in the stream's order. `array` may be changed when this returns."""
        self._device.set_current()  # another thread's first step is always to write
        array = np.ascontiguousarray(array)
        check(self._driver.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, self.stream))

    def read(self, address: int, array: npt.NDArray[Any]) -> None:
        """Fill the contiguous `array` from `address`, after everything that is in the stream."""
        check(self._driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, self.stream))
        self.sync()

    def copy_rows(self, source: int, target: int, rows: int, pitch: int, width: int) -> None:
        """Copy the first `width` bytes of each of `rows` rows that lie `pitch` bytes apart; the copies are packed."""
        copy = self._driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch = self._driver.CUdeviceptr(source), pitch
        copy.dstDevice, copy.dstPitch = self._driver.CUdeviceptr(target), width
        copy.WidthInBytes, copy.Height = width, rows
        check(self._driver.cuMemcpy2DAsync(copy, self.stream))

    def launch(
        self, kernel: Kernel, grid: int | tuple[int, int], arguments: Sequence[Argument], stream: int | None = None
    ) -> None:
        """Enqueue `kernel` with `grid` blocks on `stream`, the address of a cudaStream_t; None is this one's own."""
        self._device.set_current()
        on = self._stream
        if stream is not None:
            on = self._core.Stream.from_handle(stream) if stream else self._device.default_stream
        config = self._core.LaunchConfig(grid=grid, block=kernel.threads, shmem_size=kernel.shared_bytes)
        self._core.launch(on, config, kernel.handle, *arguments)

    def capture(self, work: Callable[[], None]) -> Replay:
        """`work` as one CUDA graph, or as it is where a library refuses to be recorded.

        `work` only enqueues, and has been done before.
        """
        self.sync()
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        check(self._driver.cuStreamBeginCapture(self.stream, mode))
        refusal = None
        try:
            work()
        except Exception as error:  # whatever the library raises, it may still run without a graph
            refusal = first_line(error)
        status, graph = self._driver.cuStreamEndCapture(self.stream)
        if refusal is None and int(status):
            refusal = status.name
        if refusal is not None:
            with suppress(Exception):  # the library may yet report what went wrong in the capture
                work()
            return Replay(work, refusal)
        (ready,) = check(self._driver.cuGraphInstantiate(graph, 0))
        check(self._driver.cuGraphDestroy(graph))

        def launch() -> None:
            check(self._driver.cuGraphLaunch(ready, self.stream))

        weakref.finalize(launch, self._driver.cuGraphExecDestroy, ready)
        return Replay(launch)

    def sync(self) -> None:
        """Wait until the stream has nothing left to do."""
        check(self._driver.cuStreamSynchronize(self.stream))

    def sync_all(self) -> None:
        """Wait until no stream of the GPU has anything left to do."""
        check(self._driver.cuCtxSynchronize())

    def _allow_shared(self, kernel: Kernel) -> None:
        """A kernel gets more than 48 KiB of shared memory only after this call."""
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        device = self._device.device_id
        check(self._driver.cuKernelSetAttribute(attribute, kernel.shared_bytes, kernel.handle.handle, device))


def find_capability() -> tuple[int, int] | None:
    """The compute capability of the first GPU, or None where there is no GPU, no driver or no cuda-core."""
    try:
        from cuda.core import Device as CoreDevice

        major, minor = CoreDevice(0).compute_capability
    except Exception:  # what is missing decides whose error it is: Python's, the loader's or CUDA's
        return None
    return int(major), int(minor)


def explain_absence() -> str | None:
    """Why no GPU can be used here, or None."""
    try:
        import_core()
    except MissingExtraError as error:
        return f"{error.given}: {error.remedy}"
    return None if find_capability() else "no NVIDIA GPU with a driver of CUDA 13 or newer is found"
