"""Controls that stand in for a `CacheProcessor`: what a rewriting must beat to mean anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .processor import EntryRewriter
from .shape import CacheShape


class IdentityRewriter(nn.Module):
    """Changes nothing: what the machinery alone costs."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.shape = CacheShape.of(config)
        self.register_buffer("gate", torch.ones(self.shape.num_layers))

    def forward(self, entries: Tensor, present: Tensor) -> Tensor:
        """Zeros `[L, B, S, W]`."""
        return torch.zeros_like(entries)


class MeanShiftRewriter(nn.Module):
    """Pulls the values of the selected entries towards their mean: v += s (mean - v), with one learned s per layer.

    Nothing of an entry's content matters but the mean. s starts at 0, so a new one changes nothing.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.shape = CacheShape.of(config)
        self.strength = nn.Parameter(torch.zeros(self.shape.num_layers))

    @property
    def gate(self) -> Tensor:
        """s, `[L]`."""
        return self.strength

    def forward(self, entries: Tensor, present: Tensor) -> Tensor:
        """mean - v over the entries present, `[L, B, S, W/2]`."""
        values = entries.chunk(2, -1)[1].masked_fill(~present[..., None], 0.0)
        mean = values.sum(2, keepdim=True) / present.sum(2).clamp(min=1)[..., None, None]
        return mean - values


class RandomRewriter(nn.Module):
    """Changes as large as another rewriter's, entry by entry, keys and values each, in directions by lot.

    Args:
        like: whose norms to match.
        seed: of the directions.
    """

    def __init__(self, like: EntryRewriter, *, seed: int = 0) -> None:
        super().__init__()
        self.shape, self.like = like.shape, like
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def gate(self) -> Tensor:
        """The other's, `[L]`."""
        return self.like.gate

    def forward(self, entries: Tensor, present: Tensor) -> Tensor:
        """Random changes of the other's shape and norms."""
        change = self.like(entries, present)
        parts = change.split(self.shape.entry_dim // 2, -1)
        lots = torch.randn(change.shape, generator=self._generator, dtype=torch.float32).to(change).split_with_sizes
        return torch.cat(
            [
                lot * (part.norm(dim=-1, keepdim=True) / lot.norm(dim=-1, keepdim=True))
                for lot, part in zip(lots([p.shape[-1] for p in parts], -1), parts, strict=True)
            ],
            -1,
        )
