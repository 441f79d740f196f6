"""What the parts of `bench/gpu.py` run on: a GPU, or in a rehearsal the CPU in its place."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, cast

from sc_runtime.backends.onnxruntime_cuda import CUDA, OnnxRuntimeCudaBackend, Provider
from sc_runtime.bundle.store import Bundle
from sc_runtime.cuda.device import Device, explain_absence
from sc_runtime.cuda.source import check

from .parts import Session, Skipped

NO_GPU = "no GPU"
CPU = Provider("CPUExecutionProvider", "cpu")
VARIANT = "cuda"  #: engine whose variants of the graphs are measured
FAR = 0.02  #: relative error from which on a variant is not used by the other parts
FILL = "fill"  #: prefix of the parts that fill bundles with weights


def open_device(session: Session, quick_search: bool = True) -> Device:
    """The GPU, or in a rehearsal the tests' emulation of one. Raises Skipped where there is none.

    quick_search: NumPy stands in for the centroid search's kernels in a rehearsal; else their emulation runs.
    """
    if session.rehearsal:
        from tests.emulated_device import EmulatedDevice, Emulations

        return cast(Device, EmulatedDevice(Emulations(session.work / "emulations"), quick_search=quick_search))
    require_gpu()
    return Device()


def require_gpu() -> None:
    """Raises Skipped if there is no GPU that this package can use."""
    if reason := explain_absence():
        raise Skipped(f"{NO_GPU}: {reason}")


def require_real_gpu(session: Session) -> None:
    """Raises Skipped in a rehearsal too: nothing stands in for what the part measures."""
    if session.rehearsal:
        raise Skipped(NO_GPU)
    choose_torch_device(session)


def choose_torch_device(session: Session) -> str:
    """Torch's name of the device. Raises Skipped if torch is not installed, or finds no GPU."""
    if importlib.util.find_spec("torch") is None:
        raise Skipped(f"{NO_GPU}: torch is not installed")
    import torch

    if session.rehearsal:
        return "cpu"
    require_gpu()
    if not torch.cuda.is_available():
        raise Skipped(f"{NO_GPU}: torch finds none")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return "cuda"


def open_bundle(session: Session, codec: str = "semanticodec") -> Bundle:
    """The filled bundle of `codec`, when it is ready. Raises Skipped if it could not be filled."""
    return Bundle.load(Path(session.wait_for(f"{FILL}-{codec}")["bundle"]))


def open_backend(session: Session, engine: str | None = VARIANT) -> OnnxRuntimeCudaBackend:
    """ONNX Runtime on the GPU, with the graphs' variants for `engine`; in a rehearsal its CPU provider.

    Where the part "graphs" found that the T-UNet's variant does not run, the graphs run as they were exported.
    """
    if session.rehearsal:
        return OnnxRuntimeCudaBackend(open_device(session), CPU)
    require_gpu()
    import torch  # noqa: F401  # first, so that ONNX Runtime finds the CUDA libraries that torch loads

    if engine == VARIANT and not is_near(session.find("graphs").get(VARIANT, {})):
        engine = None
    return OnnxRuntimeCudaBackend(Device(), dataclasses.replace(CUDA, engine=engine))


def is_near(checked: Mapping[str, Sequence[float] | str]) -> bool:
    """Whether every graph ran and is near its network.

    checked: graph -> its relative errors, which are not numbers where a result is none, or why it did not run.
    """
    return all(not isinstance(errors, str) and all(error <= FAR for error in errors) for errors in checked.values())


def time_calls(run: Callable[[], object], wait: Callable[[], object], repeats: int, warmups: int = 2) -> dict[str, Any]:
    """Seconds of `repeats` calls, each from its start until `wait` returns, after `warmups` that are not counted."""
    seconds = []
    for call in range(warmups + repeats):
        started = time.perf_counter()
        run()
        wait()
        if call >= warmups:
            seconds.append(time.perf_counter() - started)
    return {"median": median(seconds), "min": min(seconds), "max": max(seconds), "runs": repeats}


def wait_for_torch(device: str) -> Callable[[], None]:
    """A function that waits until torch's work on `device` is done."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def describe_gpu() -> dict[str, Any] | None:
    """The GPU's name, architecture, number of multiprocessors, driver and memory. None without a GPU."""
    if explain_absence():
        return None
    device, query = Device(), ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
    found = {"name": device.name, "arch": device.arch, "multiprocessors": device.processors}
    with suppress(OSError, subprocess.CalledProcessError):
        found["driver_and_memory"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    return found


def read_free_memory() -> int | None:
    """Bytes of the GPU's memory that are free; None without a GPU."""
    if explain_absence():
        return None
    from cuda.bindings import driver
    from cuda.core import Device as CoreDevice

    CoreDevice().set_current()  # a thread begins without CUDA's current context
    return int(check(driver.cuMemGetInfo())[0])
