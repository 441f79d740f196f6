"""How wide and deep the five networks are: one record, so that every size is the same code."""

from __future__ import annotations

from dataclasses import dataclass

from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.config import SemantiCodecConfig


@dataclass(frozen=True)
class NetworkSizes:
    """Widths and depths of one codec's networks; the defaults are the published ones.

    `config` gives the rate and the feature width D; `lstm_layers` is 4, 3 or 2 at 100, 50 or 25 tps as published.
    `tunet_position_maps` adds learned maps of positions to the T-UNet's first feature map and to each that attends to
    the conditioning. The published T-UNet has none. It infers positions from the zero padding of its convolutions,
    which takes more training than the embedded model gets.
    """

    config: SemantiCodecConfig
    lstm_layers: int
    mae_depth: int = 12
    mae_heads: int = 12
    tunet_channels: int = 64
    tunet_multipliers: tuple[int, ...] = (1, 2, 3, 5)
    tunet_residual_blocks: int = 2
    tunet_attention_downsampling: tuple[int, ...] = (2, 4, 8)
    tunet_head_channels: int = 32
    tunet_position_maps: bool = False
    position_channels: int = 192
    vae_channels: int = 128
    vae_multipliers: tuple[int, ...] = (1, 2, 4)
    vae_residual_blocks: int = 2
    norm_groups: int = 32
    hifigan_channels: int = 1024

    @property
    def context_width(self) -> int:
        """Channels the T-UNet attends to: both quantised features and the position part (2D + 192)."""
        return 2 * self.config.feature_width + self.position_channels


EMBEDDED = NetworkSizes(
    SemantiCodecConfig(100, 4096, acoustic_vocab=4096, width=96),
    lstm_layers=1,
    mae_depth=6,
    mae_heads=3,
    tunet_channels=32,
    tunet_multipliers=(1, 2, 4, 4),
    tunet_residual_blocks=1,
    tunet_attention_downsampling=(4, 8),
    tunet_position_maps=True,
    position_channels=64,
    vae_channels=24,
    vae_residual_blocks=1,
    norm_groups=8,
    hifigan_channels=256,
)


def choose_sizes(size: str, tps: int, vocab: int) -> NetworkSizes:
    """The networks of `size`: "full" (as published), "embedded" (trained, in the package) or "tiny" (tests)."""
    if size == "full":
        return NetworkSizes(SemantiCodecConfig(tps, vocab), lstm_layers={100: 4, 50: 3, 25: 2}[tps])
    if size == "embedded":
        if (tps, vocab) != (100, 4096):
            raise SettingsError(f"size 'embedded' at {tps} tps, vocabulary {vocab}", "100 tps, vocabulary 4096")
        return EMBEDDED
    if size == "tiny":
        return NetworkSizes(
            SemantiCodecConfig(tps, vocab, width=16),
            lstm_layers={100: 4, 50: 3, 25: 2}[tps],
            mae_depth=4,
            mae_heads=2,
            tunet_channels=8,
            tunet_multipliers=(1, 2, 3),
            tunet_residual_blocks=1,
            tunet_head_channels=8,
            position_channels=16,
            vae_channels=8,
            vae_residual_blocks=1,
            norm_groups=4,
            hifigan_channels=32,
        )
    raise SettingsError(f"size {size!r}", '"full", "embedded" or "tiny"')
