"""The child process of a trial (`lstm_choice`): it times every way to run a BiLSTM on the GPU, and compares results.

The truth is the BiLSTM in float32 on the CPU, computed once. A library may add in half precision, so it is compared
with it too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sc_runtime.accuracy import relative_error
from sc_runtime.bundle.store import Bundle
from sc_runtime.bundle.weights import MappedWeights
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.graph import DeviceGraph

from .lstm_choice import LIBRARY_LSTM, WAYS, Trial
from .lstm_reference import run_in_float32
from .onnxruntime_cuda import OnnxRuntimeCudaBackend
from .tensorrt.backend import TensorRtBackend

WINDOWS = (1, 16)
KNOWN = 3  #: every so many windows of a batch are the one whose truth is known. Those 1, 8 or 16 places on are others.
RUNS = 5  #: of each way; the fastest counts
BACKENDS = {backend.name: backend for backend in (OnnxRuntimeCudaBackend, TensorRtBackend)}


def compare(
    backend: OnnxRuntimeCudaBackend | TensorRtBackend,
    bundle: Bundle,
    graph: str,
    windows: Sequence[int] = WINDOWS,
    runs: int = RUNS,
) -> Trial:
    """Every way of WAYS on the same inputs. The library's session stays open until the end of the process."""
    entry = bundle.manifest.graphs[graph]
    (spec,) = entry.inputs.values()
    inputs = np.random.default_rng(0).standard_normal(spec.resolve(batch=max(windows)), np.float32)
    inputs[::KNOWN] = inputs[0]
    truth = run_in_float32(MappedWeights(bundle.path, entry.weights).arrays, inputs[0])
    seconds: dict[str, list[float]] = {}
    errors: dict[str, float] = {}
    opened: list[DeviceGraph] = []
    for way in WAYS:
        backend.lstm = way
        opened.append(backend.open(bundle, graph))
        seconds[way], found = [], []
        for batch in windows:
            results, spent = time_run(backend.gpu, opened[-1], inputs[:batch], runs)
            seconds[way].append(spent)
            found += [relative_error(result, truth) for result in results[::KNOWN]]
        errors[way] = float(np.max(found))  # not a number if one is
        if way != LIBRARY_LSTM:
            opened.pop()  # its memory is free for the next way
    return Trial(seconds, errors)


def time_run(device: Device, graph: DeviceGraph, inputs: np.ndarray, runs: int) -> tuple[np.ndarray, float]:
    """The output for `inputs` [B, L, H], and the least seconds of a run."""
    batch = len(inputs)
    shapes = graph.resolve(batch=batch)
    (features,), (acoustic,) = graph.inputs, graph.outputs
    found = np.empty(shapes[acoustic], np.float32)
    with device.lock:
        memories = {name: device.allocate(size) for name, size in graph.count_bytes(batch=batch).items()}
        device.write(memories[features].address, inputs)
        call = graph.bind({name: memory.address for name, memory in memories.items()}, batch=batch)
        spent = []
        for _ in range(runs):
            device.sync()
            started = time.perf_counter()
            call.enqueue()
            device.sync()
            spent.append(time.perf_counter() - started)
        device.read(memories[acoustic].address, found)
    return found, min(spent)


def main(arguments: Sequence[str]) -> None:
    """In the child: the trial itself."""
    name, folder, graph = arguments
    print(json.dumps(asdict(compare(BACKENDS[name](), Bundle.load(Path(folder)), graph))))


if __name__ == "__main__":
    main(sys.argv[1:])
