"""The child process of a trial (`capture_trial`): it lets a graph record itself, replays it on new inputs, compares."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sc_runtime.accuracy import relative_error
from sc_runtime.bundle.store import Bundle
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.graph import DeviceGraph

from .capture_trial import GOOD
from .onnxruntime_cuda import OnnxRuntimeCudaBackend

REPLAYS = 3
#: Relative error of a replay. Two runs of the T-UNet in FP16 differ by a thousandth on an H100, because sums of
#: GroupNorm are added in any order. The results of other inputs differ by more than their size.
TOLERANCE = 0.03


def replay_differs(device: Device, graph: DeviceGraph, axes: Mapping[str, int]) -> str | None:
    """Let `graph` record a run, replay it on new inputs, and compare with runs that are not recorded.

    Returns what is wrong, or None.
    """
    generator = np.random.default_rng(0)
    with device.lock:
        memories = {name: device.allocate(size) for name, size in graph.count_bytes(**axes).items()}
        addresses = {name: memory.address for name, memory in memories.items()}
        call, recorded = graph.bind(addresses, **axes), graph.bind_recorded(addresses, **axes)

        def draw() -> None:
            for name, spec in graph.inputs.items():
                shape = spec.resolve(**axes)
                drawn = generator.integers(1, 999, shape) if spec.dtype == "int64" else generator.normal(size=shape)
                device.write(memories[name].address, drawn.astype(spec.dtype))

        def read() -> list[np.ndarray]:
            shapes = graph.resolve(**axes)
            arrays = [np.empty(shapes[name], spec.dtype) for name, spec in graph.outputs.items()]
            for name, array in zip(graph.outputs, arrays, strict=True):
                device.read(memories[name].address, array)
            return arrays

        draw()
        for each in (call, recorded):
            each.enqueue()
        for replay in range(REPLAYS):
            draw()
            call.enqueue()
            expected = read()
            recorded.enqueue()
            for found, wanted in zip(read(), expected, strict=True):
                if not (error := relative_error(found, wanted)) < TOLERANCE:
                    return f"replay {replay} differs from a run by {error:.2g}"
    return None


def main(arguments: Sequence[str]) -> None:
    """In the child: the trial itself."""
    folder, graph, *sizes = arguments
    backend = OnnxRuntimeCudaBackend()
    axes = {axis: int(size) for axis, _, size in (text.partition("=") for text in sizes)}
    print(replay_differs(backend.gpu, backend.open(Bundle.load(Path(folder)), graph), axes) or GOOD)


if __name__ == "__main__":
    main(sys.argv[1:])
