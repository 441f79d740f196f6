"""Choosing a backend by name. `auto` may choose; an explicit choice never silently becomes another."""

from __future__ import annotations

from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import BackendError, SettingsError

from . import onnxruntime, onnxruntime_cuda
from .base import Backend
from .fastest import FastestBackend
from .openvino import backend as openvino
from .tensorrt import backend as tensorrt

#: Name -> a function that explains why the backend cannot run here, or returns None. The fastest is first.
ABSENCES = {
    "tensorrt": tensorrt.explain_absence,
    "onnxruntime-cuda": onnxruntime_cuda.explain_absence,
    "openvino": openvino.explain_absence,
    "onnxruntime": onnxruntime.explain_absence,
}
NAMES = ("auto", *ABSENCES)
PRECISIONS = ("auto", "float32", "bfloat16")


def choose_backend(
    name: str = "auto", threads: int | None = None, precision: str = "auto", bundle: Bundle | None = None
) -> Backend:
    """The backend `name`, or for "auto" the fastest one that can run here.

    Arguments:
        name: one of NAMES.
        threads: number of CPU threads, at least 1. None uses all.
        precision: "auto" leaves the choice to the backend: tokens stay exact on a CPU, and a GPU computes in the types
            that the graphs state. "float32" and "bfloat16" hold for all graphs, on a CPU.
        bundle: the bundle that will run. "auto" takes TensorRT only for one that has plans for it.

    Raises SettingsError for an unknown name, MissingExtraError for a missing package, BackendError for a missing GPU
    and for a precision that the backend or the processor lacks.
    """
    if threads is not None and threads < 1:
        raise SettingsError(f"{threads} threads", "at least 1")
    if precision not in PRECISIONS:
        raise SettingsError(f"precision {precision!r}", f"one of {', '.join(PRECISIONS)}")
    if name not in NAMES:
        raise SettingsError(f"backend {name!r}", f"one of {', '.join(NAMES)}")
    if bundle and bundle.manifest.precision == "int8":
        if name not in ("auto", "openvino"):
            raise BackendError(
                f"the int8 graphs of {bundle.name} with the backend {name}",
                "openvino, which alone runs int8",
                "name a float32 bundle with --bundle, or build one",
            )
        return openvino.OpenVinoBackend(threads, precision)
    if name == "auto":
        chosen = choose_name(precision, bundle)
        if chosen is None:
            return FastestBackend(threads, precision)
        name = chosen
    if name == "openvino":
        return openvino.OpenVinoBackend(threads, precision)
    if name == "onnxruntime":
        if precision == "bfloat16":
            raise BackendError("bfloat16 with the backend onnxruntime", "float32", "use --backend openvino")
        return onnxruntime.OnnxRuntimeBackend(threads)
    if precision != "auto":
        raise BackendError(
            f"precision {precision} with the backend {name}",
            "auto: it computes in the types that the graphs state",
            "build the bundle with --precision float32, mixed or fp16",
        )
    return tensorrt.TensorRtBackend() if name == "tensorrt" else onnxruntime_cuda.OnnxRuntimeCudaBackend()


def choose_name(precision: str, bundle: Bundle | None) -> str | None:
    """The name of the backend that `auto` takes here; None for both CPU backends together."""

    def is_present(name: str) -> bool:
        return ABSENCES[name]() is None  # not asked without need: to look for a GPU takes a tenth of a second

    if precision == "auto":
        if bundle and tensorrt.has_plans(bundle) and is_present("tensorrt"):
            return "tensorrt"
        if is_present("onnxruntime-cuda"):
            return "onnxruntime-cuda"
    on_cpu = [name for name in ("openvino", "onnxruntime") if is_present(name)]
    if len(on_cpu) == 2 and precision != "bfloat16":
        return None
    return on_cpu[0] if on_cpu else "onnxruntime"
