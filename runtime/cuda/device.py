"""One NVIDIA GPU through cuda-core and cuda-bindings: memory, one stream, copies, kernels, CUDA graphs."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import BackendError, MissingExtraError, first_line

from .source import Macro, check, find_source, import_core, load_cubin

NO_GPU = "no NVIDIA GPU with a driver of CUDA 13 or newer is found"
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
    """Work for the device that can be launched again. `refusal`: why it is not one CUDA graph; None if it is one."""

    launch: Callable[[], None]
    refusal: str | None = None


class Device:
    """One GPU. Its copies and kernels go through one stream, in order; `upload`, `read` and `sync` wait for it.

    Any thread may call it. Several calls that belong together, from the first `write` to the last `read`, are made
    while `lock` is held: another thread's work then cannot come between them, nor be recorded in a CUDA graph.

    Raises MissingExtraError without cuda-core, BackendError without a GPU or a driver that works.
    """

    def __init__(self, ordinal: int = 0) -> None:
        self._core = import_core()
        from cuda.bindings import driver

        self._driver = driver
        self.lock = threading.RLock()
        self._loaded: dict[tuple[str, Macro | None], Any] = {}
        try:
            self._device = self._core.Device(ordinal)
            self._device.set_current()
            self.name = str(self._device.name)
            self.arch = "sm_{}{}".format(*self._device.compute_capability)
            self.processors = int(self._device.properties.multiprocessor_count)
            self._stream = self._device.create_stream()
        except Exception as error:  # Python, the loader and CUDA raise errors that share no base
            given = f"{NO_GPU} (device {ordinal}: {first_line(error)})"
            raise BackendError(given, "an NVIDIA GPU and its driver", "use --backend onnxruntime") from error
        self.stream = int(self._stream.handle)  #: the address of a cudaStream_t

    def load_kernels(
        self, source: str, threads: int, shared_bytes: Mapping[str, int], macro: Macro | None = None
    ) -> dict[str, Kernel]:
        """Compile kernels/`source` for this GPU and load the kernels named in `shared_bytes`.

        `threads`: of a block. `shared_bytes`: name -> bytes of dynamic shared memory that a block asks for. A source
        that was loaded before, with the same macro, is not loaded again. Raises BackendError.
        """
        with self.lock:
            key = (source, macro)
            cubin = b"" if key in self._loaded else load_cubin(find_source(source), self.arch, macro)
            self._device.set_current()
            try:
                if key not in self._loaded:
                    self._loaded[key] = self._core.ObjectCode.from_cubin(cubin)
                loaded = self._loaded[key]
                kernels = {name: Kernel(loaded.get_kernel(name), threads, size) for name, size in shared_bytes.items()}
                for kernel in kernels.values():
                    if kernel.shared_bytes:
                        self._allow_shared(kernel)
            except Exception as error:
                given = f"kernels/{source} for {self.arch} cannot be loaded ({first_line(error)})"
                raise BackendError(given, "a driver of CUDA 13 or newer", "update the NVIDIA driver") from error
        return kernels

    def allocate(self, size: int) -> Memory:
        """`size` bytes that any stream may use. Raises BackendError if the GPU has too little memory.

        It waits for the whole GPU, so that no work still uses memory that was freed before.
        """
        with self.lock:
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
        with self.lock:
            memory = self.allocate(array.nbytes)
            self.write(memory.address, array)
            self.sync()
        return memory

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy `array` to `address`, in the stream's order. `array` may be changed when this returns."""
        array = np.ascontiguousarray(array)
        self._call(self._driver.cuMemcpyHtoDAsync, address, array.ctypes.data, array.nbytes, self.stream)

    def read(self, address: int, array: npt.NDArray[Any]) -> None:
        """Fill the contiguous `array` from `address`, after everything that is in the stream."""
        self._call(self._driver.cuMemcpyDtoHAsync, array.ctypes.data, address, array.nbytes, self.stream)
        self.sync()

    def copy_rows(self, source: int, target: int, rows: int, pitch: int, width: int) -> None:
        """Copy the first `width` bytes of each of `rows` rows that lie `pitch` bytes apart; the copies are packed."""
        copy = self._driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch = self._driver.CUdeviceptr(source), pitch
        copy.dstDevice, copy.dstPitch = self._driver.CUdeviceptr(target), width
        copy.WidthInBytes, copy.Height = width, rows
        self._call(self._driver.cuMemcpy2DAsync, copy, self.stream)

    def launch(
        self,
        kernel: Kernel,
        grid: int | tuple[int, int],
        arguments: Sequence[Argument],
        stream: int | None = None,
        together: bool = False,
    ) -> None:
        """Enqueue `kernel` with `grid` blocks on `stream`, the address of a cudaStream_t.

        None is the device's own stream, 0 CUDA's default stream. With `together` the launch is cooperative: all blocks
        run at once and may wait for each other. CUDA refuses it if the GPU has no room for all of them.
        """
        self._device.set_current()
        queue = self._stream
        if stream is not None:
            queue = self._core.Stream.from_handle(stream) if stream else self._device.default_stream
        options = {}
        if together:  # cuda-core 0.7 has another name for it
            name = "is_cooperative" if hasattr(self._core.LaunchConfig, "is_cooperative") else "cooperative_launch"
            options = {name: True}
        config = self._core.LaunchConfig(grid=grid, block=kernel.threads, shmem_size=kernel.shared_bytes, **options)
        self._core.launch(queue, config, kernel.handle, *arguments)

    def capture(self, work: Callable[[], None]) -> Replay:
        """`work` as one CUDA graph, or as a plain call if a library refuses to be recorded.

        `work` must only enqueue, and must have run before.
        """
        with self.lock:
            self.sync()
            mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
            self._call(self._driver.cuStreamBeginCapture, self.stream, mode)
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
            (ready,) = self._call(self._driver.cuGraphInstantiate, graph, 0)
            self._call(self._driver.cuGraphDestroy, graph)

        def launch() -> None:
            self._call(self._driver.cuGraphLaunch, ready, self.stream)

        weakref.finalize(launch, self._driver.cuGraphExecDestroy, ready)
        return Replay(launch)

    def sync(self) -> None:
        """Wait until the stream has nothing left to do."""
        self._call(self._driver.cuStreamSynchronize, self.stream)

    def sync_all(self) -> None:
        """Wait until no stream of the GPU has anything left to do."""
        self._call(self._driver.cuCtxSynchronize)

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
        """Call `function` of the driver on this GPU. CUDA's current context is set first: each thread has its own."""
        self._device.set_current()
        return check(function(*arguments))

    def _allow_shared(self, kernel: Kernel) -> None:
        """Allow `kernel` the shared memory that it asks for. More than 48 KiB need this call."""
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        device = self._device.device_id
        self._call(self._driver.cuKernelSetAttribute, attribute, kernel.shared_bytes, kernel.handle.handle, device)


def find_capability() -> tuple[int, int] | None:
    """The compute capability of the first GPU, or None where there is no GPU, no driver or no cuda-core."""
    try:
        from cuda.core import Device as CoreDevice

        major, minor = CoreDevice(0).compute_capability
    except Exception:  # Python, the loader and CUDA raise errors that share no base
        return None
    return int(major), int(minor)


def explain_absence() -> str | None:
    """Why no GPU can be used here, or None."""
    try:
        import_core()
    except MissingExtraError as error:
        return f"{error.given}: {error.remedy}"
    return None if find_capability() else NO_GPU
