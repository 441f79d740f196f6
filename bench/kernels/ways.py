"""Ways to search for nearest vectors: ours, what the published code does, and other libraries."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from sc_runtime.centroids import NearestCentroid
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.nearest import CudaNearestCentroid

KERNEL = "kernels/nearest.cu"  #: name of our way on a GPU


class Task(Protocol):
    """One way to search on one row, ready to run."""

    def run(self) -> object:
        """Search once."""
        ...

    def fetch(self) -> np.ndarray:
        """The indices [n] that the last run found."""
        ...


Prepare = Callable[[np.ndarray, np.ndarray], Task]  #: codebook [entries, D] and queries [n, D] -> task
TorchSearch = Callable[[Any, Any, Any], Any]  #: queries, centroids and their squared norms -> indices, all torch's


def list_cpu_ways(skipped: dict[str, str]) -> dict[str, Prepare]:
    """Name -> way. What is not installed is added to `skipped`, with the reason."""
    ways: dict[str, Prepare] = {"NearestCentroid": prepare_ours}
    if importlib.util.find_spec("openvino"):
        ways["OpenVinoNearestCentroid"] = prepare_openvino
    else:
        skipped["OpenVinoNearestCentroid"] = "openvino is not installed"
    if importlib.util.find_spec("torch"):
        ways |= {"torch.cdist": prepare_torch("cpu", search_cdist), "expansion": prepare_torch("cpu", search_expanded)}
    else:
        skipped["torch.cdist, expansion"] = "torch is not installed"
    if importlib.util.find_spec("faiss"):
        ways["faiss.IndexFlatL2"] = prepare_faiss
    else:
        skipped["faiss"] = "faiss is not installed"
    return ways


def list_gpu_ways(gpu: Device, skipped: dict[str, str]) -> dict[str, Prepare]:
    """Name -> way on `gpu`. What is not installed is added to `skipped`, with the reason."""
    ways: dict[str, Prepare] = {
        KERNEL: lambda codebook, queries: KernelTask(gpu, codebook, queries),
        "torch.cdist": prepare_torch("cuda", search_cdist),
        "expansion": prepare_torch("cuda", search_expanded),
    }
    if importlib.util.find_spec("faiss") is None:
        skipped["faiss"] = "faiss is not installed"
        return ways
    import faiss

    if hasattr(faiss, "GpuIndexFlatL2"):
        ways["faiss.GpuIndexFlatL2 (with copies)"] = prepare_faiss_gpu
    else:
        skipped["faiss"] = "the installed faiss has no GPU part"
    return ways


class HostTask:
    """A search that returns its result to the host."""

    def __init__(self, search: Callable[[], np.ndarray]) -> None:
        self.search = search
        self.found = np.empty(0)

    def run(self) -> None:
        self.found = self.search()

    def fetch(self) -> np.ndarray:
        return self.found


class TorchTask:
    """A search by torch on `device`. On a GPU it is captured once, and a run replays it."""

    def __init__(self, device: str, search: TorchSearch, codebook: np.ndarray, queries: np.ndarray) -> None:
        import torch

        self.search = search
        self.centroids, self.queries = torch.from_numpy(codebook).to(device), torch.from_numpy(queries).to(device)
        self.squares = self.centroids.square().sum(dim=1)
        self.nearest = torch.empty(len(queries), dtype=torch.int64, device=device)
        self.replay = None if device == "cpu" else capture(self.find)

    def run(self) -> None:
        if self.replay is None:
            self.find()
        else:
            self.replay()

    def find(self) -> None:
        self.nearest.copy_(self.search(self.queries, self.centroids, self.squares))

    def fetch(self) -> np.ndarray:
        return self.nearest.cpu().numpy()


class KernelTask:
    """Our kernels on a GPU, captured once; a run replays them."""

    def __init__(self, gpu: Device, codebook: np.ndarray, queries: np.ndarray) -> None:
        import torch

        self.kernel = CudaNearestCentroid(codebook, gpu)
        self.kernel.reserve(len(queries))
        self.queries = torch.from_numpy(queries).cuda()
        self.nearest = torch.empty(len(queries), dtype=torch.int32, device="cuda")
        self.replay = capture(self.find)

    def run(self) -> None:
        self.replay()

    def find(self) -> None:
        import torch

        stream = torch.cuda.current_stream().cuda_stream
        self.kernel.search_on_device(self.queries.data_ptr(), len(self.queries), self.nearest.data_ptr(), stream)

    def fetch(self) -> np.ndarray:
        return self.nearest.cpu().numpy()


def prepare_ours(codebook: np.ndarray, queries: np.ndarray) -> Task:
    search = NearestCentroid(codebook)
    return HostTask(lambda: search.search(queries))


def prepare_openvino(codebook: np.ndarray, queries: np.ndarray) -> Task:
    from sc_runtime.backends.openvino.backend import OpenVinoBackend

    search = OpenVinoBackend().open_search(codebook)
    return HostTask(lambda: search.search(queries))


def prepare_faiss(codebook: np.ndarray, queries: np.ndarray) -> Task:
    import faiss

    index = faiss.IndexFlatL2(codebook.shape[1])
    index.add(codebook)
    return HostTask(lambda: index.search(queries, 1)[1][:, 0])


def prepare_faiss_gpu(codebook: np.ndarray, queries: np.ndarray) -> Task:
    import faiss

    resources = faiss.StandardGpuResources()
    index = faiss.GpuIndexFlatL2(resources, codebook.shape[1])
    index.add(codebook)
    return HostTask(lambda: index.search(queries, 1)[1][:, 0])


def prepare_torch(device: str, search: TorchSearch) -> Prepare:
    return lambda codebook, queries: TorchTask(device, search, codebook, queries)


def search_cdist(queries: Any, centroids: Any, squares: Any) -> Any:
    """The published code's search."""
    import torch

    return torch.cdist(queries, centroids).argmin(dim=1)


def search_expanded(queries: Any, centroids: Any, squares: Any) -> Any:
    """‖q‖² − 2·q·c + ‖c‖² in float32."""
    return (queries.square().sum(dim=1, keepdim=True) - 2 * queries @ centroids.T + squares).argmin(dim=1)


def capture(run: Callable[[], object]) -> Callable[[], object]:
    """`run` as a CUDA graph, so that its launches cost no time on the host."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], object] = graph.replay
    return replay
