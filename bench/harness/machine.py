"""Describes what a measurement ran on: machine, versions, commit. Measures the memory of this process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  #: of the checkout
PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "torch")
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")  #: those that networks use


def describe_machine() -> dict[str, Any]:
    """The processor, the usable cores, the memory in bytes, the operating system, and the load at this moment.

    Call it before anything is measured: `load_before` is the load average of the last minute.
    """
    cpuinfo = read_fields(Path("/proc/cpuinfo"))
    flags = cpuinfo.get("flags", "").split()
    return {
        "cpu": cpuinfo.get("model name") or platform.processor() or platform.machine(),
        "cpu_family_model": f"{cpuinfo.get('cpu family', '?')}/{cpuinfo.get('model', '?')}" if cpuinfo else None,
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": count_cores(),
        "memory_bytes": measure_memory(),
        "system": platform.platform(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def count_cores() -> int:
    """Number of logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure_memory() -> int:
    """Size of the machine's memory in bytes."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    import psutil

    return psutil.virtual_memory().total


def measure_peak_memory() -> int:
    """The largest resident set of this process since its start, in bytes. Mapped files count.

    On Linux it is VmHWM. The ru_maxrss of getrusage would not do: a child process inherits its parent's value.
    """
    if peak := read_fields(Path("/proc/self/status")).get("VmHWM"):
        return int(peak.split()[0]) * 1024
    if os.name == "nt":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def list_versions(*more: str) -> dict[str, str]:
    """Versions of Python, of the packages that do the arithmetic, and of the packages `more`, where installed."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe_commit() -> str | None:
    """The commit that is checked out, with "+ changes" if tracked files differ. None outside a git checkout."""
    try:
        head = run_git("rev-parse", "HEAD")
        changed = run_git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head} + changes" if changed else head


def run_git(*arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def read_fields(path: Path) -> dict[str, str]:
    """The "name : value" lines of a file under /proc, the first of each name. Empty if the file is missing."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields
