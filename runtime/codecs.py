"""The codecs there are, and what each must supply. All else is shared: bundles, files, command line, backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from .config import CodecConfig
from .errors import SettingsError
from .semanticodec.model import SemantiCodecModel
from .semanticodec.samplers import Noise
from .unicodec.model import UniCodecModel

if TYPE_CHECKING:
    from .audio import Audio, Mono
    from .encoding import Cut
    from .parts import Parts

Progress = Callable[[int, int], None]  #: (units of work done, units in all)


@dataclass(frozen=True)
class EncodeOptions:
    """What `Codec.encode` may be told besides the vocabulary; None is not told."""

    domain: str | None = None


@dataclass(frozen=True)
class DecodeOptions:
    """What `Codec.decode` may be told; None is not told."""

    preset: str | None = None
    steps: int | None = None
    guidance: float | None = None
    eta: float | None = None
    solver: str | None = None
    interval: tuple[int, int] | None = None
    seed: int | None = None
    noise: Noise | None = None


class Model(Protocol):
    """One codec. To add another: this, its `CodecConfig`, its networks under export/, and a line in `MODELS`.

    The paper's figure in order, on the graphs and codebooks of `Parts`. Axis letters as in `codec.py`; each `config`
    that a method is given is one of the class `config`.
    """

    number: ClassVar[int]  #: in token files
    config: ClassVar[type[CodecConfig]]
    published: ClassVar[tuple[CodecConfig, ...]]  #: the settings of which there are published weights
    mono: ClassVar[Mono]  #: of several channels: the first, or the mean of them
    batches: ClassVar[bool]  #: whether windows gain by being encoded together
    exact: ClassVar[frozenset[str]]  #: graphs that make tokens, which a backend does not round by itself
    encode_options: ClassVar[frozenset[str]]  #: fields of `EncodeOptions` that it takes
    decode_options: ClassVar[frozenset[str]]  #: fields of `DecodeOptions` that it takes

    def __init__(self, parts: Parts) -> None: ...

    @staticmethod
    def profile(graph: str) -> dict[str, tuple[int, int, int]]:
        """The dynamic axes of the inputs of `graph` -> least, typical and most, which plans for GPUs are made for.

        Empty for a graph that is not for GPUs.
        """
        ...

    @staticmethod
    def measure_axes(graph: str, given: Mapping[str, int]) -> dict[str, int]:
        """All dynamic axes of `graph`, those of its outputs too, from what is `given` of its inputs'."""
        ...

    def check(self, config: Any, options: EncodeOptions) -> None:
        """Raises SettingsError for a value of `options` that it does not take."""
        ...

    def cut(self, recording: Audio, config: Any) -> Cut:
        """A recording -> its windows, each read when it is asked for: memory is bounded, whatever the length."""
        ...

    def encode_windows(self, windows: list[np.ndarray], config: Any, options: EncodeOptions) -> list[np.ndarray]:
        """Windows, of whatever recordings -> the codes of each, int32 [n, C]. They go together where that gains."""
        ...

    def settle(self, options: DecodeOptions) -> dict[str, Any]:
        """All settings that decoding will have, by name, as `json` can write them. Raises SettingsError."""
        ...

    @staticmethod
    def count_windows(positions: int, config: Any) -> int:
        """Windows that `positions` positions are decoded in."""
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
        """codes [T, C] -> pieces float32 [n], `samples` in all. Raises before the first is asked for."""
        ...

    def embed(self, codes: np.ndarray, config: Any) -> np.ndarray:
        """codes [T, C] -> quantised features float32 [T, D]."""
        ...


MODELS: tuple[type[Model], ...] = (SemantiCodecModel, UniCodecModel)


def find_model(name: str) -> type[Model]:
    """The codec `name`. Raises SettingsError where there is none."""
    for model in MODELS:
        if model.config.codec == name:
            return model
    raise SettingsError(f"codec {name!r}", f"one of {', '.join(model.config.codec for model in MODELS)}")


def refuse_others(options: EncodeOptions | DecodeOptions, taken: frozenset[str], codec: str) -> None:
    """Raises SettingsError for what `options` tell that the codec does not take."""
    for field in fields(options):
        value = getattr(options, field.name)
        if value is not None and field.name not in taken:
            has = f"it has {', '.join(sorted(taken))}" if taken else "it has none"
            raise SettingsError(f"{field.name} {value}", f"an option of {codec} ({has})", "leave it out")
