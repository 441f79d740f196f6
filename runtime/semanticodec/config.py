"""SemantiCodec's settings: every other number is derived from its rate and vocabulary, exactly.

Symbols follow the paper: K the stack factor, L the positions of one window, D the feature width.
One position carries two tokens (semantic, acoustic).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sc_runtime.config import CodecConfig
from sc_runtime.errors import SettingsError, check_finite, check_whole

SAMPLE_RATE = 16_000  #: Hz of the audio that the networks read and write
TOKEN_RATES = (25, 50, 100)  #: tokens per second
MEL_BINS = 128  #: of the encoder's filterbank
FRAME_SHIFT = 160  #: samples between two filterbank frames (10 ms)
SEGMENT_FRAMES = 1024  #: frames of one window
SEGMENT_SAMPLES = SEGMENT_FRAMES * FRAME_SHIFT  #: 163 840 samples, 10.24 s
PATCH = 16  #: side of a square AudioMAE patch, in frames and in bins
PATCH_SECONDS = PATCH * FRAME_SHIFT / SAMPLE_RATE  #: 0.16 s
PATCH_ROWS = SEGMENT_FRAMES // PATCH  #: 64 patches in time
PATCH_COLUMNS = MEL_BINS // PATCH  #: 8 patches in frequency
ACOUSTIC_CODEBOOK = "acoustic"  #: its name in a bundle
LATENT_SHAPE = (8, 256, 16)  #: (channels, time, frequency) of the diffusion latent
OVERLAP = 0.0625  #: fraction of a decoding window that overlaps the next one
OVERLAP_SAMPLES = 10_240  #: the same in samples
#: Samples that the vocoder makes of 1024 frames: 32 more than the frames stand for. The published decoder joins windows
#: of this length, 153 632 samples apart and not 153 600. The recorded waveforms of the tests were made by it.
WINDOW_SAMPLES = 163_872
WINDOW_STRIDE = WINDOW_SAMPLES - OVERLAP_SAMPLES  #: samples between the starts of two decoded windows


@dataclass(frozen=True)
class Schedule:
    """The diffusion's noise schedule: beta from `beta_start` to `beta_end`, linear in its square root."""

    steps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195

    def __post_init__(self) -> None:
        if check_whole("schedule of steps", self.steps, "a whole number, at least 1") < 1:
            raise SettingsError(f"schedule of {self.steps} steps", "a whole number, at least 1")
        betas = [check_finite("beta", beta, "a number between 0 and 1") for beta in (self.beta_start, self.beta_end)]
        if not 0 < betas[0] <= betas[1] < 1:
            raise SettingsError(f"betas from {betas[0]} to {betas[1]}", "rising numbers between 0 and 1")


@dataclass(frozen=True)
class SemantiCodecConfig(CodecConfig):
    """The settings of one SemantiCodec. Its weights fix all of them but `vocab`.

    `tps` tokens per second (25, 50 or 100); `vocab` semantic centroids; `acoustic_vocab` vectors of the acoustic
    codebook; `width` channels of one AudioMAE position (768 as published); the noise `schedule` of the training.
    """

    codec: ClassVar[str] = "semanticodec"
    sample_rate: ClassVar[int] = SAMPLE_RATE

    tps: int
    vocab: int
    acoustic_vocab: int = 8192
    width: int = 768
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        rates = "25, 50 or 100 tokens per second"
        if check_whole("tps", self.tps, rates) not in TOKEN_RATES:
            raise SettingsError(f"tps {self.tps}", rates)
        for name in ("vocab", "acoustic_vocab", "width"):
            if check_whole(name, getattr(self, name), "a positive number") < 1:
                raise SettingsError(f"{name} {getattr(self, name)}", "a positive number")

    @classmethod
    def from_settings(cls, vocab: int, settings: Mapping[str, Any]) -> SemantiCodecConfig:
        return cls(vocab=vocab, **{**settings, "schedule": Schedule(**settings["schedule"])})

    @property
    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "vocab"}

    @classmethod
    def from_codebook_sizes(cls, tps: int, entries: tuple[int, ...]) -> SemantiCodecConfig:
        if len(entries) != 2:
            raise SettingsError(f"{len(entries)} codebooks", "a semantic and an acoustic one")
        return cls(tps, *entries)

    @property
    def codebook_sizes(self) -> dict[str, int]:
        return {"semantic": self.vocab, "acoustic": self.acoustic_vocab}

    @property
    def codebook_shapes(self) -> dict[str, tuple[int, int]]:
        semantic, acoustic = (self.vocab, self.feature_width), (self.acoustic_vocab, self.feature_width)
        return {self.semantic_codebook: semantic, ACOUSTIC_CODEBOOK: acoustic}

    @property
    def semantic_codebook(self) -> str:
        """The name of the semantic codebook in a bundle, which may hold several."""
        return f"semantic-{self.vocab}"

    @property
    def stack(self) -> int:
        """K: how many neighbouring AudioMAE positions make one token position."""
        return 100 // self.tps

    @property
    def positions(self) -> int:
        """L: positions in one window of 10.24 s."""
        return PATCH_ROWS * PATCH_COLUMNS // self.stack

    @property
    def feature_width(self) -> int:
        """D: channels of a stacked feature and of either codebook."""
        return self.width * self.stack

    @property
    def hop(self) -> int:
        """Positions between the starts of two decoding windows."""
        return self.positions - int(self.positions * OVERLAP)

    def count_positions(self, samples: int) -> int:
        """T: the number of positions of `samples` samples at 16 kHz.

        The float64 arithmetic equals the published one to the last bit, because rounding decides whether an exact
        multiple of 0.16 s gains a patch. There are never more positions than the padded segments hold.
        """
        seconds = samples / SAMPLE_RATE
        seconds += PATCH_SECONDS - seconds % PATCH_SECONDS
        positions = math.ceil(PATCH_COLUMNS * seconds / PATCH_SECONDS / self.stack)
        return min(positions, count_segments(samples) * self.positions)

    def count_samples(self, positions: int) -> int:
        """Samples at 16 kHz that `positions` positions decode to, before trimming to an original length."""
        return int(positions / PATCH_COLUMNS * PATCH * 0.01 * self.stack * SAMPLE_RATE)


def count_segments(samples: int) -> int:
    """Number of segments of 10.24 s. `samples` is padded to the next larger multiple, even if it is a multiple."""
    return samples // SEGMENT_SAMPLES + 1
