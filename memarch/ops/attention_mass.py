"""How much attention each cached entry received from a stretch of queries, for all layers at once.

`attention_mass_reference` is the definition, one query and head at a time; `attention_mass` computes the same numbers
and never holds the attention probabilities of all queries. L layers, B batch, R queries, T slots of the cache, H query
heads in groups that share one of G key heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._dispatch import choose_backend, kernels, outside_graphs

OP = "attention_mass"


def attention_mass_reference(
    queries: Tensor,
    keys: Sequence[Tensor],
    *,
    scale: float,
    query_slots: Tensor,
    valid: Tensor | None = None,
    exclude: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """`attention_mass` by its definition: loops over layers, rows, queries and heads. Slow and obvious.

    Computes in float64; `backend` is ignored.
    """
    _check(queries, keys, query_slots, valid, exclude)
    num_layers, batch, _, num_heads, _ = queries.shape
    length, num_key_heads = keys[0].shape[1:3]
    mass = torch.zeros(num_layers, batch, length, dtype=torch.float64, device=queries.device)
    for layer in range(num_layers):
        for b in range(batch):
            own = [j for j, slot in enumerate(query_slots[b].tolist()) if slot >= 0]
            for j in own:
                seen = [
                    i for i in range(int(query_slots[b, j]) + 1) if i < length and (valid is None or bool(valid[b, i]))
                ]
                for h in range(num_heads if seen else 0):
                    key = keys[layer][b, seen, h // (num_heads // num_key_heads)].double()
                    attention = torch.softmax(scale * (key @ queries[layer, b, j, h].double()), 0)
                    mass[layer, b, seen] += attention / (len(own) * num_heads)
    if exclude is not None:
        mass = mass.masked_fill(exclude, 0.0)
    return mass


@outside_graphs
@torch.no_grad()
def attention_mass(
    queries: Tensor,
    keys: Sequence[Tensor],
    *,
    scale: float,
    query_slots: Tensor,
    valid: Tensor | None = None,
    exclude: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Mean attention of each cached entry: mass_i = 1 / (R H) sum_j sum_h softmax_i(scale q_jh . k_i).

    Query j sees slots 0 to `query_slots[j]`, as it did when its token was processed. Entries of equal mass keep it in
    every run: no atomics. It is a choice, not a layer: no gradient.

    Args:
        queries: as attention multiplied them (rotated), `[L, B, R, H, D]`.
        keys: per layer `[B, T, G, D]` (rotated); views of any strides whose last is 1. H is a multiple of G.
        scale: of the logits, usually D^-0.5.
        query_slots: `[B, R]` int64, the cache slot of each query's own token; negative: no query, counted nowhere.
        valid: `[B, T]` bool, slots that hold a token; None is all. What is not valid may hold anything.
        exclude: `[B, T]` bool, slots whose mass is not wanted and reads 0; they are attended all the same.
        backend: "auto", "torch", "triton"; None reads MEMARCH_BACKEND.

    Returns:
        `[L, B, T]` float32; each row sums to 1 where nothing is excluded and it has a query that sees something.

    Raises:
        ValueError: wrong shapes or dtypes, an unknown backend.
    """
    _check(queries, keys, query_slots, valid, exclude)
    num_layers, batch, num_queries, num_heads, _ = queries.shape
    length = keys[0].shape[1]
    if 0 in (num_layers, batch, num_queries, length):
        return queries.new_zeros(num_layers, batch, length, dtype=torch.float32)
    if choose_backend(OP, backend, queries, lambda module: module.unsupported(queries, keys)) == "triton":
        mass: Tensor = kernels(OP).mass(queries, keys, scale, query_slots, valid, exclude)
    else:
        mass = _torch_mass(queries, keys, scale, query_slots, valid)
        if exclude is not None:
            mass = mass.masked_fill(exclude, 0.0)
    count = (query_slots >= 0).sum(1).clamp(min=1) * num_heads
    return mass / count[:, None]


def _torch_mass(
    queries: Tensor, keys: Sequence[Tensor], scale: float, query_slots: Tensor, valid: Tensor | None
) -> Tensor:
    """Sum over queries and heads, `[L, B, T]` float32: what is the same for all layers is prepared once."""
    length = keys[0].shape[1]
    rows = (query_slots >= 0).any(1)
    if not bool(rows.all()):
        mass = queries.new_zeros(len(keys), rows.numel(), length, dtype=torch.float32)
        if bool(rows.any()):
            own = None if valid is None else valid[rows]
            mass[:, rows] = _torch_mass(queries[:, rows], [k[rows] for k in keys], scale, query_slots[rows], own)
        return mass
    stop = min(length, int(query_slots.max()) + 1)
    slots = torch.arange(stop, device=queries.device)
    hidden = slots > query_slots[..., None]
    if valid is not None:
        hidden = hidden | ~valid[:, None, :stop]
    # A query that sees nothing is left to see anything, and counts nothing: a softmax of nothing is NaN.
    asks = ~hidden.all(2)
    hidden = hidden & asks[..., None]
    # Most queries see all of the past: only from the first slot that is hidden from one are logits masked.
    some = hidden.any(0).any(0)
    start = int(some.to(torch.uint8).argmax()) if bool(some.any()) else stop
    found = [
        _layer_mass(q, k[:, :stop], scale, asks, hidden[..., start:], start)
        for q, k in zip(queries.unbind(), keys, strict=True)
    ]
    return torch.nn.functional.pad(torch.stack(found), (0, length - stop))


def _layer_mass(q: Tensor, k: Tensor, scale: float, asks: Tensor, hidden: Tensor, start: int) -> Tensor:
    """One layer, `[B, T]`: q `[B, R, H, D]`, k `[B, T, G, D]`, asks `[B, R]`, hidden `[B, R, T - start]`.

    Queries of a group share a key head, so keys are not repeated; probabilities replace logits where they lie, and are
    added up over queries and heads by a product with a vector.
    """
    (batch, num_queries, num_heads, width), (length, num_key_heads) = q.shape, k.shape[1:3]
    half = q.device.type == "cuda" and q.dtype != torch.float32
    dtype = q.dtype if half else torch.promote_types(q.dtype, torch.float32)
    grouped = q.view(batch, num_queries, num_key_heads, -1, width).permute(0, 2, 1, 3, 4)
    grouped = grouped.reshape(batch, num_key_heads, -1, width).to(dtype)
    transposed = k.permute(0, 2, 3, 1).to(dtype)
    # Half-precision queries are scaled after the product, others before it, where they are fewer.
    scores = (grouped @ transposed).float().mul_(scale) if half else (grouped * scale @ transposed).float()
    if start < length:
        grid = scores.view(batch, num_key_heads, num_queries, -1, length)
        grid[..., start:].masked_fill_(hidden[:, None, :, None], -torch.inf)
    torch.softmax(scores, -1, out=scores)
    weight = asks[:, None, :, None].expand(-1, num_key_heads, -1, num_heads // num_key_heads)
    if not bool(asks.all()):
        scores.masked_fill_(~weight.reshape(batch, num_key_heads, -1, 1), 0.0)
    return (weight.reshape(batch, 1, -1).float() @ scores.flatten(1, 2))[:, 0]


def _check(
    queries: Tensor, keys: Sequence[Tensor], query_slots: Tensor, valid: Tensor | None, exclude: Tensor | None
) -> None:
    if queries.dim() != 5 or not queries.is_floating_point():
        raise ValueError(f"queries must be a floating-point [L, B, R, H, D]; got {queries.dtype} {list(queries.shape)}")
    num_layers, batch, num_queries, num_heads, width = queries.shape
    if len(keys) != num_layers:
        raise ValueError(f"keys must hold one tensor per layer of queries, {num_layers}; got {len(keys)}")
    for layer, key in enumerate(keys):
        if key.dim() != 4 or key.shape[0] != batch or key.shape[3] != width or key.shape != keys[0].shape:
            raise ValueError(
                f"keys[{layer}] must be [B={batch}, T, G, D={width}], the same for every layer; got {list(key.shape)}"
            )
        if key.dtype != queries.dtype or key.device != queries.device:
            raise ValueError(
                f"keys[{layer}] must be {queries.dtype} on {queries.device} like queries; "
                f"got {key.dtype} on {key.device}"
            )
    length, num_key_heads = keys[0].shape[1:3] if keys else (0, 1)
    if num_key_heads < 1 or num_heads % num_key_heads:
        raise ValueError(f"query heads must be a multiple of key heads; got {num_heads} and {num_key_heads}")
    if query_slots.shape != (batch, num_queries) or query_slots.dtype != torch.int64:
        raise ValueError(
            f"query_slots must be int64 [B={batch}, R={num_queries}]; got {query_slots.dtype} {list(query_slots.shape)}"
        )
    for name, mask in (("valid", valid), ("exclude", exclude)):
        if mask is not None and (mask.shape != (batch, length) or mask.dtype != torch.bool):
            raise ValueError(f"{name} must be bool [B={batch}, T={length}]; got {mask.dtype} {list(mask.shape)}")
