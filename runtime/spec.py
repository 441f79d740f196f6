"""What a codec is, as data.

Each codec states its facts once, as a `CodecSpec` in its own `spec.py`. Bundles, backends, the command line and the
exporter read them there, so their code names no codec and no graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .config import CodecConfig
from .errors import SettingsError, check_whole

if TYPE_CHECKING:
    import numpy as np  # for a type only: `sc-runtime --help` reads the options below and must start at once

Mono = Literal["first", "mean"]  #: how several channels become one: the first of them, or their mean
Noise = Callable[[int, int], "np.ndarray"]  #: (window, draw) -> standard normal noise, float32
Progress = Callable[[int, int], None]  #: (units of work done, units in all)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph: a NumPy dtype name, and a shape with a name in place of each dynamic axis."""

    dtype: str
    shape: tuple[int | str, ...]

    def resolve(self, **axes: int) -> tuple[int, ...]:
        """The shape, with the dynamic axes ("batch", "frames") of the given sizes."""
        return tuple(axes[axis] if isinstance(axis, str) else axis for axis in self.shape)


@dataclass(frozen=True)
class DerivedAxis:
    """A dynamic axis of an output, whose size follows from the axis `source` of an input.

    The size is ceil(`numerator` · n / `denominator`) + `offset`, where n is the size of `source`.
    """

    source: str
    numerator: int = 1
    denominator: int = 1
    offset: int = 0

    def size(self, axes: Mapping[str, int]) -> int:
        return -(-self.numerator * axes[self.source] // self.denominator) + self.offset


@dataclass(frozen=True)
class GraphSpec:
    """Facts of one graph that backends act on."""

    #: Dynamic axis of the inputs -> smallest, typical and largest size in a plan for a GPU. Empty if the graph is not
    #: for GPUs.
    profile: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    #: The same of a second profile of a plan, for fewer windows. It is used where the inputs fit into it.
    few: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    derived_axes: Mapping[str, DerivedAxis] = field(default_factory=dict)  #: the dynamic axes of the outputs
    #: Whether tokens depend on it. If so, it is computed in float32 unless a lower precision is asked for by name.
    makes_tokens: bool = False
    gains_from_batch: bool = True  #: whether a batch of windows takes less time than the windows one by one
    #: Dynamic axes whose size differs for nearly every recording, so that compiling for each size does not pay.
    free_axes: frozenset[str] = frozenset()
    #: An ONNX operator type. The last operator of this type, and all after it, stay float32 when the rest is rounded.
    float32_tail: str | None = None
    #: Inputs that are the same for several rows of the other inputs. A backend may take them once (`CompiledGraph`).
    shared_inputs: frozenset[str] = frozenset()
    repeats: bool = False  #: whether decoding runs it many times in a row, so that a CUDA graph of its run pays
    is_lstm: bool = False  #: whether it is a bidirectional LSTM and a linear map (`backends.openvino.recurrence`)

    def resolve_axes(self, axes: Mapping[str, int]) -> dict[str, int]:
        """The sizes of all dynamic axes, the outputs' too, from the sizes of the inputs' `axes`."""
        return {**axes, **{name: derived.size(axes) for name, derived in self.derived_axes.items()}}


@dataclass(frozen=True)
class CodecSpec:
    """Facts of one codec."""

    number: int  #: of the codec in token files
    config: type[CodecConfig]
    published: tuple[CodecConfig, ...]  #: the settings that have published weights
    mono: Mono
    batches: bool  #: whether windows gain from being encoded together
    graphs: Mapping[str, GraphSpec]
    encode_options: frozenset[str] = frozenset()  #: fields of `EncodeOptions` that it takes
    decode_options: frozenset[str] = frozenset()  #: fields of `DecodeOptions` that it takes

    @property
    def name(self) -> str:
        """The codec's name in manifests, commands and messages."""
        return self.config.codec


def option(text: str, **command_line: Any) -> Any:
    """A field of an options class whose default, None, leaves the choice to the codec.

    `text` is its help on the command line. `command_line` are other arguments of `typer.Option`.
    """
    return field(default=None, metadata={"help": text, **command_line})


@dataclass(frozen=True)
class EncodeOptions:
    """Options of encoding. None leaves the choice to the codec. A codec refuses options that it does not have."""

    domain: str | None = option("Kind of sound, for codecs that have this option: speech, music or sound.")


@dataclass(frozen=True)
class DecodeOptions:
    """Options of decoding. None leaves the choice to the codec. A codec refuses options that it does not have.

    preset: "reference" (the default: the published 50 steps of DDIM, guidance 2, eta 1), "balanced" or "fast". The
        other fields change the preset.
    steps: number of diffusion steps, 1 to 999.
    guidance: scale of classifier-free guidance; 1 is none and halves the work.
    eta: fresh noise at each step, from 0 (deterministic) to 1.
    solver: "ddim", "dpm" or "unipc".
    interval: the first and the last diffusion timestep, of 0 to 1000, at which guidance acts.
    seed: of the noise, 0 to 2^64 - 1; the default is 0. The noise is a function of (seed, window, draw).
    noise: replaces the seeded noise: `noise(window, draw)` returns standard normal float32 [8, 256, 16]. Draw 0 is
        x_T and draw 1 + i is the noise of step i. The command line does not have it.
    """

    preset: str | None = option(
        "reference (the default, as published: 50 steps, guidance 2, eta 1), balanced (20 steps) or fast (8)."
    )
    steps: int | None = option("Diffusion steps, instead of the preset's.")
    guidance: float | None = option("Classifier-free guidance; 1 is none, and halves the work.")
    eta: float | None = option("Fresh noise at each step: 0 (deterministic) to 1.")
    solver: str | None = option("ddim, dpm or unipc, instead of the preset's.")
    interval: tuple[int, int] | None = option(
        "Guide only at diffusion timesteps from LOW to HIGH, of 0 to 1000; the others cost half.", metavar="LOW HIGH"
    )
    seed: int | None = option("Seed of the noise, by default 0. A seed gives the same sound everywhere.")
    noise: Noise | None = None


Options = EncodeOptions | DecodeOptions


def change_options(options: DecodeOptions | None, changes: Mapping[str, Any]) -> DecodeOptions:
    """`options` (default: all None) with `changes` by field name. Raises SettingsError for a name that is no option."""
    names = [each.name for each in dataclasses.fields(DecodeOptions)]
    for name, value in changes.items():
        if name not in names:
            raise SettingsError(f"option {name}={value!r}", f"one of {', '.join(names)}")
    return dataclasses.replace(options or DecodeOptions(), **changes)


def check_options(options: Options, spec: CodecSpec) -> None:
    """Raises SettingsError for an option that is given and that the codec does not have."""
    taken = spec.encode_options if isinstance(options, EncodeOptions) else spec.decode_options
    for each in dataclasses.fields(options):
        value = getattr(options, each.name)
        if value is not None and each.name not in taken:
            has = f"it has {', '.join(sorted(taken))}" if taken else "it has none"
            raise SettingsError(f"{each.name} {value}", f"an option of {spec.name} ({has})", "leave it out")


def check_batch(batch: int | None) -> None:
    """Raises SettingsError unless `batch` is None or at least 1."""
    expected = "a whole number of windows, at least 1"
    if batch is not None and check_whole("batch", batch, expected) < 1:
        raise SettingsError(f"batch {batch}", expected)
