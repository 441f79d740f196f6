"""The margins of the tokens that differ between the runtime and the published procedure, for `bench/rtf.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.quality.margins import RecordingBackend, list_differences, summarise_differences
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.codec import Codec
from sc_runtime.errors import BackendError

from .inputs import make_sound
from .sides import Settings


class DifferencesProgram:
    """A process that encodes as the runtime's side did, and keeps the features (`bench.harness.processes.Program`).

    It is not timed: keeping the features costs time.
    """

    def __init__(self, settings: Settings) -> None:
        bundle = Bundle.load(settings.bundle)
        self.backend = RecordingBackend(choose_backend(settings.backend, settings.threads, settings.precision, bundle))
        self.codec, self.batch = Codec(bundle, self.backend), settings.encode_batch

    def answer(self, seconds: float, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
        """ours, theirs: codes [T, C] of both sides for the sound of `seconds` seconds. Raises BackendError."""
        codes = self.codec.encode(make_sound(seconds, self.codec.sample_rate), batch=self.batch).codes
        if not np.array_equal(codes[: len(ours)], ours):
            given = f"{(codes[: len(ours)] != ours).sum()} tokens that differ between two runs of the runtime"
            raise BackendError(given, "equal tokens in every run", "report it as a fault")
        return summarise_differences(list_differences(ours, theirs, self.backend.take_columns()), ours.size)
