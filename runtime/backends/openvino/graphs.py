"""Graphs in OpenVINO: compiled per shape, or cut into two halves of different precision."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from sc_runtime.backends.failures import describe_failure
from sc_runtime.caches import make_key
from sc_runtime.errors import BackendError
from sc_runtime.networks import Arrays, Shapes
from sc_runtime.once import OnceEach

from .compiled import CompiledModel, compile_kept
from .rewriting import VERSION, fold_constants, rewrite, share_rows

HEAD, TAIL = "head", "tail"
#: Number of sets of shapes that a graph stays compiled for. Each holds the graph's weights once more. A vocoder runs
#: with up to 16. A dropped one is read from the disk again, which takes a third of the time of compiling it.
KEPT_SHAPES = 4
#: Held while a model is read and rewritten. Rewriting, the longer part, is Python, which runs in one thread at a time
#: anyway. With the lock the graph that is loaded first is ready first, which is the T-UNet.
MAKING = threading.Lock()


class OpenVinoGraph:
    """One graph, compiled for each set of shapes when that is first run, or once for all if `free`.

    read: makes its model, anew each time. A compiled graph that is kept on disk needs none.
    identity: what the compiled graph depends on besides the shapes; it is kept on disk under this. None keeps nothing.
    one_by_one: runs a batch as batches of 1.
    rewritten: rewrites the model for speed before it is compiled for fixed shapes. Results change in the last digits.
    shared: as in `CompiledGraph`. It is ignored unless the graph is rewritten and runs whole batches.

    Several threads may use it.
    """

    def __init__(
        self,
        core: Any,
        read: Callable[[], Any],
        settings: dict[str, Any],
        identity: tuple[object, ...] | None = None,
        one_by_one: bool = False,
        free: bool = False,
        rewritten: bool = False,
        shared: frozenset[str] = frozenset(),
    ) -> None:
        self.core, self.read, self.settings, self.identity = core, read, settings, identity
        self.one_by_one, self.free = one_by_one, free
        self.rewritten = rewritten and not free
        self.shared = shared if self.rewritten and not one_by_one else frozenset()
        self.compiled: OnceEach[tuple[tuple[int, ...], ...], CompiledModel] = OnceEach(KEPT_SHAPES)

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        batch = len(next(iter(feeds.values())))
        if self.one_by_one and batch > 1:
            each = [self.run({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(batch)]
            return {name: np.concatenate([result[name] for result in each]) for name in each[0]}
        shapes = {name: array.shape for name, array in feeds.items()}
        with explained_failures(shapes):
            return self._find(shapes).infer(feeds)

    def prepare(self, shapes: Shapes) -> None:
        self.compile(shapes)

    def compile(self, shapes: Shapes) -> CompiledModel:
        """The model for exactly these shapes, or for all. Raises BackendError."""
        with explained_failures(shapes):
            return self._find(shapes)

    def _find(self, shapes: Shapes) -> CompiledModel:
        key = () if self.free else tuple(shapes[name] for name in sorted(shapes))
        return self.compiled.get(key, lambda: self._compile(shapes))

    def _compile(self, shapes: Shapes) -> CompiledModel:
        fixed = {} if self.free else {name: list(shape) for name, shape in shapes.items()}
        form = VERSION if self.rewritten else None
        key = None if self.identity is None else make_key(*self.identity, sorted(fixed.items()), form)

        def make() -> Any:
            with MAKING:  # anew each time: compilation changes the model, and only the compiled weights stay
                model = read_for(self.read, fixed, self.shared)
                if self.rewritten:
                    rewrite(model, bfloat16=self.settings["INFERENCE_PRECISION_HINT"] == "bf16")
            return model

        return compile_kept(self.core, make, self.settings, key)


class JoinedGraph:
    """Two halves of a graph, each compiled by itself."""

    shared: frozenset[str] = frozenset()

    def __init__(self, head: OpenVinoGraph, tail: OpenVinoGraph) -> None:
        self.head, self.tail = head, tail

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return self.tail.run({TAIL: self.head.run(feeds)[HEAD]})

    def prepare(self, shapes: Shapes) -> None:
        (between,) = self.head.compile(shapes).compiled.outputs
        self.tail.prepare({TAIL: () if between.partial_shape.is_dynamic else tuple(between.shape)})


def read_for(read: Callable[[], Any], shapes: Mapping[str, list[int]], shared: frozenset[str]) -> Any:
    """The model of `read`, its inputs fixed to `shapes` if there are any. The inputs `shared` may have fewer rows."""

    def fix(model: Any, rows: int) -> Any:
        model.reshape({name: [rows, *shape[1:]] for name, shape in shapes.items()})
        return model

    model = read()
    if not shapes:
        return model
    rows = {shape[0] for shape in shapes.values()}
    if len(rows) == 1:
        return fix(model, *rows)
    fold_constants(model)
    few, many = fix(model.clone(), min(rows)), fix(model, max(rows))
    fold_constants(few)
    fold_constants(many)
    return share_rows(few, many, shared)[0]


@contextmanager
def explained_failures(shapes: Shapes) -> Iterator[None]:
    """Raises BackendError for what OpenVINO raises on inputs of these shapes."""
    try:
        yield
    except BackendError:
        raise
    except (RuntimeError, MemoryError) as error:
        what = f"OpenVINO failed on shapes {next(iter(shapes.values()))}"
        raise describe_failure(what, error, find_reason(error)) from error


def find_reason(error: BaseException) -> str:
    """The reason in an error of OpenVINO, whose first lines name places in its source.

    >>> find_reason(RuntimeError("Exception from src/a.cpp:1:\\nCheck 'x' failed at src/b.cpp:2:\\nit is too small\\n"))
    'it is too small'
    """
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not re.match(r"(Exception from|Check .* failed at) .*:$", line)]
    return reasons[0] if reasons else next(iter(filter(None, lines)), type(error).__name__)


def cut_model(read: Callable[[], Any], kind: str, half: str) -> Any:
    """One half of a model: the part before the last operator of type `kind`, or that operator and all that follow.

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
