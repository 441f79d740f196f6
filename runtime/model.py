"""What a codec must do. Everything else is shared: bundles, files, backends, the command line."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from .audio import Audio
from .networks import Networks
from .spec import CodecSpec, DecodeOptions, EncodeOptions


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


@dataclass(frozen=True)
class DecodePlan:
    """One recording as a codec decodes it.

    windows: what `Model.decode_windows` takes, one for each window of the recording, in order.
    key: windows of recordings that have equal keys may run together.
    work: units of progress of one window.
    samples: length of the sound.
    overlap: number of samples that a window shares with the next one.
    """

    windows: Sequence[Any]
    key: Hashable
    work: int
    samples: int
    overlap: int


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

    @property
    def decode_batch(self) -> int:
        """The number of windows, of any recordings, that are decoded together. 1 where a group does not pay."""
        ...

    def plan_decoding(self, codes: np.ndarray, config: Any, samples: int, options: DecodeOptions) -> DecodePlan:
        """codes [T, C] -> what is decoded to `samples` samples. Raises SettingsError, and BundleError for bad files."""
        ...

    def decode_windows(self, windows: list[Any], report: Callable[[], None]) -> Iterator[Iterable[np.ndarray]]:
        """Windows of one key, run together -> the waveform of each in turn, in pieces float32 [n].

        The first piece has at least `DecodePlan.overlap` samples. `report` is called when a unit of work of every
        window is done, but for the last unit. Raises BackendError.
        """
        ...

    def embed(self, codes: np.ndarray, config: Any) -> np.ndarray:
        """codes [T, C] -> quantised features, float32 [T, D]."""
        ...
