"""Compiled models of OpenVINO: run by several threads, kept on disk, checked when they are read."""

from __future__ import annotations

import atexit
import io
import locale
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from sc_runtime.caches import Cache
from sc_runtime.networks import Arrays

BLOBS = Cache("openvino", ".blob")


class KeptLocale:
    """While OpenVINO reads or writes a graph, the process has the locale C. OpenVINO then restores what it found.

    If two threads do so at once, the second may find C and restore it last; from then on Python would read and write
    text as ASCII. The last thread to leave this context restores what the first one found.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.found = threading.Lock(), 0, ""

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.found = locale.setlocale(locale.LC_ALL)
            self.inside += 1

    def __exit__(self, *raised: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                locale.setlocale(locale.LC_ALL, self.found)


LOCALE = KeptLocale()


class CompiledModel:
    """A compiled model with the inference requests that are not in use. Several threads may call `infer`."""

    def __init__(self, compiled: Any, held: object = None) -> None:
        """`held` is kept as long as the model: memory that it refers to."""
        self.compiled, self._held = compiled, held
        self._idle: list[Any] = []

    def infer(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Inputs by name -> outputs by name, which are copies. Raises RuntimeError for what OpenVINO refuses."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        results = request.infer(dict(feeds))
        outputs = {output.any_name: np.array(results[output]) for output in self.compiled.outputs}
        self._idle.append(request)  # not after an error: its state is unknown
        KEEPER.write_due()
        return outputs


class Keeper:
    """Writes compiled models to the cache, not at once but when some seconds have passed, or when the process ends.

    Before the first sound an export, which stops every thread of Python, and the writing of a large file would be
    waited for. There is no thread for it: the first inference after that time does it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._pending: deque[tuple[float, str, Any]] = deque()  #: (time from which it may be written, key, model)
        atexit.register(self.flush)

    def keep(self, key: str, compiled: Any) -> None:
        """Write `compiled` under `key` later."""
        self._pending.append((time.monotonic() + self.seconds, key, compiled))

    def write_due(self) -> None:
        """Write what is due."""
        while self._pending and self._pending[0][0] <= time.monotonic():
            self._write_next()

    def flush(self) -> None:
        """Write all."""
        while self._pending:
            self._write_next()

    def _write_next(self) -> None:
        with suppress(IndexError, RuntimeError):  # another thread was first; what is not exported is compiled again
            _, key, compiled = self._pending.popleft()
            with LOCALE:
                exported = compiled.export_model()
            BLOBS.write(key, exported.getbuffer())


KEEPER = Keeper(20.0)


def compile_kept(core: Any, make: Callable[[], Any], settings: dict[str, Any], key: str | None) -> CompiledModel:
    """The model that `make` returns, compiled with `settings`. It is kept on disk under `key`, and read from there.

    If `key` is None, nothing is kept. Raises RuntimeError for what OpenVINO refuses.
    """
    blob = None if key is None else BLOBS.read(key)
    if blob is not None:
        with suppress(RuntimeError), LOCALE:  # if OpenVINO refuses the blob, the model is compiled again
            return CompiledModel(import_blob(core, blob, settings), blob)
    with LOCALE:
        compiled = core.compile_model(make(), "CPU", settings)
    if key is not None:
        KEEPER.keep(key, compiled)
    return CompiledModel(compiled)


def import_blob(core: Any, blob: np.ndarray, settings: dict[str, Any]) -> Any:
    """The compiled model that was exported as `blob`, uint8 [n], whose memory it goes on to use."""
    from openvino import Shape, Tensor, Type

    try:
        return core.import_model(Tensor(blob, Shape(blob.shape), Type.u8), "CPU", settings)
    except TypeError:  # OpenVINO before 2025.2 takes a stream only
        return core.import_model(io.BytesIO(blob.tobytes()), "CPU", settings)
