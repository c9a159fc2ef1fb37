"""Inputs of attention_mass: shared by the tests of its paths."""

from __future__ import annotations

from typing import Any

import torch

SIZES = {
    "num_layers": 3,
    "batch_size": 2,
    "num_queries": 5,
    "length": 23,
    "num_heads": 6,
    "num_key_heads": 2,
    "head_dim": 7,
}


def case(
    *,
    num_layers: int,
    batch_size: int,
    num_queries: int,
    length: int,
    num_heads: int,
    num_key_heads: int,
    head_dim: int,
    peaked: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict[str, Any]:
    """Random caches in the layout of transformers; left padding in row 0, one query short in row 1, slots beyond.

    peaked: each query's logits spread by about 12, so that few slots hold nearly all mass and most are tiny.
    """
    g = torch.Generator().manual_seed(0)
    sharp = 12.0 if peaked else 1.0
    queries = torch.randn(num_layers, batch_size, num_queries, num_heads, head_dim, generator=g)
    # As in a cache: [B, G, T, D], seen with the sequence first.
    keys = [
        torch.randn(batch_size, num_key_heads, length, head_dim, generator=g).to(device, dtype).transpose(1, 2)
        for _ in range(num_layers)
    ]
    slots = torch.arange(length - 2 - num_queries, length - 2).repeat(batch_size, 1)
    if num_queries:
        slots[-1, 0] = -1
    valid = torch.ones(batch_size, length, dtype=torch.bool)
    valid[0, :3] = False
    exclude = torch.zeros(batch_size, length, dtype=torch.bool)
    exclude[:, length - 2 - num_queries :] = True
    return {
        "queries": (sharp * queries).to(device, dtype),
        "keys": keys,
        "scale": head_dim**-0.5,
        "query_slots": slots.to(device),
        "valid": valid.to(device),
        "exclude": exclude.to(device),
    }
