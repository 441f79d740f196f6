"""The settings of a codec, and what follows from them for its tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

Config = TypeVar("Config", bound="CodecConfig")


class CodecConfig(ABC):
    """Base of the settings of one codec; each codec has a frozen dataclass of its own.

    Every other number is derived from the settings. A position is one moment of a recording: one token from each
    codebook. A bundle may hold codebooks for several values of `vocab`. The other settings are fixed by its weights.
    """

    codec: ClassVar[str]  #: the codec's name in manifests and messages
    sample_rate: ClassVar[int]  #: Hz of the audio that the networks read and write
    tps: int  #: tokens per second
    vocab: int  #: entries of the first codebook

    @classmethod
    @abstractmethod
    def from_settings(cls: type[Config], vocab: int, settings: Mapping[str, Any]) -> Config:
        """The inverse of `settings`. Raises KeyError, TypeError or SettingsError if `settings` are malformed."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All settings except `vocab`, as values that `json` can write. The manifest holds them."""

    @classmethod
    @abstractmethod
    def from_codebook_sizes(cls: type[Config], tps: int, entries: tuple[int, ...]) -> Config:
        """The settings with this rate and these codebook sizes, which a token file states.

        Raises SettingsError if the codec has no such settings.
        """

    @property
    @abstractmethod
    def codebook_sizes(self) -> dict[str, int]:
        """Name -> number of entries of the codebook of each column of codes."""

    @property
    @abstractmethod
    def codebook_shapes(self) -> dict[str, tuple[int, int]]:
        """Name of each codebook in a bundle -> its shape [entries, D]."""

    @abstractmethod
    def count_positions(self, samples: int) -> int:
        """T, the number of positions of `samples` samples."""

    @abstractmethod
    def count_samples(self, positions: int) -> int:
        """Number of samples that `positions` positions decode to, before they are cut to the original's length."""

    @property
    def identity(self) -> tuple[str, int, dict[str, int]]:
        """Codec, rate and vocabularies. Two token sets are compatible if these are equal."""
        return self.codec, self.tps, self.codebook_sizes

    @property
    def bits(self) -> tuple[int, ...]:
        """Number of bits of a token of each column."""
        return tuple((entries - 1).bit_length() for entries in self.codebook_sizes.values())

    @property
    def bitrate(self) -> float:
        """Bits per second of packed tokens."""
        return self.tps / len(self.codebook_sizes) * sum(self.bits)
