"""Inputs of cache_gather and cache_add: shared by the tests of their paths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LAYERS, BATCH, LENGTH, SELECTED, HEADS, WIDTH = 2, 3, 11, 5, 2, 6


def case(
    *,
    scale: float = 1.0,
    shared: bool = False,
    dtype: torch.dtype = torch.float64,
    length: int = LENGTH,
    selected: int = SELECTED,
    num_heads: int = HEADS,
    width: int = WIDTH,
    device: str = "cpu",
) -> dict[str, Any]:
    """Random caches in the layout of transformers, distinct slots in each row, the last entry of row 0 none.

    shared: one table of rotations for all rows.
    """
    g = torch.Generator().manual_seed(0)
    shape = (BATCH, num_heads, length, width)
    keys, values = (
        [torch.randn(shape, generator=g, dtype=torch.float64).to(device, dtype).transpose(1, 2) for _ in range(LAYERS)]
        for _ in range(2)
    )
    index = torch.stack(
        [torch.stack([torch.randperm(length, generator=g)[:selected] for _ in range(BATCH)]) for _ in range(LAYERS)]
    )
    index[:, 0, -1] = -1
    start = torch.zeros(1, 1, 1) if shared else torch.tensor([0, 3, 5]).view(-1, 1, 1)
    positions = torch.arange(length)[None, :, None] + start
    angles = positions * 0.7 ** torch.arange(width // 2).double()
    angles = torch.cat([angles, angles], -1)
    cos, sin = ((scale * f(angles)).to(device, dtype) for f in (torch.cos, torch.sin))
    return {"keys": keys, "values": values, "index": index.to(device), "cos": cos, "sin": sin}


def change_for(
    parts: int, *, selected: int = SELECTED, num_heads: int = HEADS, width: int = WIDTH
) -> tuple[Tensor, Tensor]:
    """Random change of keys and values (parts=2) or of values only (1), and a gate per layer."""
    g = torch.Generator().manual_seed(1)
    change = torch.randn(LAYERS, BATCH, selected, parts * num_heads * width, generator=g, dtype=torch.float64)
    return change, torch.rand(LAYERS, generator=g, dtype=torch.float64) + 0.1
