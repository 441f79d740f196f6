"""Graphs in OpenVINO: compiled per shape, or cut in two halves of different precision."""

from __future__ import annotations

import locale
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from sc_runtime.errors import BackendError, first_line
from sc_runtime.networks import Arrays, Shapes

HEAD, TAIL = "head", "tail"


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
