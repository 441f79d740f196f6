"""The GPU of this machine."""

from __future__ import annotations

import importlib.util
import subprocess
from contextlib import suppress
from typing import Any

from sc_runtime.cuda.device import Device, explain_absence
from sc_runtime.cuda.source import check

from .parts import Skipped


def require_gpu() -> None:
    """Raises Skipped if there is no GPU that this package can use."""
    if reason := explain_absence():
        raise Skipped(reason)


def require_torch_gpu() -> None:
    """Raises Skipped if there is no GPU that both this package and torch can use."""
    require_gpu()
    if importlib.util.find_spec("torch") is None:
        raise Skipped("torch is not installed")
    import torch

    if not torch.cuda.is_available():
        raise Skipped("torch finds no GPU")


def describe_gpu() -> dict[str, Any] | None:
    """The GPU's name, architecture, number of multiprocessors, driver and memory. None without a GPU."""
    if explain_absence():
        return None
    device, query = Device(), ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
    found = {"name": device.name, "arch": device.arch, "multiprocessors": device.processors}
    with suppress(OSError, subprocess.CalledProcessError):
        found["driver_and_memory"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    return found


def read_free_memory() -> int:
    """Bytes of the GPU's memory that are free."""
    from cuda.bindings import driver

    return int(check(driver.cuMemGetInfo())[0])
