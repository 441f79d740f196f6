"""OpenVINO on the CPU: static shapes where they are few, compiled graphs cached on disk, bfloat16 where it is had."""

from __future__ import annotations

import importlib.util
import locale
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from ..bundle import Bundle
from ..errors import BackendError, MissingExtraError
from ..initializers import Initializers
from .base import Arrays, Graph, Shapes, first_line
from .recurrence import RecurrentGraph, is_recurrent

ONE_BY_ONE = ("audiomae",)  #: gains nothing from a batch, and each batch size would be compiled anew
#: Axes that have another length for each recording: a graph with one is compiled once for all, measured as fast.
FREE_AXES = {"samples", "positions"}
#: For those. OpenVINO 2026.4 fuses attention for the length that comes first: after a run of 1 position, runs of 16 and
#: more are wrong, and nothing says so (tests/test_unicodec.py). Without its fusing they are right, and as fast.
FREE_SETTINGS = {"SNIPPETS_MODE": "DISABLE"}
#: Graphs that are not rounded as a whole: from the last operator of this type on they stay float32. In bfloat16 the
#: vocoder's last stage, where loud channels cancel to silence, leaves noise in quiet passages: the mel distance of one
#: clip of music grew by 11 %. With that stage, a twentieth of the arithmetic, in float32, by 0.1 % (embedded model).
EXACT_TAILS = {"hifigan": "ConvolutionBackpropData"}
HEAD, TAIL = "head", "tail"
CACHED_BYTES = 1e9  #: a larger graph is not cached: its file would be as large as its weights


def explain_absence() -> str | None:
    """Why this backend cannot run here, or None."""
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed: pip install 'sc-runtime[openvino]'"
    return None


class KeptLocale:
    """While OpenVINO reads or writes a graph, the process has the locale C. It puts back what it found.

    Two threads at once may so put back C, and Python would read and write text as ASCII from then on. The last one to
    leave this context puts back what the first one found.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.found = threading.Lock(), 0, ""

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.found = locale.setlocale(locale.LC_ALL)
            self.inside += 1

    def __exit__(self, *raised: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                locale.setlocale(locale.LC_ALL, self.found)


LOCALE = KeptLocale()


class OpenVinoBackend:
    """`threads` None for all cores; `precision` "auto", "float32" or "bfloat16".

    "auto" encodes in float32, so that tokens are exact, and decodes in bfloat16 where the processor multiplies it,
    but for `EXACT_TAILS`. Raises MissingExtraError without the package, BackendError for bfloat16 on a processor
    without it.
    """

    name = "openvino"
    encode_batch = 12  #: the BiLSTM reads its weights once for all of them; more gain a little, and cost memory

    def __init__(self, threads: int | None = None, precision: str = "auto") -> None:
        if explain_absence():
            raise MissingExtraError(
                "openvino is not installed", "the extra `openvino`", "pip install 'sc-runtime[openvino]'"
            )
        import openvino

        self.core = openvino.Core()
        has_bfloat16 = "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and not has_bfloat16:
            raise BackendError("bfloat16 on this processor", "one with AVX-512 BF16 or AMX", "use --precision float32")
        self.threads, self.precision = threads, precision
        self.decodes_bfloat16 = precision != "float32" and has_bfloat16
        self.device = "CPU, bfloat16" if self.decodes_bfloat16 else "CPU"
        self.cache = Path(platformdirs.user_cache_dir("sc-runtime")) / "openvino"

    def open(self, bundle: Bundle, graph: str) -> Graph:
        path = bundle.find_graph(graph)
        exact = graph in bundle.manifest.model.exact  # float32 unless bfloat16 is asked for by name
        lower = self.precision == "bfloat16" or (self.decodes_bfloat16 and not exact)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if lower else "f32",
        }
        if self.threads:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        try:
            if graph == "acoustic_encoder":
                weights = Initializers(path)
                if is_recurrent(weights):
                    return RecurrentGraph(self.core, weights, settings)
            if bundle.count_bytes(graph) < CACHED_BYTES:
                settings["CACHE_DIR"] = str(self.cache)
            axes = {axis for spec in bundle.manifest.graphs[graph].inputs.values() for axis in spec.shape}
            free = not FREE_AXES.isdisjoint(axes)
            settings |= FREE_SETTINGS if free else {}
            read = partial(self.core.read_model, path)
            if lower and graph in EXACT_TAILS:
                head, tail = (partial(cut_model, read, EXACT_TAILS[graph], half) for half in (HEAD, TAIL))
                exact_settings = settings | {"INFERENCE_PRECISION_HINT": "f32"}
                return JoinedGraph(
                    OpenVinoGraph(self.core, head, settings, free=free),
                    OpenVinoGraph(self.core, tail, exact_settings, free=free),
                )
            return OpenVinoGraph(self.core, read, settings, one_by_one=graph in ONE_BY_ONE, free=free)
        except RuntimeError as error:
            raise BackendError(
                f"{path}: OpenVINO refuses it ({first_line(error)})", "a graph it can load", bundle.remedy
            ) from error


class OpenVinoGraph:
    """One graph, compiled for each set of shapes when that is first run, or once for all if `free`.

    `read` gives its model, anew each time; `one_by_one` runs a batch as batches of 1.
    """

    def __init__(
        self,
        core: Any,
        read: Callable[[], Any],
        settings: dict[str, Any],
        one_by_one: bool = False,
        free: bool = False,
    ) -> None:
        self.core, self.read, self.settings, self.one_by_one, self.free = core, read, settings, one_by_one, free
        with LOCALE:
            self.model = read()
        self.outputs = [output.any_name for output in self.model.outputs]
        self.compiled: dict[tuple[tuple[int, ...], ...], Any] = {}

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        batch = len(next(iter(feeds.values())))
        if self.one_by_one and batch > 1:
            each = [self.run({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(batch)]
            return {name: np.concatenate([result[name] for result in each]) for name in self.outputs}
        shapes = {name: array.shape for name, array in feeds.items()}
        with told_failures(shapes):
            results = self.find_request(shapes).infer(dict(feeds))
        return {name: np.array(results[name]) for name in self.outputs}

    def prepare(self, shapes: Shapes) -> None:
        with told_failures(shapes):
            self.find_request(shapes)

    def find_request(self, shapes: Shapes) -> Any:
        """An inference request for exactly these shapes, or for all."""
        key = () if self.free else tuple(shapes[name] for name in sorted(shapes))
        if key not in self.compiled:
            model = self.read() if self.model is None else self.model
            self.model = None  # only the compiled weights stay in memory
            if not self.free:
                model.reshape({name: list(shape) for name, shape in shapes.items()})
            with LOCALE:
                self.compiled[key] = self.core.compile_model(model, "CPU", self.settings).create_infer_request()
        return self.compiled[key]


class JoinedGraph:
    """Two halves of a graph, each compiled by itself."""

    def __init__(self, head: OpenVinoGraph, tail: OpenVinoGraph) -> None:
        self.head, self.tail = head, tail

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return self.tail.run({TAIL: self.head.run(feeds)[HEAD]})

    def prepare(self, shapes: Shapes) -> None:
        self.head.prepare(shapes)
        self.tail.prepare({TAIL: tuple(self.head.find_request(shapes).get_output_tensor().shape)})


@contextmanager
def told_failures(shapes: Shapes) -> Iterator[None]:
    """Raises BackendError for what OpenVINO raises on inputs of these shapes."""
    try:
        yield
    except RuntimeError as error:
        raise BackendError(
            f"OpenVINO failed on shapes {next(iter(shapes.values()))} ({first_line(error)})",
            "inputs that fit in memory",
            "use a smaller batch",
        ) from error


def cut_model(read: Callable[[], Any], kind: str, half: str) -> Any:
    """One half of a model: what comes before the last operator of type `kind`, or that and all behind it.

    The first half's output is called HEAD, the second's input TAIL; they are the same tensor.
    """
    from openvino import Model
    from openvino import opset13 as operators

    model = read()
    last = [operator for operator in model.get_ordered_ops() if operator.get_type_name() == kind][-1]
    source = last.input_value(0)
    if half == HEAD:
        source.set_names({HEAD})
        return Model([source], model.get_parameters())
    given = operators.parameter(source.get_partial_shape(), source.get_element_type(), TAIL)
    given.output(0).set_names({TAIL})
    last.input(0).replace_source_output(given.output(0))
    return Model(model.get_results(), [given])
