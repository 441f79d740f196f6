"""Part of `bench/gpu.py`: every kernel compiled by the NVRTC of the machine, which may be another version than here."""

from __future__ import annotations

import time
from typing import Any

from bench.harness.gpu import NO_GPU, open_device
from bench.harness.parts import Session, Skipped
from sc_runtime.cuda.nearest import choose_macro
from sc_runtime.cuda.source import Macro, compile_source, find_source, import_core
from sc_runtime.errors import BackendError, first_line

REHEARSED_ARCH = "sm_90"
SHAPES = ("11", "12", "31", "32", "61", "62")  #: of kernels/recurrence.cu: tiles of a pass, panels of windows
NOTHING = 'extern "C" __global__ void nothing() {}'


def compile_kernels(session: Session) -> dict[str, Any]:
    """Seconds for each kernel and macro. Raises RuntimeError, which names the first that NVRTC refuses.

    A rehearsal compiles too, for an H100: NVRTC needs no GPU. Raises Skipped where there is no NVRTC.
    """
    arch = REHEARSED_ARCH if session.rehearsal else open_device(session).arch
    if reason := explain_no_compiler(arch):
        raise Skipped(f"{NO_GPU} compiler: {reason}")
    seconds: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name, macro in list_kernels(arch):
        key = " ".join([name, *(macro or ())])
        started = time.perf_counter()
        try:
            compile_source(find_source(name), arch, macro)
            seconds[key] = time.perf_counter() - started
        except BackendError as error:
            refused[key] = first_line(error)
        session.keep({"arch": arch, "seconds": seconds, "refused": refused})
    if refused:
        raise RuntimeError(f"{len(refused)} refused: {next(iter(refused.values()))}")
    return {"arch": arch, "seconds": seconds}


def list_kernels(arch: str) -> list[tuple[str, Macro | None]]:
    """The sources of kernels/ with each macro that they are compiled with for `arch`."""
    found: list[tuple[str, Macro | None]] = [("solver.cu", None), ("join.cu", None)]
    found += [(name, choose_macro(arch)) for name in ("nearest.cu", "product.cu")]
    return found + [("recurrence.cu", ("SHAPE", shape)) for shape in SHAPES]


def explain_no_compiler(arch: str) -> str | None:
    """Why nothing can be compiled for `arch`, or None."""
    try:
        core = import_core()
        core.Program(NOTHING, "c++", core.ProgramOptions(arch=arch)).compile("cubin")
    except Exception as error:  # cuda-core raises classes of several libraries
        return first_line(error)
    return None
