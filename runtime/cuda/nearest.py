"""Features → tokens on a CUDA GPU: launches kernels/nearest.cu."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sc_runtime.centroids import check_queries, explain_query
from sc_runtime.errors import BackendError

from .device import Argument, Device, Memory
from .screening import GROUP, SLICE, TILE_CENTROIDS, TILE_QUERIES, ScreenedCodebook, fill_up, screen_codebook

SOURCE = "nearest.cu"
THREADS, WARPS = 256, 8  #: of a block
SLOT_BYTES = 2 * SLICE * (TILE_QUERIES + TILE_CENTROIDS) + 4 * (TILE_QUERIES + TILE_CENTROIDS)
MOST_STAGES = 4

#: KiB of shared memory a block may have (CUDA C++ programming guide, technical specifications); 99 on all others.
SHARED_KIB = {"80": 163, "87": 163, "90": 227, "100": 227, "103": 227}
QUERY_BLOCK = 4096  #: queries searched at a time: 32 MiB of group scores for 32768 centroids


class CudaNearestCentroid:
    """Nearest-neighbour search in one codebook on a GPU, with the answers of `NearestCentroid`.

    FP16 tensor cores screen the codebook in one pass; kernels/nearest.cu proves a bound on their error. float64 decides
    between the candidates; of equals, the lowest index. The two classes add their float64 squares in different orders,
    so they may differ where two distances agree to some 13 digits and are not equal.

    The GPU holds the codebook, as float32 and as float16, and memory for a block of up to `QUERY_BLOCK` queries.
    Searches share that memory. Several threads may call `search`; the searches run one after the other. Callers of
    `search_on_device` must not let two searches run at once.
    """

    def __init__(self, codebook: npt.NDArray[np.float32], device: Device | None = None) -> None:
        """`codebook` float32 [N, D]; kept, not copied. `device` is the first GPU by default.

        Raises BundleError for a codebook that `NearestCentroid` would refuse, MissingExtraError without cuda-core,
        BackendError without a GPU that can run it.
        """
        screened = screen_codebook(codebook)
        self.codebook = codebook
        self._device = device or Device()
        shared = {"prepare": 0, "screen": choose_stages(self._device.arch) * SLOT_BYTES, "decide": 0}
        self._kernels = self._device.load_kernels(SOURCE, THREADS, shared, choose_macro(self._device.arch))
        upload = self._device.upload
        self._exact, self._mean, self._halves = upload(codebook), upload(screened.mean), upload(screened.halves)
        self._negative_halves, self._order = upload(screened.negative_halves), upload(screened.order)
        self._reaches, self._residuals = upload(screened.reaches), upload(screened.residuals)
        columns = screened.halves.shape[1]
        self._screened = replace(screened, halves=np.empty((0, columns), np.float16))  # they are on the GPU
        self._scratch: Scratch | None = None
        self._exchange: tuple[Memory, Memory]  #: queries from the host and what was found, kept between searches
        self._exchanged = 0  #: the queries that it has room for

    def search(self, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Indices int32 [n] of the centroids nearest to `queries` float32 [n, D]; of equals, the lowest.

        Raises `BackendError` for another shape or dtype and for values that are not finite.
        """
        width = self.codebook.shape[1]
        check_queries(queries, width)
        nearest = np.empty(len(queries), np.int32)
        if not len(queries):
            return nearest
        rows = min(len(queries), QUERY_BLOCK)
        with self._device.lock:
            if rows > self._exchanged:
                self._exchange = self._device.allocate(4 * rows * width), self._device.allocate(4 * rows)
                self._exchanged = rows
            given, found = self._exchange
            for start in range(0, len(queries), rows):
                block = queries[start : start + rows]
                self._device.write(given.address, block)
                self.search_on_device(given.address, len(block), found.address)
                self._device.read(found.address, nearest[start : start + rows])
        if nearest.min() < 0:
            self._refuse(queries[nearest.argmin()])
        return nearest

    def check_found(self, nearest: npt.NDArray[np.int32], queries: int) -> None:
        """Raises BackendError, as `search` does, if a query got −1. `queries` is the address that was searched."""
        if nearest.min() < 0:
            query = np.empty(self.codebook.shape[1], np.float32)
            self._device.read(queries + query.nbytes * int(nearest.argmin()), query)
            self._refuse(query)

    @property
    def address(self) -> int:
        """Where the codebook lies on the GPU, float32 [N, D]."""
        return self._exact.address

    def search_on_device(self, queries: int, count: int, nearest: int, stream: int | None = None) -> None:
        """Enqueue a search of `count` queries on `stream` and return. Nothing is copied to or from the host.

        Arguments:
            queries: address of float32 [count, D] on the GPU.
            nearest: address of int32 [count] on the GPU. A query that is not finite, or is longer than 10¹⁸ about the
                codebook's mean, gets −1.
            stream: as in `Device.launch`. Call `reserve` before a stream is captured.
        """
        self.reserve(count)
        width = self.codebook.shape[1]
        for start in range(0, count, QUERY_BLOCK):
            block = min(count - start, QUERY_BLOCK)
            self._search_block(queries + 4 * start * width, block, nearest + 4 * start, stream)

    def reserve(self, count: int) -> None:
        """Allocate the memory on the GPU that a search of `count` queries needs, unless there is enough already."""
        rows = fill_up(min(max(count, 1), QUERY_BLOCK), TILE_QUERIES)
        if self._scratch is None or self._scratch.rows < rows:
            self._device.sync_all()  # searches under way may use what is freed
            self._scratch = None
            self._scratch = Scratch.allocate(self._device, rows, self._screened)

    def _search_block(self, queries: int, count: int, nearest: int, stream: int | None) -> None:
        screened, scratch = self._screened, self._scratch
        assert scratch is not None
        width = self.codebook.shape[1]
        rows, filled, padded = fill_up(count, TILE_QUERIES), len(screened.order), screened.halves.shape[1]
        query_tiles, groups = rows // TILE_QUERIES, filled // GROUP
        tiles = query_tiles * (filled // TILE_CENTROIDS)
        halves, ratios, lengths, best = (part.address for part in scratch.parts)
        prepared: list[Argument] = [queries, self._mean.address, halves, ratios, lengths]
        prepared += [np.int32(size) for size in (count, rows, width, padded, screened.exponent)]
        self._device.launch(self._kernels["prepare"], rows // WARPS, prepared, stream)
        screening: list[Argument] = [halves, ratios, self._halves.address, self._negative_halves.address, best]
        screening += [np.int32(size) for size in (query_tiles, tiles, padded // SLICE, groups)]
        self._device.launch(self._kernels["screen"], min(tiles, self._device.processors), screening, stream)
        decision: list[Argument] = [queries, self._exact.address, best, lengths, self._order.address]
        decision += [self._reaches.address, self._residuals.address, nearest]
        decision += [np.int32(width), np.int32(groups), screened.slope]
        self._device.launch(self._kernels["decide"], count, decision, stream)

    def _refuse(self, query: npt.NDArray[np.float32]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            raise explain_query(float(np.linalg.norm((query - self._screened.mean).astype(np.float64))))


@dataclass(frozen=True)
class Scratch:
    """Memory between the kernels, for up to `rows` queries: ŷ, r, P + π and π, and the groups' scores."""

    rows: int
    parts: tuple[Memory, Memory, Memory, Memory]

    @classmethod
    def allocate(cls, device: Device, rows: int, screened: ScreenedCodebook) -> Scratch:
        filled, padded = len(screened.order), screened.halves.shape[1]
        halves, best = device.allocate(2 * rows * padded), device.allocate(4 * rows * (filled // GROUP))
        return cls(rows, (halves, device.allocate(4 * rows), device.allocate(8 * rows), best))


def choose_stages(arch: str) -> int:
    """Slots in the shared memory of a block on `arch`. Raises BackendError below sm_80."""
    return min(find_shared_bytes(arch) // SLOT_BYTES, MOST_STAGES)


def find_shared_bytes(arch: str) -> int:
    """The shared memory that a block may have on `arch`. Raises BackendError below sm_80."""
    number = re.fullmatch(r"sm_(\d+)[af]?", arch)
    if number is None or int(number[1]) < 80:
        raise BackendError(f"GPU architecture {arch}", "sm_80 (Ampere) or newer", "use --backend onnxruntime")
    return SHARED_KIB.get(number[1], 99) * 1024


def choose_macro(arch: str) -> tuple[str, str]:
    """The macro that kernels/nearest.cu is compiled with for `arch`. Raises BackendError below sm_80."""
    return "STAGES", str(choose_stages(arch))
