"""Quantises a graph by NNCF. The ranges are calibrated on the graph's inputs in a decoding of the demo's recording.

The graphs are stored in OpenVINO's own format. From ONNX (QuantizeLinear, DequantizeLinear) OpenVINO 2026.4 computes
the T-UNet with an error of 38 %, and ONNX Runtime runs it no faster than float32.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np

from sc_runtime.audio import Audio
from sc_runtime.backends.base import Backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.codec import Codec
from sc_runtime.libraries import import_openvino
from sc_runtime.networks import Arrays, Graph, Search
from sc_runtime.samples import SPEECH_AND_MUSIC

PRESET = "fast"  #: of the decoding: its steps span the whole schedule


def import_nncf() -> ModuleType:
    os.environ.setdefault("NNCF_CI", "1")  # no telemetry
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nncf: ModuleType = import_openvino("nncf")
    return nncf


def record_decoding(bundle: Bundle, graphs: Iterable[str], backend: Backend) -> Recorder:
    """Encode and decode the demo's recording twice over, and record the inputs of the `graphs` of `bundle`.

    Twice, so that there are two windows: a graph that runs once a window has inputs to calibrate and to verify on.
    """
    recorder = Recorder(backend, frozenset(graphs))
    codec = Codec(bundle, recorder)
    with Audio(SPEECH_AND_MUSIC, rate=codec.sample_rate) as audio:
        recording = np.concatenate(list(audio.blocks()))
    codec.decode(codec.encode(np.tile(recording, 2)), preset=PRESET)
    return recorder


def quantise(source: Path, feeds: list[Arrays], target: Path, attends: bool) -> None:
    """Write the graph `source` to `target` (.xml, weights beside it in .bin), with ranges calibrated on `feeds`.

    `attends`: whether NNCF treats it as a transformer.
    """
    openvino, nncf = import_openvino(), import_nncf()
    import logging

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        rounded = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
        )
    openvino.save_model(rounded, target, compress_to_fp16=False)


class Recorder:
    """A backend that keeps the inputs of the graphs `wanted`, by name, and the graphs themselves."""

    encode_batch = 1
    gpu = None

    def __init__(self, backend: Backend, wanted: frozenset[str]) -> None:
        self.backend, self.wanted = backend, wanted
        self.name, self.device = backend.name, backend.device
        self.graphs: dict[str, Graph] = {}
        self.inputs: dict[str, list[Arrays]] = {name: [] for name in wanted}

    def open(self, bundle: Bundle, graph: str) -> Graph:
        self.graphs[graph] = self.backend.open(bundle, graph)
        return RecordedGraph(self.graphs[graph], self.inputs[graph]) if graph in self.wanted else self.graphs[graph]

    def open_search(self, codebook: np.ndarray) -> Search:
        return self.backend.open_search(codebook)


class RecordedGraph:
    def __init__(self, graph: Graph, inputs: list[Arrays]) -> None:
        self.graph, self.inputs = graph, inputs

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        self.inputs.append(dict(feeds))  # not copied: a window's keys and values are the same arrays in every step
        return self.graph.run(feeds)
