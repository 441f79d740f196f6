"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from sc_runtime.bundle.store import Bundle
from sc_runtime.centroids import NearestCentroid
from sc_runtime.errors import BackendError, MissingExtraError, first_line
from sc_runtime.libraries import import_onnxruntime
from sc_runtime.networks import Arrays

from .failures import describe_failure

PROVIDER = "CPUExecutionProvider"
#: This optimizer ends the process on a half-precision LSTM (seen in 1.31). It is for convolutions, which an LSTM graph
#: does not have.
FP16_LSTM_DISABLED = ["NchwcTransformer"]


def explain_absence() -> str | None:
    """Why this backend cannot run here, or None."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install 'sc-runtime[cpu]'"
    return None


class OnnxRuntimeBackend:
    """`threads` intra-op threads; None leaves the choice to ONNX Runtime (one a physical core)."""

    name = "onnxruntime"
    device = "CPU"
    gpu = None
    encode_batch = 8  #: its BiLSTM reads the weights once for the whole batch

    def __init__(self, threads: int | None = None) -> None:
        if explain_absence():
            raise MissingExtraError("onnxruntime is not installed", "the extra `cpu`", "pip install 'sc-runtime[cpu]'")
        self.threads = threads

    def __reduce__(self) -> tuple[type[OnnxRuntimeBackend], tuple[int | None]]:
        return type(self), (self.threads,)

    def open(self, bundle: Bundle, graph: str) -> OnnxRuntimeGraph:
        return self.load(bundle.find_graph(graph), bundle, graph)

    def load(self, path: Path, bundle: Bundle, graph: str) -> OnnxRuntimeGraph:
        """Open the ONNX file `path`, which holds `graph` of `bundle`. FP16 graphs are computed in float32."""
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads or 0
        disabled = list_disabled_optimizers(bundle, graph)
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=[PROVIDER], disabled_optimizers=disabled
            )
        except Exception as error:  # ONNX Runtime raises classes of its own that share no base
            raise BackendError(
                f"{path}: ONNX Runtime refuses it ({first_line(error)})", "a graph it can load", bundle.remedy
            ) from error
        return OnnxRuntimeGraph(session)

    def open_search(self, codebook: np.ndarray) -> NearestCentroid:
        return NearestCentroid(codebook)


def list_disabled_optimizers(bundle: Bundle, graph: str) -> list[str]:
    """The optimizers that ONNX Runtime must not apply to `graph`."""
    return FP16_LSTM_DISABLED if bundle.manifest.is_half(graph) and bundle.spec.graphs[graph].is_lstm else []


class OnnxRuntimeGraph:
    """A session. ONNX Runtime lets several threads run it."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.outputs = [output.name for output in session.get_outputs()]

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        try:
            results = self.session.run(self.outputs, dict(feeds))
        except Exception as error:  # ONNX Runtime raises classes of its own that share no base
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items() if "_" not in name)
            raise describe_failure(f"ONNX Runtime failed on {shapes}", error) from error
        return dict(zip(self.outputs, results, strict=True))
