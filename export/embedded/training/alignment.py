"""The T-UNet's attention before training: every position attends to the tokens of its own time and frequency."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.semanticodec.networks.tunet import SpatialTransformer, TUNet, embed_positions
from sc_runtime.semanticodec.config import LATENT_SHAPE, PATCH_ROWS, SemantiCodecConfig

PEAK = 12.0  #: logit of a position's attention to its own token before training


def number_tokens(config: SemantiCodecConfig, height: int, width: int, share: float = 0.0) -> Tensor:
    """The index of a token of each position's time and frequency in a feature map, int64 [height, width].

    share: which one, where a position covers several: 0 is the first of them, nearly 1 the last.
    """
    columns = config.positions // PATCH_ROWS
    deep, wide = max(PATCH_ROWS // height, 1), max(columns // width, 1)  # tokens that a position covers
    down, right = divmod(int(share * deep * wide), wide)
    rows = torch.arange(height) * PATCH_ROWS // height + down
    return rows[:, None] * columns + torch.arange(width) * columns // width + right


def align_positions(tunet: TUNet, sizes: NetworkSizes) -> None:
    """Initialise the T-UNet so that every position attends to the tokens of its own time and frequency.

    Where a position covers several tokens, each head begins at another of them.

    The position maps hold the sinusoids that the conditioning contains too (`embed_positions`). The queries and keys of
    each head read the shortest wavelengths, weighted so that their product is a peak that is some tokens wide.
    """
    positions = embed_positions(sizes.config.positions, sizes.position_channels)
    channels, head = sizes.tunet_channels, sizes.tunet_head_channels
    spread = torch.arange(channels // 2) * sizes.position_channels // channels  # pairs of all wavelengths
    taken = torch.stack([2 * spread, 2 * spread + 1], dim=1).flatten()
    first = positions[:, taken][number_tokens(sizes.config, *LATENT_SHAPE[1:])]
    tunet.position_map.copy_(first.permute(2, 0, 1)[None])
    frequencies = torch.exp(torch.arange(head // 2) * (-2 * math.log(10000.0) / sizes.position_channels))
    weights = (frequencies / frequencies.sum()).sqrt().repeat_interleave(2)
    for module in tunet.modules():
        if not (isinstance(module, SpatialTransformer) and module.has_position_map):
            continue
        transformer: Any = module
        attention = transformer.transformer_blocks[0].attn2
        inner = attention.to_q.out_features
        _, _, height, width = transformer.position_map.shape
        places = positions[:, :head] * weights * head**0.5
        heads = [
            places[number_tokens(sizes.config, height, width, share)] for share in torch.arange(0, 1, head / inner)
        ]
        transformer.position_map.copy_(torch.cat(heads, dim=2).permute(2, 0, 1)[None])
        nn.init.eye_(attention.to_q.weight)
        attention.to_k.weight.mul_(0.1)
        keys = (torch.eye(head) * weights * PEAK).repeat(inner // head, 1)
        attention.to_k.weight[:, -sizes.position_channels :][:, :head] = keys
