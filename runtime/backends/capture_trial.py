"""Whether runs of ONNX Runtime can be recorded in a CUDA graph here, tried in a process of its own.

Recording is not something that ONNX Runtime promises for a stream of the caller's. Before 1.30 a replay read host
memory that was no longer there (its pull request 32121), and one report (its issue 32081) has the process abort. So
older versions are refused, and with others a child process records the very graph in question, replays it on new
inputs and compares. The outcome is kept in the user's cache folder for this version, GPU, graph and shapes.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sc_runtime.caches import Cache
from sc_runtime.cuda.device import Device
from sc_runtime.cuda.graph import DeviceGraph
from sc_runtime.errors import first_line

OLDEST = (1, 30)  #: version of ONNX Runtime
SECONDS = 120  #: that a trial may take
OUTCOMES = Cache("kernels", ".capture")
GOOD = "same results"  #: last line of a trial's output
REPLAYS = 3


def check_version(version: str) -> str | None:
    """Why this version's runs must not be recorded, or None."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and tuple(map(int, numbers.groups())) >= OLDEST:
        return None
    return f"onnxruntime-gpu {version} replays stale data: pip install 'onnxruntime-gpu>=1.30'"


def explain_refusal(version: str, gpu: str, bundle: Path, graph: str, axes: Mapping[str, int]) -> str | None:
    """Why runs of `graph` of `bundle` must not be recorded here, or None; it may run a trial."""
    if reason := check_version(version):
        return reason
    sizes = [f"{axis}={size}" for axis, size in sorted(axes.items())]
    path = bundle / f"{graph}.onnx"
    facts = [version, gpu, hashlib.sha256(path.read_bytes()).hexdigest(), *sizes]
    key = f"capture-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"
    if (kept := OUTCOMES.read(key)) is not None:
        return kept.tobytes().decode() or None
    reason = try_out([sys.executable, "-m", __name__, str(bundle), graph, *sizes])
    OUTCOMES.write(key, (reason or "").encode())
    return reason


def try_out(command: Sequence[str], seconds: float = SECONDS) -> str | None:
    """Run a trial. Returns why it did not succeed, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a trial failed: {first_line(error)}"
    said = done.stdout.strip().splitlines()
    if done.returncode == 0 and said and said[-1] == GOOD:
        return None
    lines = [*said, *done.stderr.strip().splitlines()]
    return f"a trial ended with code {done.returncode}: {lines[-1] if lines else 'it printed nothing'}"


def replay_differs(device: Device, graph: DeviceGraph, axes: Mapping[str, int]) -> str | None:
    """Record one run of `graph`, replay it on new inputs, and compare with runs that are not recorded.

    Returns what is wrong, or None.
    """
    generator = np.random.default_rng(0)
    with device.lock:
        memories = {name: device.allocate(size) for name, size in graph.count_bytes(**axes).items()}
        call = graph.bind({name: memory.address for name, memory in memories.items()}, **axes)

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
        for _ in range(2):
            call.enqueue()
        recorded = device.capture(call.enqueue)
        if recorded.refusal:
            return recorded.refusal
        for replay in range(REPLAYS):
            draw()
            call.enqueue()
            expected = read()
            recorded.launch()
            for found, wanted in zip(read(), expected, strict=True):
                if not np.allclose(found, wanted, rtol=1e-2, atol=1e-3, equal_nan=True):
                    return f"replay {replay} differs from a run"
    return None


def main(arguments: Sequence[str]) -> None:
    """In the child: the trial itself."""
    from sc_runtime.bundle.store import Bundle

    from .onnxruntime_cuda import OnnxRuntimeCudaBackend

    folder, graph, *sizes = arguments
    backend = OnnxRuntimeCudaBackend()
    axes = {axis: int(size) for axis, _, size in (text.partition("=") for text in sizes)}
    print(replay_differs(backend.gpu, backend.open(Bundle.load(Path(folder)), graph), axes) or GOOD)


if __name__ == "__main__":
    main(sys.argv[1:])
