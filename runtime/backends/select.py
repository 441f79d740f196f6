"""Choosing a backend by name. `auto` may choose; an explicit choice never silently becomes another."""

from __future__ import annotations

from ..errors import BackendError, SettingsError
from . import onnxruntime, openvino
from .base import Backend
from .fastest import FastestBackend

#: Name -> why it cannot run here (or None), the faster first.
ABSENCES = {"openvino": openvino.explain_absence, "onnxruntime": onnxruntime.explain_absence}
NAMES = ("auto", *ABSENCES)
PRECISIONS = ("auto", "float32", "bfloat16")


def choose_backend(name: str = "auto", threads: int | None = None, precision: str = "auto") -> Backend:
    """The backend `name`, or under "auto" the fastest that what is installed allows.

    `precision` "auto" is the backend's choice (tokens stay exact), "float32" or "bfloat16" for all graphs. Raises
    SettingsError for an unknown name, MissingExtraError for a missing package, BackendError for a precision that the
    backend or the processor lacks.
    """
    if threads is not None and threads < 1:
        raise SettingsError(f"{threads} threads", "at least 1")
    if precision not in PRECISIONS:
        raise SettingsError(f"precision {precision!r}", f"one of {', '.join(PRECISIONS)}")
    if name not in NAMES:
        raise SettingsError(f"backend {name!r}", f"one of {', '.join(NAMES)}")
    if name == "auto":
        present = [name for name, explain in ABSENCES.items() if explain() is None]
        if len(present) == len(ABSENCES) and precision != "bfloat16":
            return FastestBackend(threads, precision)
        name = present[0] if present else "onnxruntime"
    if name == "openvino":
        return openvino.OpenVinoBackend(threads, precision)
    if precision == "bfloat16":
        raise BackendError("bfloat16 with the backend onnxruntime", "float32", "use --backend openvino")
    return onnxruntime.OnnxRuntimeBackend(threads)
