"""Which BiLSTM an acoustic encoder runs with on a GPU: that of the library, or kernels/recurrence.cu.

Only FP16 bundles have a choice: the kernel rounds weights to float16. A trial times all ways in a process of its own,
because blocks that wait for each other hang where something is wrong. It also compares their results with float32, as
a library may add in half precision. The outcome is kept in the user's cache folder, for this GPU, library, graph and
source of the kernels. One way is chosen for all batches, so that tokens do not depend on the batch.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sc_runtime.bundle.store import Bundle
from sc_runtime.bundle.weights import MappedWeights
from sc_runtime.caches import Cache, make_key
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.graph import Addresses, DeviceGraph, Shapes
from sc_runtime.cuda.lstm import OUTPUT, PRODUCT, RECURRENCE, BiLstm, LstmCall
from sc_runtime.cuda.lstm_layout import COLUMNS
from sc_runtime.cuda.source import find_source, read_whole

from .trial import run_child

LIBRARY_LSTM, TOGETHER, IN_TURN = "library", "kernel", "kernel, directions in turn"
WAYS = (LIBRARY_LSTM, TOGETHER, IN_TURN)
MEASURED = "measured"  #: a trial chooses
CHILD = "sc_runtime.backends.lstm_child"  #: the module that a trial runs
SECONDS = 300  #: that a trial may take, most of them for the truth where the CPU is slow
OUTCOMES = Cache("kernels", ".lstm")
TOLERANCE = 1e-2  #: relative error of the outputs against float32

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """What a trial measured.

    seconds: way -> seconds of a run, for 1 and for 16 windows.
    errors: way -> the largest relative error against `run_in_float32`.
    failure: why nothing was measured, or None.
    """

    seconds: Mapping[str, Sequence[float]]
    errors: Mapping[str, float]
    failure: str | None = None

    @property
    def right(self) -> Sequence[str]:
        """The ways whose results are right."""
        return [way for way in self.seconds if self.errors.get(way, math.inf) <= TOLERANCE]

    def choose(self) -> str:
        """Of the ways with right results that of the smallest total time. The library's if there is none."""
        return min(self.right, key=lambda way: sum(self.seconds[way]), default=LIBRARY_LSTM)


def open_kernel(device: Device, bundle: Bundle, graph: str, way: str, backend: str, library: str) -> DeviceGraph | None:
    """`graph`, a BiLSTM, run by the kernel; None if the library's LSTM is to run it.

    way: one of WAYS, or MEASURED.
    backend, library: the backend's name, and the library with its version, for a trial.

    Raises BundleError for a damaged bundle, BackendError where the kernel cannot be loaded.
    """
    if not has_choice(bundle, graph):
        return None
    if way == MEASURED:
        way = find_trial(bundle, graph, backend, library, device.name).choose()
    if way == LIBRARY_LSTM:
        return None
    bundle.find_graph(graph)  # verified
    entry = bundle.manifest.graphs[graph]
    with device.lock:
        lstm = BiLstm(device, MappedWeights(bundle.path, entry.weights).arrays, way == IN_TURN)
    (features,), (acoustic,) = entry.inputs, entry.outputs

    def prepare(shapes: Shapes, addresses: Addresses) -> LstmCall:
        batch, length, _ = shapes[features]
        return lstm.bind(addresses[features], addresses[acoustic], batch, length)

    return DeviceGraph(device, bundle.spec.graphs[graph], entry.inputs, entry.outputs, prepare)


def has_choice(bundle: Bundle, graph: str) -> bool:
    """Whether the kernel computes what `graph` states: a BiLSTM in half precision, with a table of its weights."""
    if not bundle.manifest.is_half(graph) or not bundle.spec.graphs[graph].is_lstm:
        return False
    table = bundle.manifest.graphs[graph].weights
    halves = {name for name, weight in table.items() if weight.dtype == "float16"}
    return {"w0", "r0", "b0", OUTPUT} <= halves and table["r0"].shape[2] % COLUMNS == 0


def find_trial(bundle: Bundle, graph: str, backend: str, library: str, gpu: str) -> Trial:
    """The kept outcome of a trial, or that of one which is run now and kept. A failure is kept too.

    What keeps the library's LSTM is logged in every process, for a kept outcome with how to try again.
    """
    sources = [read_whole(find_source(name)) for name in (PRODUCT, RECURRENCE)]
    key = f"lstm-{make_key(gpu, backend, library, bundle.list_hashes(graph), sources)}"
    if (kept := OUTCOMES.read(key)) is not None:
        trial = Trial(**json.loads(kept.tobytes()))
        remedy = f"; to compare again, remove {key}.* from {OUTCOMES.folder}"
    else:
        log.warning("%s: comparing the ways to run it on %s, once", graph, gpu)
        trial = run_trial([sys.executable, "-m", CHILD, backend, str(bundle.path), graph])
        OUTCOMES.write(
            key, json.dumps({"seconds": trial.seconds, "errors": trial.errors, "failure": trial.failure}).encode()
        )
        remedy = ""
    if trial.failure:
        log.warning("%s runs with the LSTM of %s: %s%s", graph, library, trial.failure, remedy)
    elif not trial.right:
        off = trial.errors.get(LIBRARY_LSTM, math.nan)
        said = "%s runs with the LSTM of %s, which is %.2g off float32: tokens may differ%s"
        log.warning(said, graph, library, off, remedy)
    return trial


def run_trial(command: Sequence[str], seconds: float = SECONDS) -> Trial:
    """Run a child that prints a trial as JSON in its last line."""
    answer, failure = run_child(command, seconds)
    if answer is None:
        return Trial({}, {}, failure)
    try:
        return Trial(**json.loads(answer))
    except (ValueError, TypeError):
        return Trial({}, {}, f"a trial ended with code 0: {answer}")
