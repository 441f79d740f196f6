"""What `auto` is where both CPU backends are installed: each graph where it was measured to run better."""

from __future__ import annotations

from ..bundle import Bundle
from .base import Graph
from .onnxruntime import OnnxRuntimeBackend
from .openvino import OpenVinoBackend

#: OpenVINO compiles the BiLSTM into 3.5 times the memory of its weights (22 GB at 25 tps, against 7.7) and gains
#: nothing from a batch, where ONNX Runtime reads the weights once for all windows.
ONNXRUNTIME_GRAPHS = ("acoustic_encoder",)


class FastestBackend:
    """OpenVINO, but for `ONNXRUNTIME_GRAPHS`. Arguments and errors as of the two."""

    name = "openvino+onnxruntime"
    encode_batch = OnnxRuntimeBackend.encode_batch

    def __init__(self, threads: int | None = None, precision: str = "auto") -> None:
        self.openvino, self.onnxruntime = OpenVinoBackend(threads, precision), OnnxRuntimeBackend(threads)
        self.device = self.openvino.device

    def open(self, bundle: Bundle, graph: str) -> Graph:
        return (self.onnxruntime if graph in ONNXRUNTIME_GRAPHS else self.openvino).open(bundle, graph)
