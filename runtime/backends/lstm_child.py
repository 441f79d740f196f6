"""The child process of a trial (`lstm_choice`): it times every way to run a BiLSTM on the GPU, and compares results."""

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
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.graph import DeviceGraph

from .lstm_choice import LIBRARY_LSTM, WAYS, Trial
from .onnxruntime_cuda import OnnxRuntimeCudaBackend
from .tensorrt.backend import TensorRtBackend

WINDOWS = (1, 16)
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
    seconds: dict[str, list[float]] = {}
    errors: dict[str, float] = {}
    truths: list[np.ndarray] = []
    opened: list[DeviceGraph] = []
    for way in WAYS:
        backend.lstm = way
        opened.append(backend.open(bundle, graph))
        seconds[way], errors[way] = [], 0.0
        for i, batch in enumerate(windows):
            found, spent = time_run(backend.gpu, opened[-1], batch, runs)
            seconds[way].append(spent)
            if way == LIBRARY_LSTM:
                truths.append(found)
            errors[way] = max(errors[way], relative_error(found, truths[i]))
        if way != LIBRARY_LSTM:
            opened.pop()  # its memory is free for the next way
    return Trial(seconds, errors)


def time_run(device: Device, graph: DeviceGraph, batch: int, runs: int) -> tuple[np.ndarray, float]:
    """The output for inputs that depend on `batch` alone, and the least seconds of a run."""
    generator = np.random.default_rng(batch)
    shapes = graph.resolve(batch=batch)
    (features,), (acoustic,) = graph.inputs, graph.outputs
    found = np.empty(shapes[acoustic], np.float32)
    with device.lock:
        memories = {name: device.allocate(size) for name, size in graph.count_bytes(batch=batch).items()}
        device.write(memories[features].address, generator.standard_normal(shapes[features], np.float32))
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
