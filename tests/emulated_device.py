"""A GPU on the CPU, for tests: `sc_runtime.cuda.device.Device` with the host's memory and emulated kernels."""

from __future__ import annotations

import bisect
import ctypes
import hashlib
import subprocess
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sc_runtime.centroids import NearestCentroid
from sc_runtime.cuda.device import Argument, Kernel, Memory, Replay
from sc_runtime.cuda.source import Macro, find_source, read_whole
from tests.conftest import ROOT

OPTIONS = ["-O2", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
#: Kernels' source -> its emulation and g++'s further options. The C library has an `advance` of its own.
EMULATIONS = {
    "nearest.cu": ("emulated_nearest.cpp", ["-DLISTED=4", "-U_FORTIFY_SOURCE"]),
    "product.cu": ("emulated_product.cpp", ["-U_FORTIFY_SOURCE"]),
    "recurrence.cu": ("emulated_recurrence.cpp", ["-U_FORTIFY_SOURCE"]),
    "solver.cu": ("emulated_solver.cpp", ["-Wl,-Bsymbolic"]),
    "join.cu": ("emulated_join.cpp", ["-Wl,-Bsymbolic"]),
}
ALIGNMENT = 256  #: bytes, of every allocation


class Emulations:
    """The kernels compiled for the CPU by g++, each source once for each macro. Libraries stay in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._loaded: dict[tuple[str, Macro | None], ctypes.CDLL] = {}

    def load(self, source: str, macro: Macro | None = None) -> ctypes.CDLL:
        """kernels/`source` with one macro defined."""
        if (source, macro) not in self._loaded:
            emulation, options = EMULATIONS[source]
            sources = read_whole(find_source(source)) + read_whole(ROOT / "tests" / emulation)
            name = "-".join([Path(source).stem, *(macro or ()), hashlib.sha256(sources).hexdigest()[:16]])
            library = self._folder / f"{name}.so"
            if not library.exists():
                macros = [f'-DKERNELS="{find_source(source)}"', *([f"-D{'='.join(macro)}"] if macro else [])]
                command = ["g++", *OPTIONS, *options, *macros, str(ROOT / "tests" / emulation), "-o", str(library)]
                subprocess.run(command, check=True)
            self._loaded[source, macro] = ctypes.CDLL(str(library))
        return self._loaded[source, macro]


class EmulatedDevice:
    """A device without a GPU. Memory begins as NaN.

    emulations: the compiled kernels. With None only the search runs, by NumPy.
    processors: number of multiprocessors.
    stages: slots of the search's kernel, instead of the architecture's.
    quick_search: runs the search by NumPy, which is quicker than its emulated kernels.

    Every access is checked against what is allocated, and the calling thread must hold `lock`.
    """

    name, arch, stream = "emulated", "sm_90", 7

    def __init__(
        self, emulations: Emulations | None, processors: int = 1, stages: int | None = None, quick_search: bool = False
    ) -> None:
        self.emulations, self.processors, self.stages = emulations, processors, stages
        self.quick_search = quick_search or emulations is None
        self.lock = threading.RLock()
        self.captured = 0
        self._allocated: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()

    def load_kernels(
        self, source: str, threads: int, shared_bytes: Mapping[str, int], macro: Macro | None = None
    ) -> dict[str, Kernel]:
        if source == "nearest.cu" and self.quick_search:
            return {name: Kernel(name, threads) for name in shared_bytes}
        if macro and self.stages:
            macro = (macro[0], str(self.stages))
        assert self.emulations is not None, source
        library = self.emulations.load(source, macro)
        assert threads == library.block_threads()
        if max(shared_bytes.values()) and not self.stages:
            assert max(shared_bytes.values()) == library.shared_bytes()
        return {name: Kernel(getattr(library, f"run_{name}"), threads, size) for name, size in shared_bytes.items()}

    def allocate(self, size: int) -> Memory:
        array = np.full(size + 2 * ALIGNMENT, 0xFF, np.uint8)
        address = array.ctypes.data + -array.ctypes.data % ALIGNMENT
        self._allocated[address] = array
        return Memory(address, size, array)

    def upload(self, array: np.ndarray) -> Memory:
        with self.lock:
            memory = self.allocate(array.nbytes)
            self.write(memory.address, array)
        return memory

    def write(self, address: int, array: np.ndarray) -> None:
        self._check(address, array.nbytes)
        ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)

    def read(self, address: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self._check(address, array.nbytes)
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def copy_rows(self, source: int, target: int, rows: int, pitch: int, width: int) -> None:
        self._check(source, (rows - 1) * pitch + width)
        self._check(target, rows * width)
        for row in range(rows):
            ctypes.memmove(target + row * width, source + row * pitch, width)

    def launch(
        self,
        kernel: Kernel,
        grid: int | tuple[int, int],
        arguments: Sequence[Argument],
        stream: int | None = None,
        together: bool = False,
    ) -> None:
        self.check_lock()
        columns, rows = grid if isinstance(grid, tuple) else (grid, 1)
        if isinstance(kernel.handle, str):
            if kernel.handle == "decide":
                search_by_numpy(columns, *arguments)
            return
        assert not together or columns * rows <= self.processors, "more blocks than run at once"
        kinds: dict[type, Any] = {int: ctypes.c_uint64, np.int32: ctypes.c_int, float: ctypes.c_double}
        values = [kinds[type(value)](value if isinstance(value, float) else int(value)) for value in arguments]
        kernel.handle(ctypes.c_int(columns), ctypes.c_int(rows), *values)

    def capture(self, work: Callable[[], None]) -> Replay:
        self.check_lock()
        self.captured += 1
        return Replay(work)

    def sync(self) -> None: ...

    def sync_all(self) -> None: ...

    def check_lock(self) -> None:
        assert self.lock._is_owned(), "work of two threads may mix"  # type: ignore[attr-defined]

    def _check(self, address: int, size: int) -> None:
        """Assert that `size` bytes at `address` lie in one allocation that was not freed."""
        self.check_lock()
        starts = sorted(self._allocated)
        start = starts[bisect.bisect_right(starts, address) - 1]
        assert start <= address <= address + size <= start + len(self._allocated[start]) - ALIGNMENT


def view(address: int, dtype: type, *shape: int) -> np.ndarray:
    """The array at `address`."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)


def search_by_numpy(count: int, *arguments: Any) -> None:
    """Write what the kernel `decide` writes for `count` queries. `arguments` are those of the kernel."""
    queries, codebook, _, _, order, _, _, nearest, width, groups, _ = arguments
    size = int((view(order, np.int32, 16 * int(groups)) >= 0).sum())
    search = NearestCentroid(view(codebook, np.float32, size, int(width)))
    view(nearest, np.int32, count)[:] = search.search(view(queries, np.float32, count, int(width)))
