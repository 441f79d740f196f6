"""What a codec must do. Everything else is shared: bundles, files, backends, the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from .audio import Audio
from .networks import Networks
from .spec import CodecSpec, DecodeOptions, EncodeOptions, Progress


@dataclass(frozen=True)
class WindowPlan:
    """One recording as a codec encodes it.

    samples: length at the codec's sample rate.
    count: number of windows.
    windows: the windows, each read when it is asked for, so that memory does not grow with the recording.
    join: codes of every window, in order -> codes of the recording, int32 [T, C].
    """

    samples: int
    count: int
    windows: Iterator[np.ndarray]
    join: Callable[[list[np.ndarray]], np.ndarray]


class Model(Protocol):
    """One codec, computed stage by stage as its paper's figure shows it. `registry.py` lists them.

    Axis letters are those of `codec.py`. Each `config` is an instance of `spec.config`.
    """

    spec: ClassVar[CodecSpec]

    def __init__(self, networks: Networks) -> None: ...

    def check_encode_options(self, options: EncodeOptions, config: Any) -> None:
        """Raises SettingsError for a value that cannot work."""
        ...

    def plan_windows(self, recording: Audio, config: Any) -> WindowPlan: ...

    def encode_windows(self, windows: list[np.ndarray], config: Any, options: EncodeOptions) -> list[np.ndarray]:
        """Windows, of one recording or of several -> the codes of each, int32 [n, C]."""
        ...

    def resolve_options(self, options: DecodeOptions) -> dict[str, Any]:
        """Every setting of decoding with `options`, by name, as a value that `json` can write. Raises SettingsError."""
        ...

    @staticmethod
    def count_windows(positions: int, config: Any) -> int:
        """The number of windows that `positions` positions are decoded in."""
        ...

    def decode(
        self,
        codes: np.ndarray,
        config: Any,
        samples: int,
        options: DecodeOptions,
        batch: int | None,
        progress: Progress | None,
    ) -> Iterator[np.ndarray]:
        """codes [T, C] -> pieces of sound, float32 [n], `samples` samples in all.

        `batch` windows run together; None uses what suits the device. Raises SettingsError and BundleError when it is
        called, not when the first piece is asked for.
        """
        ...

    def embed(self, codes: np.ndarray, config: Any) -> np.ndarray:
        """codes [T, C] -> quantised features, float32 [T, D]."""
        ...
