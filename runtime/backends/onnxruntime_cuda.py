"""ONNX Runtime's CUDA provider: graphs on an NVIDIA GPU without TensorRT, in the types that they state."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sc_runtime.bundle.manifest import GraphEntry
from sc_runtime.bundle.store import Bundle
from sc_runtime.cuda import device
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.graph import Addresses, DeviceGraph, Shapes
from sc_runtime.cuda.nearest import CudaNearestCentroid
from sc_runtime.errors import BackendError, MissingExtraError, first_line

from .base import ENCODE_BATCH
from .onnxruntime import list_unsound

PROVIDER, KIND = "CUDAExecutionProvider", "cuda"
LIBRARY = "*onnxruntime_providers_cuda.*"  #: what the CPU's package lacks
NOT_INSTALLED, INSTALL = "onnxruntime-gpu is not installed", "pip install 'sc-runtime[gpu]'"


def explain_absence() -> str | None:
    """Why this backend cannot run here, or None."""
    if not is_installed():
        return f"{NOT_INSTALLED}: {INSTALL}"
    return device.explain_absence()


def is_installed() -> bool:
    """Whether ONNX Runtime is here with its CUDA part: the two packages have one name to import."""
    found = importlib.util.find_spec("onnxruntime")
    return found is not None and found.origin is not None and any(Path(found.origin).parent.glob(f"capi/{LIBRARY}"))


class OnnxRuntimeCudaBackend:
    """Raises MissingExtraError without onnxruntime-gpu or cuda-core, BackendError without a GPU."""

    name = "onnxruntime-cuda"
    encode_batch = ENCODE_BATCH

    def __init__(self, gpu: Device | None = None) -> None:
        if not is_installed():
            raise MissingExtraError(NOT_INSTALLED, "the extra `gpu`, without the extra `cpu`", INSTALL)
        self.gpu = gpu or Device()
        self.device = self.gpu.name
        import onnxruntime

        if hasattr(onnxruntime, "preload_dlls"):
            with redirect_stdout(sys.stderr):  # where it says what it misses; standard output may be a sound
                onnxruntime.preload_dlls()

    def open(self, bundle: Bundle, graph: str) -> DeviceGraph:
        import onnxruntime

        path, entry = bundle.find_graph(graph), bundle.manifest.graphs[graph]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                str(path),
                options,
                providers=[(PROVIDER, describe_provider(self.gpu))],
                disabled_optimizers=list_unsound(bundle, graph),
                enable_fallback=0,
            )
        except Exception as error:  # ONNX Runtime raises classes of its own that share no base
            raise BackendError(
                f"{path}: ONNX Runtime refuses it ({first_line(error)})", "a graph it can load", bundle.remedy
            ) from error
        used = session.get_providers()
        if used[0] != PROVIDER:
            raise BackendError(
                f"ONNX Runtime took {used[0]} for {graph}", f"{PROVIDER}, with CUDA and cuDNN of its version", INSTALL
            )
        spec, prepare = bundle.spec.graphs[graph], partial(OnnxRuntimeCall, session, graph, entry)
        return DeviceGraph(self.gpu, spec, entry.inputs, entry.outputs, prepare)

    def open_search(self, codebook: np.ndarray) -> CudaNearestCentroid:
        return CudaNearestCentroid(codebook, self.gpu)


def describe_provider(device: Device) -> dict[str, str]:
    """The provider's options: our stream, and float32 that is float32."""
    return {"device_id": "0", "user_compute_stream": str(device.stream), "use_tf32": "0"}


class OnnxRuntimeCall:
    """A session with its inputs and outputs bound to addresses, run on the device's stream without waiting."""

    def __init__(self, session: Any, graph: str, entry: GraphEntry, shapes: Shapes, addresses: Addresses) -> None:
        import onnxruntime

        self._session, self._graph = session, graph
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._binding = session.io_binding()
        for specs, bind in ((entry.inputs, self._binding.bind_input), (entry.outputs, self._binding.bind_output)):
            for name, spec in specs.items():
                bind(name, KIND, 0, np.dtype(spec.dtype).type, list(shapes[name]), addresses[name])

    def enqueue(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # ONNX Runtime raises classes of its own that share no base
            raise BackendError(
                f"ONNX Runtime failed on {self._graph} ({first_line(error)})",
                "inputs that fit in the GPU's memory",
                "use a smaller batch",
            ) from error
