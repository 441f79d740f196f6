"""UniCodec's settings, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sc_runtime.config import CodecConfig
from sc_runtime.errors import SettingsError, check_whole

SAMPLE_RATE = 24_000  #: Hz
HOP = 320  #: samples of a position
TPS = SAMPLE_RATE // HOP  #: 75 tokens per second
VOCABULARY = 16_384  #: as published
CODEBOOK = "unified"  #: its name in a bundle

#: Domain -> the quarters of the codebook that are searched (paper, section 3.2).
DOMAINS = {"speech": slice(0, 1), "music": slice(1, 2), "sound": slice(2, 4)}


@dataclass(frozen=True)
class UniCodecConfig(CodecConfig):
    """One UniCodec: `vocab` entries of its codebook, a multiple of 4; `width` channels of each (512 as published)."""

    codec: ClassVar[str] = "unicodec"
    sample_rate: ClassVar[int] = SAMPLE_RATE

    vocab: int = VOCABULARY
    width: int = 512
    tps: int = field(default=TPS, init=False)

    def __post_init__(self) -> None:
        if check_whole("vocab", self.vocab, "a multiple of 4") < 4 or self.vocab % 4:
            raise SettingsError(f"vocab {self.vocab}", "a multiple of 4")
        if check_whole("width", self.width, "a positive number") < 1:
            raise SettingsError(f"width {self.width}", "a positive number")

    @classmethod
    def from_settings(cls, vocab: int, settings: Mapping[str, Any]) -> UniCodecConfig:
        return cls(vocab, **settings)

    @property
    def settings(self) -> dict[str, Any]:
        return {"width": self.width}

    @classmethod
    def from_codebook_sizes(cls, tps: int, entries: tuple[int, ...]) -> UniCodecConfig:
        if tps != TPS or len(entries) != 1:
            raise SettingsError(f"{tps} tps and {len(entries)} codebooks", f"{TPS} tps and one codebook")
        return cls(*entries)

    @property
    def codebook_sizes(self) -> dict[str, int]:
        return {CODEBOOK: self.vocab}

    @property
    def codebook_shapes(self) -> dict[str, tuple[int, int]]:
        return {CODEBOOK: (self.vocab, self.width)}

    def find_entries(self, domain: str | None) -> slice:
        """The entries of the codebook that are searched for sound of `domain`; None: all. Raises SettingsError."""
        if domain is None:
            return slice(0, self.vocab)
        if domain not in DOMAINS:
            raise SettingsError(f"domain {domain!r}", f"{', '.join(DOMAINS)}, or none for any")
        quarters, quarter = DOMAINS[domain], self.vocab // 4
        return slice(quarters.start * quarter, quarters.stop * quarter)

    def count_positions(self, samples: int) -> int:
        """T, the number of positions of `samples` samples at 24 kHz: ceil(samples / 320)."""
        return -(-samples // HOP)

    def count_samples(self, positions: int) -> int:
        """Number of samples at 24 kHz that `positions` positions decode to."""
        return HOP * positions
