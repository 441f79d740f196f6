"""Samples that arrive in messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .problems import ProblemError
from .settings import Limits

DTYPES: dict[int, np.dtype[Any]] = {16: np.dtype("<i2"), 32: np.dtype("<f4")}  #: bits of a sample -> how it is stored


@dataclass(frozen=True)
class Segment:
    """samples: int16 or float32 [n, channels]. is_last: whether the recording ends with it."""

    samples: np.ndarray
    is_last: bool


class PcmUpload:
    """Interleaved little-endian samples, cut into segments of `segment_seconds`; None makes one segment of all.

    Raises ProblemError for a form that cannot work, and in `add` for more samples than `limits` allow.
    """

    def __init__(
        self, sample_rate: int, channels: int, bit_depth: int, segment_seconds: float | None, limits: Limits
    ) -> None:
        if bit_depth not in DTYPES:
            expected = " or ".join(map(str, DTYPES))
            given = f"bit_depth {bit_depth} of samples to encode"
            raise ProblemError(422, "settings", given, expected, "send such samples, and state their bit_depth")
        if segment_seconds is not None and not 0.1 <= segment_seconds <= limits.seconds:
            given, expected = f"segment_seconds {segment_seconds:g}", f"0.1 to {limits.seconds:g}"
            raise ProblemError(422, "settings", given, expected, "choose another length, or leave it out")
        self.channels, self.dtype, self.limits = channels, DTYPES[bit_depth], limits
        self.frame_bytes = channels * self.dtype.itemsize
        self.segment_bytes = None
        if segment_seconds is not None:
            self.segment_bytes = self.frame_bytes * max(1, round(segment_seconds * sample_rate))
        self.largest = min(limits.audio_bytes, int(limits.seconds * sample_rate) * self.frame_bytes)
        self.buffer = bytearray()
        self.is_finished = False

    def add(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > self.largest:
            expected = f"at most {self.largest} bytes at once ({self.limits.seconds:g} s)"
            raise ProblemError(
                413, "too-large", f"{len(self.buffer)} bytes of samples", expected, "use segment_seconds"
            )

    def finish(self) -> None:
        """No more samples follow. Raises ProblemError for a last frame that is not whole."""
        if len(self.buffer) % self.frame_bytes:
            given = f"{len(self.buffer)} bytes of samples"
            raise ProblemError(422, "audio", given, f"whole frames of {self.frame_bytes} bytes", "send all channels")
        self.is_finished = True

    def has_segment(self) -> bool:
        return self.is_finished or (self.segment_bytes is not None and len(self.buffer) >= self.segment_bytes)

    def take_segment(self) -> Segment:
        """The oldest segment, which `has_segment` has found. The last may be shorter, or empty."""
        size = len(self.buffer) if self.segment_bytes is None else min(self.segment_bytes, len(self.buffer))
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        samples = np.frombuffer(data, self.dtype).reshape(-1, self.channels)
        return Segment(samples, self.is_finished and not self.buffer)
