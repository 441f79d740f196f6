"""`auto` if both CPU backends are installed: each graph runs on the one that was faster in measurements."""

from __future__ import annotations

import numpy as np

from sc_runtime.bundle.store import Bundle
from sc_runtime.centroids import NearestCentroid
from sc_runtime.networks import Graph

from .onnxruntime import OnnxRuntimeBackend
from .openvino.backend import OpenVinoBackend

#: A BiLSTM of fewer bytes opens at once in ONNX Runtime. In OpenVINO its loop would cost more than its arithmetic.
SMALL_BYTES = 100e6


class FastestBackend:
    """OpenVINO, except for a BiLSTM of less than `SMALL_BYTES`. Arguments and errors are those of the two."""

    name = "openvino+onnxruntime"
    gpu = None
    encode_batch = OpenVinoBackend.encode_batch

    def __init__(self, threads: int | None = None, precision: str = "auto") -> None:
        self.openvino, self.onnxruntime = OpenVinoBackend(threads, precision), OnnxRuntimeBackend(threads)
        self.device = self.openvino.device

    def __reduce__(self) -> tuple[type[FastestBackend], tuple[int | None, str]]:
        return type(self), (self.openvino.threads, self.openvino.precision)

    def open(self, bundle: Bundle, graph: str) -> Graph:
        small = bundle.spec.graphs[graph].is_lstm and bundle.count_bytes(graph) < SMALL_BYTES
        return (self.onnxruntime if small else self.openvino).open(bundle, graph)

    def open_search(self, codebook: np.ndarray) -> NearestCentroid:
        return self.openvino.open_search(codebook)
