"""Three ways to score a cache by attention mass: ours, eager probabilities, and kvpress's."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from memarch.ops import attention_mass
from memarch.testing import relative_rms


@dataclass(frozen=True)
class CacheSize:
    """Shape of SmolLM2-135M unless said otherwise; queries of one line of text."""

    length: int
    num_layers: int = 30
    num_queries: int = 20
    num_heads: int = 9
    num_key_heads: int = 3
    head_dim: int = 64


def mass_arms(
    size: CacheSize, *, dtype: torch.dtype, device: str
) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], Tensor]]]:
    """Functions to time by arm, and the same for their values: the masses `[L, 1, T - R]` of the earlier entries."""
    g = torch.Generator().manual_seed(0)
    shape = (size.num_layers, 1, size.num_queries, size.num_heads, size.head_dim)
    queries = (2 * torch.randn(shape, generator=g)).to(device, dtype)
    keys = [
        torch.randn(1, size.num_key_heads, size.length, size.head_dim, generator=g).to(device, dtype)
        for _ in range(size.num_layers)
    ]
    past, scale, group = size.length - size.num_queries, size.head_dim**-0.5, size.num_heads // size.num_key_heads
    slots = torch.arange(past, size.length, device=device)[None]
    views = [k.transpose(1, 2) for k in keys]
    recent = torch.zeros(1, size.length, dtype=torch.bool, device=device)
    recent[:, past:] = True
    hidden = torch.full((size.num_queries, size.length), -torch.inf, device=device, dtype=dtype).triu(past + 1)

    def ours() -> Tensor:
        mass = attention_mass(queries, views, scale=scale, query_slots=slots, exclude=recent)
        return mass[..., :past]

    def probabilities(q: Tensor, k: Tensor) -> Tensor:
        """[1, H, R, T], as the eager attention of transformers has them."""
        repeated = k[:, :, None].expand(-1, -1, group, -1, -1).reshape(1, size.num_heads, size.length, size.head_dim)
        logits = q.transpose(1, 2) @ repeated.transpose(2, 3) * scale + hidden
        return torch.softmax(logits, -1, dtype=torch.float32).to(dtype)

    def eager() -> Tensor:
        masses = [probabilities(q, k).mean((1, 2)) for q, k in zip(queries, keys, strict=True)]
        return torch.stack(masses)[..., :past]

    def kvpress() -> Tensor:
        masses = []
        for q, k in zip(queries, keys, strict=True):
            scores = probabilities(q, k)[..., :past].mean(2)
            masses.append(scores.view(1, size.num_key_heads, group, past).mean(2))
        return torch.stack(masses).mean(2)

    values: dict[str, Callable[[], Tensor]] = {"eager": eager, "kvpress": kvpress, "memarch": ours}
    return dict(values), values


def relative_gap(actual: Tensor, expected: Tensor) -> float:
    """See `relative_rms`."""
    return relative_rms(actual, expected)
