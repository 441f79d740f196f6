"""Choosing a backend by name. `auto` may choose; an explicit choice never silently becomes another."""

from __future__ import annotations

from ..errors import SettingsError
from . import onnxruntime
from .base import Backend

#: Name -> why it cannot run here (or None), in the order `auto` prefers.
ABSENCES = {"onnxruntime": onnxruntime.explain_absence}
NAMES = ("auto", *ABSENCES)


def choose_backend(name: str = "auto", threads: int | None = None) -> Backend:
    """The backend `name`. Raises SettingsError for an unknown name, MissingExtraError for a missing package."""
    if threads is not None and threads < 1:
        raise SettingsError(f"{threads} threads", "at least 1")
    if name in ("auto", "onnxruntime"):
        return onnxruntime.OnnxRuntimeBackend(threads)
    raise SettingsError(f"backend {name!r}", f"one of {', '.join(NAMES)}")
