"""OpenVINO on the CPU: which settings each graph runs with."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sc_runtime.bundle.store import Bundle
from sc_runtime.bundle.weights import MappedWeights
from sc_runtime.centroids import NearestCentroid
from sc_runtime.errors import BackendError, MissingExtraError
from sc_runtime.libraries import import_openvino
from sc_runtime.networks import Graph

from .graphs import HEAD, TAIL, JoinedGraph, OpenVinoGraph, cut_model, find_reason
from .recurrence import RecurrentGraph, is_recurrent
from .search import OpenVinoNearestCentroid

#: Of all graphs. By itself OpenVINO binds its threads to cores: in every process, and for every graph, to the same ones
#: first. Two processes of one thread each then shared a core: two encodings at once took 33 s, where one alone took
#: 16 s; unbound they take 19 s (two cores of an EPYC, Zen 5). Graphs that were loaded side by side, or while another
#: ran, shared one too.
SETTINGS: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
#: For graphs with free axes, which are compiled once for all lengths. OpenVINO 2026.4 fuses attention for the length
#: that comes first: after a run of 1 position, runs of 16 and more are wrong, without an error
#: (tests/test_unicodec.py). Without the fusion they are right, and as fast.
#: It keeps primitives for up to 5000 lengths: 80 lengths of the tiny stand-in took 1.5 GB, and more took more. With 10
#: kept, they take 0.56 GB, as much as the longest alone, and the same CPU time (tests/test_memory.py).
FREE_SETTINGS = {"SNIPPETS_MODE": "DISABLE", "CPU_RUNTIME_CACHE_CAPACITY": "10"}
TYPES = {"ConvTranspose": "ConvolutionBackpropData"}  #: ONNX operator type -> OpenVINO's name of it
CACHED_BYTES = 1e9  #: a larger graph is not cached: its file would be as large as its weights


def explain_absence() -> str | None:
    """Why this backend cannot run here, or None."""
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed: pip install 'sc-runtime[openvino]'"
    return None


class OpenVinoBackend:
    """`threads`: number of cores, None for all. `precision`: "auto", "float32" or "bfloat16".

    "auto" computes tokens in float32, so that they are exact. It decodes in bfloat16 where the processor multiplies
    bfloat16, except for the `float32_tail` of a graph. Raises MissingExtraError without the package, BackendError for
    bfloat16 on a processor without it.
    """

    name = "openvino"
    gpu = None
    encode_batch = 12  #: the BiLSTM reads its weights once for all of them; more gain a little, and cost memory

    def __init__(self, threads: int | None = None, precision: str = "auto") -> None:
        if explain_absence():
            raise MissingExtraError(
                "openvino is not installed", "the extra `openvino`", "pip install 'sc-runtime[openvino]'"
            )
        openvino = import_openvino()
        self.core = openvino.Core()
        has_bfloat16 = "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and not has_bfloat16:
            raise BackendError("bfloat16 on this processor", "one with AVX-512 BF16 or AMX", "use --precision float32")
        self.threads, self.precision = threads, precision
        self.decodes_bfloat16 = precision != "float32" and has_bfloat16
        self.device = "CPU, bfloat16" if self.decodes_bfloat16 else "CPU"
        #: What a compiled graph depends on besides its file, its shapes and its settings.
        self.platform = (openvino.get_version(), self.core.get_property("CPU", "FULL_DEVICE_NAME"), has_bfloat16)

    def __reduce__(self) -> tuple[type[OpenVinoBackend], tuple[int | None, str]]:
        return type(self), (self.threads, self.precision)

    def open(self, bundle: Bundle, graph: str) -> Graph:
        path = bundle.find_graph(graph)
        spec = bundle.spec.graphs[graph]
        lower = self.precision == "bfloat16" or (self.decodes_bfloat16 and not spec.makes_tokens)
        settings = self.make_settings(lower)
        try:
            table = bundle.manifest.graphs[graph].weights
            if spec.is_lstm and is_recurrent(table):
                weights = MappedWeights(bundle.path, table)
                return RecurrentGraph(self.core, weights.arrays, settings, weights.release)
            free = bool(spec.free_axes)
            settings |= FREE_SETTINGS if free else {}
            identity = None
            if bundle.count_bytes(graph) < CACHED_BYTES:
                identity = (self.platform, bundle.list_hashes(graph), lower, self.threads, free)
            read = partial(self.read_model, path, bundle.remedy)
            rewritten = not spec.makes_tokens  # which stay as they were verified
            if lower and spec.float32_tail:
                exact = settings | {"INFERENCE_PRECISION_HINT": "f32"}
                head, tail = (
                    OpenVinoGraph(
                        self.core,
                        partial(cut_model, read, TYPES[spec.float32_tail], half),
                        chosen,
                        identity and (*identity, half),
                        free=free,
                        rewritten=rewritten,
                    )
                    for half, chosen in ((HEAD, settings), (TAIL, exact))
                )
                return JoinedGraph(head, tail)
            one_by_one, shared = not spec.gains_from_batch, spec.shared_inputs
            return OpenVinoGraph(self.core, read, settings, identity, one_by_one, free, rewritten, shared)
        except RuntimeError as error:
            raise refuse(path, error, bundle.remedy) from error

    def make_settings(self, lower: bool) -> dict[str, Any]:
        """The settings of a graph that is computed in bfloat16 (`lower`) or in float32."""
        settings = {**SETTINGS, "INFERENCE_PRECISION_HINT": "bf16" if lower else "f32"}
        return settings | ({"INFERENCE_NUM_THREADS": self.threads} if self.threads else {})

    def read_model(self, path: Path, remedy: str) -> Any:
        """The model in the file `path`. Raises BackendError if OpenVINO cannot read it."""
        try:
            return self.core.read_model(path)
        except RuntimeError as error:
            raise refuse(path, error, remedy) from error

    def open_search(self, codebook: np.ndarray) -> NearestCentroid:
        return OpenVinoNearestCentroid(codebook, self.core, self.make_settings(lower=False))


def refuse(path: Path, error: RuntimeError, remedy: str) -> BackendError:
    return BackendError(f"{path}: OpenVINO refuses it ({find_reason(error)})", "a graph it can load", remedy)
