"""Features → tokens on a CUDA GPU: kernels/nearest.cu, and what prepares its arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .backends.base import first_line
from .centroids import NORM_LIMIT, UNIT_ROUNDOFF
from .cuda_source import check, find_source, import_core, load_cubin
from .errors import BackendError, MissingExtraError, SettingsError

#: Sizes that kernels/nearest.cu is written for.
THREADS, WARPS = 256, 8
TILE_QUERIES, TILE_CENTROIDS, SLICE, GROUP = 128, 256, 64, 16
SLOT_BYTES = 2 * SLICE * (TILE_QUERIES + TILE_CENTROIDS) + 4 * (TILE_QUERIES + TILE_CENTROIDS)
MOST_STAGES = 4
LARGEST_EXPONENT = 30
SMALLEST_NORMAL = np.float16(2.0**-14)

#: KiB of shared memory a block may have (CUDA C++ programming guide, technical specifications); 99 on all others.
SHARED_KIB = {"80": 163, "87": 163, "90": 227, "100": 227, "103": 227}
QUERY_BLOCK = 4096  #: queries searched at a time: 32 MiB of group scores for 32768 centroids

Argument = int | np.int32 | float  #: of a kernel: an address, an int, a double


class CudaNearestCentroid:
    """Nearest-neighbour search in one codebook on a GPU, with the answers of `NearestCentroid`.

    FP16 tensor cores screen the codebook in one pass, with a bound on their error that kernels/nearest.cu proves, and
    float64 decides; of equals, the lowest index. The two classes add their float64 squares in different orders, so
    they may differ where two distances agree to some 13 digits and are not equal.

    On the GPU: the codebook as float32 and as float16, and what a block of up to `QUERY_BLOCK` queries needs. One
    search at a time: searches on several streams share that.
    """

    def __init__(self, codebook: npt.NDArray[np.float32], gpu: Gpu | None = None) -> None:
        """`codebook` float32 [N, D]; kept, not copied. `gpu` by default the first.

        Raises SettingsError for a codebook that `NearestCentroid` would refuse, MissingExtraError without cuda-core,
        BackendError without a GPU that can run it.
        """
        screened = screen_codebook(codebook)
        self.codebook = codebook
        self._gpu = gpu or Gpu()
        self._exact = self._gpu.upload(np.ascontiguousarray(codebook))
        self._mean = self._gpu.upload(screened.mean)
        self._halves = self._gpu.upload(screened.halves)
        self._negative_halves = self._gpu.upload(screened.negative_halves)
        self._order = self._gpu.upload(screened.order)
        self._reaches, self._residuals = self._gpu.upload(screened.reaches), self._gpu.upload(screened.residuals)
        columns = screened.halves.shape[1]
        self._screened = replace(screened, halves=np.empty((0, columns), np.float16))  # they are on the GPU
        self._scratch: Scratch | None = None

    def search(self, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Indices int32 [n] of the centroids nearest to `queries` float32 [n, D]; of equals, the lowest.

        Raises `SettingsError` for another shape or dtype and for values that are not finite.
        """
        width = self.codebook.shape[1]
        if queries.ndim != 2 or queries.shape[1] != width or queries.dtype != np.float32:
            raise SettingsError(f"queries of {_describe(queries)}", f"float32 [queries, {width}]")
        nearest = np.empty(len(queries), np.int32)
        if not len(queries):
            return nearest
        rows = min(len(queries), QUERY_BLOCK)
        given, found = self._gpu.allocate(4 * rows * width), self._gpu.allocate(4 * rows)
        for start in range(0, len(queries), rows):
            block = np.ascontiguousarray(queries[start : start + rows])
            self._gpu.write(given, block)
            self.search_on_device(given.address, len(block), found.address)
            self._gpu.read(found, nearest[start : start + rows])
        if nearest.min() < 0:
            self._refuse(queries[nearest.argmin()])
        return nearest

    def search_on_device(self, queries: int, count: int, nearest: int, stream: int = 0) -> None:
        """Put a search of `count` queries on `stream` and return; nothing is copied to or from the host.

        `queries` is the address of float32 [count, D] on the GPU, `nearest` that of int32 [count], where a query that
        is not finite (or longer than 10¹⁸ about the codebook's mean) gets −1. `stream` is a cudaStream_t's address, 0
        for the default stream. Under stream capture call `reserve` first.
        """
        self.reserve(count)
        width = self.codebook.shape[1]
        for start in range(0, count, QUERY_BLOCK):
            block = min(count - start, QUERY_BLOCK)
            self._search_block(queries + 4 * start * width, block, nearest + 4 * start, stream)

    def reserve(self, count: int) -> None:
        """Have the memory on the GPU that a search of `count` queries needs."""
        rows = _fill_up(min(max(count, 1), QUERY_BLOCK), TILE_QUERIES)
        if self._scratch is None or self._scratch.rows < rows:
            self._gpu.sync()  # searches under way may use what is let go
            self._scratch = None
            self._scratch = Scratch.allocate(self._gpu, rows, self._screened)

    def _search_block(self, queries: int, count: int, nearest: int, stream: int) -> None:
        screened, scratch = self._screened, self._scratch
        assert scratch is not None
        width = self.codebook.shape[1]
        rows, filled, padded = _fill_up(count, TILE_QUERIES), len(screened.order), screened.halves.shape[1]
        query_tiles, groups = rows // TILE_QUERIES, filled // GROUP
        tiles = query_tiles * (filled // TILE_CENTROIDS)
        halves, ratios, lengths, best = (part.address for part in scratch.parts)
        prepared: list[Argument] = [queries, self._mean.address, halves, ratios, lengths]
        prepared += [np.int32(size) for size in (count, rows, width, padded, screened.exponent)]
        self._gpu.launch("prepare", rows // WARPS, prepared, stream)
        screening: list[Argument] = [halves, ratios, self._halves.address, self._negative_halves.address, best]
        screening += [np.int32(size) for size in (query_tiles, tiles, padded // SLICE, groups)]
        self._gpu.launch("screen", min(tiles, self._gpu.processors), screening, stream)
        decision: list[Argument] = [queries, self._exact.address, best, lengths, self._order.address]
        decision += [self._reaches.address, self._residuals.address, nearest]
        decision += [np.int32(width), np.int32(groups), screened.slope]
        self._gpu.launch("decide", count, decision, stream)

    def _refuse(self, query: npt.NDArray[np.float32]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            norm = np.linalg.norm((query - self._screened.mean).astype(np.float64))
        raise SettingsError(f"query of norm {norm:g}", "finite features", "check the encoder's output")


@dataclass(frozen=True)
class ScreenedCodebook:
    """A codebook [N, D] as the kernels take it, in the notation of kernels/nearest.cu.

    Rows are sorted by length, which is `order`, and filled up to a multiple of 256, a tile; columns to one of 64.
    """

    mean: npt.NDArray[np.float32]  #: m [D]
    order: npt.NDArray[np.int32]  #: the index in the codebook of each row [rows], −1 where filled up
    halves: npt.NDArray[np.float16]  #: x̂, 2ᵇ·c' in normal float16 [rows, columns], zeros where filled up
    negative_halves: npt.NDArray[np.float32]  #: −h = −‖2ᵇ·c'‖² / 2 [rows], −∞ where filled up
    exponent: int  #: b
    reaches: npt.NDArray[np.float32]  #: X = max ‖2ᵇ·c'‖ of each tile, rounded up
    residuals: npt.NDArray[np.float32]  #: Δ = max ‖2ᵇ·c' − x̂‖ of each tile, rounded up
    slope: float  #: A = 4u·columns, of the tensor cores' accumulation


def screen_codebook(codebook: npt.NDArray[np.float32]) -> ScreenedCodebook:
    """Centre, scale and round `codebook` float32 [N, D]. Raises `SettingsError` as `NearestCentroid` does."""
    if codebook.ndim != 2 or codebook.dtype != np.float32 or 0 in codebook.shape:
        raise SettingsError(f"codebook of {_describe(codebook)}", "float32 [centroids, width]")
    with np.errstate(over="ignore", invalid="ignore"):
        mean = codebook.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = codebook - mean
        lengths = np.sqrt(np.einsum("nd,nd->n", centred, centred, dtype=np.float64))
    if not lengths.max() < NORM_LIMIT:
        remedy = "rebuild the bundle from a sound checkpoint"
        raise SettingsError(f"codebook with vectors of norm {lengths.max():g}", "finite values", remedy)
    exponent = min(15 - int(np.frexp(np.abs(centred).max())[1]), LARGEST_EXPONENT)
    (count, width), sorting = codebook.shape, lengths.argsort(kind="stable")
    rows, columns = _fill_up(count, TILE_CENTROIDS), _fill_up(width, SLICE)
    order, negative_halves = np.full(rows, -1, np.int32), np.full(rows, -np.inf, np.float32)
    order[:count] = sorting
    halves = np.zeros((rows, columns), np.float16)
    reaches, residuals = np.zeros((2, rows // TILE_CENTROIDS))
    for tile in range(len(reaches)):
        few = slice(tile * TILE_CENTROIDS, min((tile + 1) * TILE_CENTROIDS, count))
        exact = centred[sorting[few]] * np.float64(2.0**exponent)
        rounded = exact.astype(np.float32).astype(np.float16)
        rounded[np.abs(rounded) < SMALLEST_NORMAL] = 0
        halves[few, :width] = rounded
        squares = np.einsum("nd,nd->n", exact, exact)
        negative_halves[few] = squares / -2
        exact -= rounded
        reaches[tile] = np.sqrt(squares.max())
        residuals[tile] = np.sqrt(np.einsum("nd,nd->n", exact, exact).max())
    slope = 4 * UNIT_ROUNDOFF * columns
    return ScreenedCodebook(
        mean, order, halves, negative_halves, exponent, _round_up(reaches), _round_up(residuals), slope
    )


@dataclass(frozen=True)
class Memory:
    """Bytes on a GPU, given back when the last reference to `owner` goes."""

    address: int
    size: int
    owner: object = field(repr=False)


@dataclass(frozen=True)
class Scratch:
    """What the kernels hand on to each other for up to `rows` queries: ŷ, r, P + π and π, and the groups' scores."""

    rows: int
    parts: tuple[Memory, Memory, Memory, Memory]

    @classmethod
    def allocate(cls, gpu: Gpu, rows: int, screened: ScreenedCodebook) -> Scratch:
        filled, padded = len(screened.order), screened.halves.shape[1]
        halves, best = gpu.allocate(2 * rows * padded), gpu.allocate(4 * rows * (filled // GROUP))
        return cls(rows, (halves, gpu.allocate(4 * rows), gpu.allocate(8 * rows), best))


class Gpu:
    """A CUDA device with the kernels loaded. Copies and synchronises with the default stream."""

    def __init__(self, ordinal: int = 0) -> None:
        """Raises MissingExtraError without cuda-core, BackendError without a GPU or driver that can run the kernels."""
        self._core = import_core()
        from cuda.bindings import driver

        self._driver = driver
        try:
            self._device = self._core.Device(ordinal)
            self._device.set_current()
            self.arch = "sm_{}{}".format(*self._device.compute_capability)
            self.processors = int(self._device.properties.multiprocessor_count)
        except Exception as error:
            given = f"no CUDA device {ordinal} ({first_line(error)})"
            raise BackendError(given, "an NVIDIA GPU and its driver", "use the CPU's search") from error
        cubin = load_kernels(self.arch)
        try:
            loaded = self._core.ObjectCode.from_cubin(cubin)
            self._kernels = {name: loaded.get_kernel(name) for name in ("prepare", "screen", "decide")}
            self._shared = {"screen": choose_stages(self.arch) * SLOT_BYTES}
            for name, size in self._shared.items():
                self._allow_shared(name, size)
        except Exception as error:
            given = f"the kernels for {self.arch} cannot be loaded ({first_line(error)})"
            raise BackendError(given, "a driver of CUDA 13 or newer", "update the NVIDIA driver") from error

    def allocate(self, size: int) -> Memory:
        """`size` bytes. Raises BackendError when there are not so many."""
        self._device.set_current()
        try:
            buffer = self._device.allocate(size, stream=self._device.default_stream)
        except Exception as error:
            given = f"{size} bytes on the GPU ({first_line(error)})"
            raise BackendError(given, "enough free memory there", "end other programs on it") from error
        self.sync()  # so that any stream may use it
        return Memory(int(buffer.handle), size, buffer)

    def upload(self, array: npt.NDArray[Any]) -> Memory:
        """A copy of `array`, which is contiguous, in memory of its own."""
        memory = self.allocate(array.nbytes)
        self.write(memory, array)
        return memory

    def write(self, memory: Memory, array: npt.NDArray[Any]) -> None:
        """Copy the contiguous `array` to the beginning of `memory`; done when this returns, for every stream."""
        self._device.set_current()
        check(self._driver.cuMemcpyHtoD(memory.address, array.ctypes.data, array.nbytes))
        self.sync()

    def read(self, memory: Memory, array: npt.NDArray[Any]) -> None:
        """Fill the contiguous `array` from the beginning of `memory`, after what the default stream has to do."""
        self.sync()
        check(self._driver.cuMemcpyDtoH(array.ctypes.data, memory.address, array.nbytes))

    def launch(self, name: str, blocks: int, arguments: Sequence[Argument], stream: int = 0) -> None:
        """Put the kernel `name` on `stream` (a cudaStream_t's address, 0 for the default stream) and return."""
        self._device.set_current()
        on = self._core.Stream.from_handle(stream) if stream else self._device.default_stream
        config = self._core.LaunchConfig(grid=blocks, block=THREADS, shmem_size=self._shared.get(name, 0))
        self._core.launch(on, config, self._kernels[name], *arguments)

    def sync(self) -> None:
        """Wait for everything on the device."""
        self._device.set_current()
        check(self._driver.cuCtxSynchronize())

    def _allow_shared(self, name: str, size: int) -> None:
        """A kernel gets more than 48 KiB of shared memory only when that was asked for."""
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        check(self._driver.cuKernelSetAttribute(attribute, size, self._kernels[name].handle, self._device.device_id))


def explain_absence() -> str | None:
    """Why the search cannot run on a GPU here, or None."""
    try:
        Gpu()
    except (MissingExtraError, BackendError) as error:
        return str(error)
    return None


def load_kernels(arch: str) -> bytes:
    """The cubin of kernels/nearest.cu for `arch`, as `load_cubin` has it; BackendError below sm_80 too."""
    return load_cubin(find_source("nearest.cu"), arch, ("STAGES", str(choose_stages(arch))))


def choose_stages(arch: str) -> int:
    """Slots in the shared memory of a block on `arch`. Raises BackendError below sm_80."""
    number = re.fullmatch(r"sm_(\d+)[af]?", arch)
    if number is None or int(number[1]) < 80:
        raise BackendError(f"GPU architecture {arch}", "sm_80 (Ampere) or newer", "use the CPU's search")
    return min(SHARED_KIB.get(number[1], 99) * 1024 // SLOT_BYTES, MOST_STAGES)


def _fill_up(count: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-count // step) * step


def _round_up(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """float32 no smaller than `values`."""
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))


def _describe(array: npt.NDArray[np.generic]) -> str:
    return f"{array.dtype} {list(array.shape)}"
