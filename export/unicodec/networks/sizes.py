"""How wide and deep UniCodec's networks are: one record, so that every size is the same code."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sc_runtime.errors import SettingsError
from sc_runtime.unicodec.config import TPS, UniCodecConfig

OVERLAP = 4  #: hops in a frame of the inverse STFT


@dataclass(frozen=True)
class UniCodecSizes:
    """Widths and depths of both networks; the defaults are the published ones.

    channels: of the encoder's first convolution. Each of `strides` doubles them.
    width: of the encoder's transformer, and of the codebook's `entries`.
    layers, heads: of the transformer. A layer's feed-forward is one routed expert of `experts` and a shared expert.
    expert_width: of every expert, inside.
    decoder_width, intermediate: of the decoder's `blocks`, outside and inside.
    """

    channels: int = 32
    strides: tuple[int, ...] = (2, 4, 5, 8)
    width: int = 512
    layers: int = 8
    heads: int = 8
    experts: int = 3
    expert_width: int = 2048
    entries: int = 16384
    decoder_width: int = 768
    norm_groups: int = 32
    intermediate: int = 2304
    blocks: int = 12

    @property
    def config(self) -> UniCodecConfig:
        return UniCodecConfig(self.entries, self.width)

    @property
    def hop(self) -> int:
        """Samples a position: 320."""
        return math.prod(self.strides)

    @property
    def n_fft(self) -> int:
        """Samples of the inverse STFT's frames: 1280."""
        return OVERLAP * self.hop


TINY = UniCodecSizes(
    channels=2,
    width=16,
    layers=2,
    heads=2,
    expert_width=24,
    decoder_width=32,
    norm_groups=4,
    intermediate=48,
    blocks=2,
)


def choose_sizes(size: str, tps: int | None = None) -> UniCodecSizes:
    """The networks of `size`: "full" (as published) or "tiny" (tests; the same hop and codebook entries)."""
    if tps not in (None, TPS):
        raise SettingsError(f"{tps} tps for UniCodec", f"{TPS}, its only rate", "leave --tps out")
    sizes = {"full": UniCodecSizes(), "tiny": TINY}
    if size not in sizes:
        raise SettingsError(f"size {size!r}", '"full" or "tiny"')
    return sizes[size]
