"""ONNX Runtime and OpenVINO, imported without the usage reports that they send.

ONNX Runtime 1.29 and later report to Microsoft some seconds after they start, and write a device id and a database of
events to the user's cache folder; an event holds the interpreter's path and the processor. The variable
ORT_DISABLE_TELEMETRY stops all of it, if it is set before the library is loaded.

`import openvino` reports to Google Analytics and writes a client id to the home folder (`openvino_telemetry`, up to
OpenVINO 2026.4). The consent file stops only the report. OpenVINO has a stub for environments without the package, so
the package is hidden while OpenVINO is imported. NNCF does the same.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TELEMETRY = "openvino_telemetry"
_LOCK = threading.RLock()


def import_onnxruntime() -> Any:
    """The module onnxruntime. A value of ORT_DISABLE_TELEMETRY that the user has set is left alone."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def import_openvino(name: str = "openvino") -> Any:
    """The module `name`: openvino, a module of it, or nncf, which imports it."""
    with hidden_telemetry():
        return importlib.import_module(name)


@contextmanager
def hidden_telemetry() -> Iterator[None]:
    """While the block runs, `openvino_telemetry` cannot be imported. Where it was imported before, nothing changes."""
    with _LOCK:
        if TELEMETRY in sys.modules:
            yield
            return
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            if sys.modules.get(TELEMETRY, ...) is None:
                del sys.modules[TELEMETRY]
