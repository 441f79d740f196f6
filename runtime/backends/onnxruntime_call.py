"""Runs ONNX Runtime on memory of a GPU that is given by its address."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from sc_runtime.bundle.manifest import GraphEntry
from sc_runtime.cuda.graph import Addresses, Shapes
from sc_runtime.errors import BackendError
from sc_runtime.libraries import import_onnxruntime

from .failures import describe_failure

log = logging.getLogger(__name__)

NOT_RECORDED = -1  #: tells ONNX Runtime to make no CUDA graph
NO_PLACE = -1
NO_PLAN = "CUDNN_FE failure"  #: in an error: cuDNN has no plan for a convolution of this shape

Way = tuple[str | None, Mapping[str, str]]  #: the engine whose variant of a graph runs, and options of convolutions
Sizes = tuple[tuple[str, tuple[int, ...]], ...]  #: the shapes of all inputs and outputs of a run
Tensor = tuple[str, str, tuple[Any, ...]]  #: "input" or "output", its name, and where it is bound to


class OpenSession:
    """A session, with the bindings of the calls that run in it.

    Calls do not hold them: a binding keeps its session, and so the weights of the graph on the GPU.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        self._bindings: WeakKeyDictionary[OnnxRuntimeCall, Any] = WeakKeyDictionary()

    def run(self, call: OnnxRuntimeCall, tensors: Sequence[Tensor], options: Any) -> None:
        """Run with `tensors` bound for `call`, which are bound once."""
        if call not in self._bindings:
            binding = self.session.io_binding()
            for kind, name, place in tensors:
                getattr(binding, f"bind_{kind}")(name, *place)
            self._bindings[call] = binding
        self.session.run_with_iobinding(self._bindings[call], options)


class Sessions(Sequence[Any]):
    """The sessions of one graph for each of `ways`, in order of preference. `[place]` is the first one of a way.

    The first of all is opened at once, the others when they are taken. If ONNX Runtime refuses the first one's variant,
    all ways with that variant are left out.

    A session keeps cuDNN's plans for the shapes of its latest run alone, and making them takes seconds. So with `most`,
    a way has as many sessions: the shapes that are seen first get one each, and further ones share them in turn.

    A run that failed must not be repeated in its session. A convolution notes the shape of its input before it makes
    a plan (ONNX Runtime's nn/conv.cc). With the same shape it then takes the plan as made, and asks for as many bytes
    as memory that was never written says. So a way that has no plan for some shapes is not tried with them again, and
    a session that failed otherwise is dropped. Nothing here keeps it then, so that its memory on the GPU is free before
    another one is opened.
    """

    def __init__(self, load: Callable[[Way], Any], ways: Sequence[Way], most: int = 1) -> None:
        self._load, self._ways, self._most = load, list(ways), most
        self._opened: dict[tuple[int, int], OpenSession] = {}  #: by the place of the way, and by number
        self._numbers: dict[int, dict[Sizes, int]] = {}  #: place of a way -> numbers of its sessions
        #: What the first ways failed with, in order. An error itself would keep the frames that it passed through, and
        #: what their variables hold: memory on the GPU.
        self._planless: dict[Sizes, list[str]] = {}
        try:
            self[0]
        except BackendError as error:
            self._ways = [way for way in ways if way[0] != ways[0][0]]
            if not self._ways:
                raise
            log.warning("the graph runs as it was exported, which is slower: %s", error)
        self[0]  # after the block: the error keeps what was loaded of the session that failed

    def __len__(self) -> int:
        return len(self._ways)

    def __getitem__(self, place: Any) -> Any:
        return self._open(place, 0).session

    def take(self, place: int, sizes: Sizes) -> OpenSession:
        """The session of the way at `place` for these shapes. Raises BackendError if it cannot be opened."""
        return self._open(place, self._find_number(place, sizes))

    def _open(self, place: int, number: int) -> OpenSession:
        if (place, number) not in self._opened:
            self._opened[place, number] = OpenSession(self._load(self._ways[place]))
        return self._opened[place, number]

    def _find_number(self, place: int, sizes: Sizes) -> int:
        numbers = self._numbers.setdefault(place, {})
        if sizes not in numbers:
            free = set(range(self._most)) - set(numbers.values())
            numbers[sizes] = min(free) if free else len(numbers) % self._most
        return numbers[sizes]

    def find_place(self, sizes: Sizes) -> int:
        """The place of the first way that may have a plan for these shapes.

        Raises RuntimeError, with what the last way failed with, if none has.
        """
        reasons = self._planless.get(sizes, [])
        if len(reasons) == len(self):
            raise RuntimeError(reasons[-1])
        return len(reasons)

    def note_failure(self, place: int, sizes: Sizes, reason: str) -> bool:
        """Take note that a run with these shapes failed at `place`. Returns whether cuDNN had no plan."""
        if NO_PLAN not in reason:
            self._opened.pop((place, self._find_number(place, sizes)), None)
            return False
        self._numbers.get(place, {}).pop(sizes, None)  # other shapes may have the session
        reasons = self._planless.setdefault(sizes, [])
        if len(reasons) == place:
            reasons.append(reason)
        return True


class OnnxRuntimeCall:
    """A session with its inputs and outputs bound to addresses, run on the device's stream without waiting.

    Where cuDNN has no plan for a convolution, the next of `sessions` runs the graph. Callers hold the device's lock.

    With `recorded`, ONNX Runtime makes a CUDA graph of the first run and replays it from then on. It keeps graphs for
    each thread: the first run in every thread makes one.
    """

    _numbers = itertools.count(1)  #: of recorded calls

    def __init__(
        self,
        sessions: Sessions,
        graph: str,
        entry: GraphEntry,
        memory: str,
        shapes: Shapes,
        addresses: Addresses,
        recorded: bool = False,
    ) -> None:
        self._sessions, self._graph = sessions, graph
        self._sizes: Sizes = tuple((name, tuple(shapes[name])) for name in (*entry.inputs, *entry.outputs))
        self._tensors: list[Tensor] = []
        for kind, specs in (("input", entry.inputs), ("output", entry.outputs)):
            for name, spec in specs.items():
                place = memory, 0, np.dtype(spec.dtype).type, list(shapes[name]), addresses[name]
                self._tensors.append((kind, name, place))
        self._options = import_onnxruntime().RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        number = next(self._numbers) if recorded else NOT_RECORDED
        self._options.add_run_config_entry("gpu_graph_id", str(number))

    def enqueue(self) -> None:
        while True:
            place = NO_PLACE
            try:
                place = self._sessions.find_place(self._sizes)
                return self._sessions.take(place, self._sizes).run(self, self._tensors, self._options)
            except BackendError:  # a session that cannot be opened
                raise
            except Exception as error:  # ONNX Runtime raises classes of its own that share no base
                error.__traceback__ = None  # its frames keep the session, which may have to go
                if place == NO_PLACE or not self._sessions.note_failure(place, self._sizes, str(error)):
                    what = f"ONNX Runtime failed on {self._graph}"
                    raise describe_failure(what, error, memory="the GPU's memory") from error
