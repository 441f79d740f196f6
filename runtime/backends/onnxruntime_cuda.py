"""ONNX Runtime's CUDA provider: graphs on an NVIDIA GPU without TensorRT, in the types that they state."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sc_runtime.bundle.store import Bundle
from sc_runtime.cuda import device
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.graph import RECENT, DeviceGraph
from sc_runtime.cuda.nearest import CudaNearestCentroid
from sc_runtime.errors import BackendError, MissingExtraError, first_line
from sc_runtime.libraries import import_onnxruntime

from .base import ENCODE_BATCH
from .capture_trial import explain_refusal
from .lstm_choice import LIBRARY_LSTM, MEASURED, open_kernel
from .onnxruntime import list_disabled_optimizers
from .onnxruntime_call import OnnxRuntimeCall, Sessions, Way

FATAL = 4  #: severity of what ONNX Runtime prints: it prints an error for each plan that cuDNN does not have
LIBRARY = "*onnxruntime_providers_cuda.*"  #: a file that the CPU's package lacks
NOT_INSTALLED, INSTALL = "onnxruntime-gpu is not installed", "pip install 'sc-runtime[gpu]'"


def explain_absence() -> str | None:
    """Why this backend cannot run here, or None."""
    if not is_installed():
        return f"{NOT_INSTALLED}: {INSTALL}"
    return device.explain_absence()


def is_installed() -> bool:
    """Whether onnxruntime-gpu is installed. onnxruntime imports by the same name but lacks the CUDA library."""
    found = importlib.util.find_spec("onnxruntime")
    return found is not None and found.origin is not None and any(Path(found.origin).parent.glob(f"capi/{LIBRARY}"))


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime: its name, and the kind of memory that its addresses lie in."""

    name: str
    memory: str
    engine: str | None = None  #: whose variants of graphs it runs; None runs the graphs as they were exported
    options: Mapping[str, str] = field(default_factory=dict)  #: further ones, such as prefer_nhwc

    def describe(self, device: Device, exact: bool, records: bool, convolutions: Mapping[str, str]) -> dict[str, str]:
        """Its options: our stream, and how products and convolutions are computed.

        exact: float32 products are not rounded to TF32. It also keeps FP16 convolutions off Tensor Cores, because
        ONNX Runtime asks cuDNN for engines without them.
        records: runs may be replayed as CUDA graphs, see `OnnxRuntimeCall`.
        convolutions: one of `CONVOLUTIONS`.

        The normalised sums of `SkipLayerNormalization` are added in float32 in its strict mode alone.
        """
        return {
            "device_id": "0",
            "user_compute_stream": str(device.stream),
            "use_tf32": "0" if exact else "1",
            "cudnn_conv1d_pad_to_nc1d": "1",
            "enable_skip_layer_norm_strict_mode": "1",
            "enable_cuda_graph": "1" if records else "0",
            **convolutions,
            **self.options,
        }


CUDA = Provider("CUDAExecutionProvider", "cuda", "cuda")
#: Options of convolutions, the fastest first. cuDNN has no plan for some shapes under some of them: on an H100 (cuDNN
#: 9.19) and an H200 heuristics found none for HiFi-GAN's convolutions of one window. The names are ONNX Runtime's:
#: EXHAUSTIVE searches nothing, it is cuDNN's heuristic mode B; DEFAULT is its fallback mode.
CONVOLUTIONS = (
    {"cudnn_conv_algo_search": "HEURISTIC", "fuse_conv_bias": "1"},
    {"cudnn_conv_algo_search": "HEURISTIC", "fuse_conv_bias": "0"},
    {"cudnn_conv_algo_search": "EXHAUSTIVE", "fuse_conv_bias": "0"},
    {"cudnn_conv_algo_search": "DEFAULT", "fuse_conv_bias": "0"},
)


class OnnxRuntimeCudaBackend:
    """`gpu` is the first GPU by default. Tests give another `provider`, which needs no onnxruntime-gpu.

    Raises MissingExtraError without onnxruntime-gpu or cuda-core, BackendError without a GPU.
    """

    name = "onnxruntime-cuda"
    encode_batch = ENCODE_BATCH

    def __init__(self, gpu: Device | None = None, provider: Provider = CUDA) -> None:
        if provider is CUDA and not is_installed():
            raise MissingExtraError(NOT_INSTALLED, "the extra `gpu`, without the extra `cpu`", INSTALL)
        self.gpu, self.provider = gpu or Device(), provider
        self.device = self.gpu.name
        self.lstm = MEASURED if provider.name == CUDA.name else LIBRARY_LSTM  #: how a BiLSTM runs, see `lstm_choice`
        onnxruntime = import_onnxruntime()
        if hasattr(onnxruntime, "preload_dlls"):
            with redirect_stdout(sys.stderr):  # it prints missing libraries, and standard output may be audio
                onnxruntime.preload_dlls()

    def __reduce__(self) -> tuple[type[OnnxRuntimeCudaBackend], tuple[()]]:
        """The first GPU of the other process, not this one's."""
        return type(self), ()

    def open(self, bundle: Bundle, graph: str) -> DeviceGraph:
        spec, entry = bundle.spec.graphs[graph], bundle.manifest.graphs[graph]
        version = f"onnxruntime {import_onnxruntime().__version__}"
        if kernel := open_kernel(self.gpu, bundle, graph, self.lstm, self.name, version):
            return kernel
        # Without CUDA graphs ONNX Runtime frees the staging memory of an LSTM in a callback of the stream. Where the
        # session has gone before the callback runs, CUDA refuses that, and the process aborts.
        records, refusal = self.provider.name == CUDA.name and (spec.repeats or spec.is_lstm), None
        # Only channels-last convolutions, which rewritten graphs have, were seen to gain from a fused bias.
        ways: list[Way] = [(None, options) for options in CONVOLUTIONS[1:]]
        if self.provider.engine in entry.variants:
            ways = [(self.provider.engine, options) for options in CONVOLUTIONS] + ways
        most = 1 if records or spec.makes_tokens else RECENT  # encoders have few convolutions, and many bytes
        try:
            sessions = Sessions(partial(self._load, bundle, graph, records), ways, most)
        except BackendError as error:
            if not records:
                raise
            refusal = first_line(error)
        if refusal:  # after the block: the error keeps what was loaded of the session that failed
            sessions = Sessions(partial(self._load, bundle, graph, False), ways)
        prepare = partial(OnnxRuntimeCall, sessions, graph, entry, self.provider.memory)
        record = partial(prepare, recorded=True) if records and spec.repeats and not refusal else None
        explain = partial(self._explain_capture, bundle, graph, refusal)
        return DeviceGraph(self.gpu, spec, entry.inputs, entry.outputs, prepare, explain, record)

    def _load(self, bundle: Bundle, graph: str, records: bool, way: Way) -> Any:
        """A session of the graph with the options of `Provider.describe`. Raises BackendError."""
        engine, convolutions = way
        onnxruntime = import_onnxruntime()
        path, options = bundle.find_graph(graph, engine), onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        exact = bundle.spec.graphs[graph].makes_tokens or not bundle.manifest.is_half(graph)
        try:
            with self.gpu.lock:  # the weights are copied on the GPU's stream
                session = onnxruntime.InferenceSession(
                    str(path),
                    options,
                    providers=[(self.provider.name, self.provider.describe(self.gpu, exact, records, convolutions))],
                    disabled_optimizers=list_disabled_optimizers(bundle, graph),
                    enable_fallback=0,
                )
        except Exception as error:  # ONNX Runtime raises classes of its own that share no base
            raise BackendError(
                f"{path}: ONNX Runtime refuses it ({first_line(error)})", "a graph it can load", bundle.remedy
            ) from error
        used = session.get_providers()
        if used[0] != self.provider.name:
            expected = f"{self.provider.name}, with CUDA and cuDNN of its version"
            raise BackendError(f"ONNX Runtime took {used[0]} for {graph}", expected, INSTALL)
        return session

    def _explain_capture(self, bundle: Bundle, graph: str, refusal: str | None, axes: Mapping[str, int]) -> str | None:
        """As `DeviceGraph.explain_capture`. `refusal`: why ONNX Runtime makes no CUDA graph of this graph's runs."""
        if refusal or self.provider.name != CUDA.name:  # another provider has nothing to record
            return refusal
        return explain_refusal(import_onnxruntime().__version__, self.gpu.name, bundle, graph, axes)

    def open_search(self, codebook: np.ndarray) -> CudaNearestCentroid:
        return CudaNearestCentroid(codebook, self.gpu)
