"""The acoustic codebook in training: nearest entries, moving averages, replaced entries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CODEBOOK_DECAY = 0.98  #: of the codebook's moving averages
RARE = 0.1  #: uses per batch, on average; an entry with fewer is replaced
REVIVE_EVERY = 25  #: steps


class VectorQuantizer(nn.Module):
    """A codebook of C entries, moving averages of the vectors assigned to them. Unused entries are replaced."""

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.embed: Tensor
        self.cluster_size: Tensor
        self.embed_avg: Tensor
        self.register_buffer("embed", torch.zeros(entries, width))
        self.register_buffer("cluster_size", torch.zeros(entries))
        self.register_buffer("embed_avg", torch.zeros(entries, width))
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(
        self, x: Tensor, generator: torch.Generator | None, held: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [n, D] -> the nearest entries, with a straight-through gradient, and the commitment loss (eq. 4).

        held: a mask of the vectors that count, bool [n]; without it all do. Nothing is read back from the device, so
            that a CUDA graph can capture it.
        """
        weights = torch.ones(len(x), device=x.device) if held is None else held.float()
        with torch.no_grad():
            if self.training:
                self.revive((self.steps == 0).expand(len(self.embed)), x, weights, generator)
            codes = torch.cdist(x, self.embed).argmin(dim=1)
            if self.training:
                self.follow(x, codes, weights)
                self.steps += 1
                rare = (self.cluster_size < RARE) & (self.steps % REVIVE_EVERY == 0)
                self.revive(rare, x, weights, generator)
        chosen = self.embed[codes]
        error = (x - chosen).square().mean(dim=1)
        return x + (chosen - x).detach(), (error * weights).sum() / weights.sum()

    @torch.no_grad()
    def begin_with(self, entries: Tensor) -> None:
        """Start from trained `entries` [C, D], each counted as used once per batch."""
        self.embed.copy_(entries)
        self.embed_avg.copy_(entries)
        self.cluster_size.fill_(1.0)
        self.steps.fill_(1)

    def follow(self, x: Tensor, codes: Tensor, weights: Tensor) -> None:
        counts = torch.zeros_like(self.cluster_size).index_add_(0, codes, weights)
        sums = torch.zeros_like(self.embed_avg).index_add_(0, codes, x * weights[:, None])
        self.cluster_size.lerp_(counts, 1 - CODEBOOK_DECAY)
        self.embed_avg.lerp_(sums, 1 - CODEBOOK_DECAY)
        used = (self.cluster_size > 1e-3)[:, None]
        means = self.embed_avg / self.cluster_size.clamp(min=1e-3)[:, None]
        self.embed.copy_(torch.where(used, means, self.embed))

    def revive(self, entries: Tensor, x: Tensor, weights: Tensor, generator: torch.Generator | None) -> None:
        """Replace `entries` (a mask) by rows of `x`, drawn at random in proportion to `weights`."""
        ends = weights.cumsum(dim=0)
        draws = torch.rand(len(self.embed), generator=generator, device=x.device) * ends[-1]
        drawn = x[torch.searchsorted(ends, draws, right=True).clamp(max=len(x) - 1)]
        for state in (self.embed, self.embed_avg):
            state.copy_(torch.where(entries[:, None], drawn, state))
        self.cluster_size.masked_fill_(entries, 1.0)
