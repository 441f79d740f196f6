"""What a codec's settings imply for its tokens, whichever codec it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

Config = TypeVar("Config", bound="CodecConfig")


class CodecConfig(ABC):
    """Settings of one codec, a frozen dataclass for each; every other number is derived from them.

    A position is a moment's tokens, one from each codebook. `vocab` is the setting of which a bundle may hold
    several values, the others are its weights'.
    """

    codec: ClassVar[str]  #: name, as manifests and messages have it
    sample_rate: ClassVar[int]  #: Hz, of everything the networks see or make
    tps: int  #: tokens per second
    vocab: int  #: entries of the first codebook

    @classmethod
    @abstractmethod
    def from_settings(cls: type[Config], vocab: int, settings: Mapping[str, Any]) -> Config:
        """The inverse of `settings`. Raises KeyError, TypeError or SettingsError for what is none."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All but `vocab`, as a manifest keeps it: what `json` can write."""

    @classmethod
    @abstractmethod
    def from_codebook_sizes(cls: type[Config], tps: int, entries: tuple[int, ...]) -> Config:
        """What a token file knows of its codec. Raises SettingsError where no such codec is."""

    @property
    @abstractmethod
    def codebook_sizes(self) -> dict[str, int]:
        """Name -> entries of the codebook behind each column of codes."""

    @abstractmethod
    def count_positions(self, samples: int) -> int:
        """T: positions that stand for `samples` samples."""

    @abstractmethod
    def count_samples(self, positions: int) -> int:
        """Samples that `positions` positions decode to, before trimming to an original length."""

    @property
    def identity(self) -> tuple[str, int, dict[str, int]]:
        """What tokens have to be of alike: codec, rate and vocabularies, not the sizes of networks."""
        return self.codec, self.tps, self.codebook_sizes

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of a token of each column."""
        return tuple((entries - 1).bit_length() for entries in self.codebook_sizes.values())

    @property
    def bitrate(self) -> float:
        """Bits per second of packed tokens."""
        return self.tps / len(self.codebook_sizes) * sum(self.bits)
