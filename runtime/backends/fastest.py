"""What `auto` is where both CPU backends are installed: each graph where it was measured to run better."""

from __future__ import annotations

from ..bundle import Bundle
from .base import Graph
from .onnxruntime import OnnxRuntimeBackend
from .openvino import OpenVinoBackend

#: A BiLSTM below this opens at once in ONNX Runtime and has no loop that costs more than its arithmetic.
SMALL_BYTES = 100e6


class FastestBackend:
    """OpenVINO, but for an acoustic encoder of less than `SMALL_BYTES`. Arguments and errors as of the two."""

    name = "openvino+onnxruntime"
    encode_batch = OpenVinoBackend.encode_batch

    def __init__(self, threads: int | None = None, precision: str = "auto") -> None:
        self.openvino, self.onnxruntime = OpenVinoBackend(threads, precision), OnnxRuntimeBackend(threads)
        self.device = self.openvino.device

    def open(self, bundle: Bundle, graph: str) -> Graph:
        small = graph == "acoustic_encoder" and bundle.count_bytes(graph) < SMALL_BYTES
        return (self.onnxruntime if small else self.openvino).open(bundle, graph)
