"""Read entries out of the key-value caches of all layers, and add to them where they lie.

`cache_gather` builds what a cache processor reads: keys with their rotation undone, beside values. `cache_add` writes
its answer back: the rotated change of keys, the change of values, times a gate. L layers, B batch, S selected entries,
T slots of the cache, G key heads, D head width.

Rotary embedding (arXiv 2104.09864, in the order of Llama): R k = k cos + (-k2, k1) sin, with k1, k2 the halves of k. It
is linear, so a change of the unrotated key is a rotated change of the key: nothing is rotated back and forth, and no
change is exactly no change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._dispatch import choose_backend, kernels, outside_graphs

OP = "cache_rewrite"
Layers = Sequence[Tensor]


def cache_gather_reference(
    keys: Layers, values: Layers, index: Tensor, *, cos: Tensor, sin: Tensor, backend: str | None = None
) -> Tensor:
    """`cache_gather` by its definition: loops over layers, rows and entries. `backend` is ignored."""
    check_layers(keys, values, index, cos, sin)
    num_heads, width = keys[0].shape[2:]
    out = keys[0].new_zeros(*index.shape, 2 * num_heads * width)
    for layer, row, entry in torch.ones_like(index).nonzero().tolist():
        slot = int(index[layer, row, entry])
        if slot < 0:
            continue
        key, value = keys[layer][row, slot], values[layer][row, slot]
        c, s = cos[row if cos.shape[0] > 1 else 0, slot], sin[row if cos.shape[0] > 1 else 0, slot]
        half = width // 2
        unrotated = torch.empty_like(key)
        for d in range(half):
            # The inverse of the scaled rotation [[c, -s], [s, c]] of each pair (d, d + D/2).
            norm = c[d] * c[d + half] + s[d] * s[d + half]
            unrotated[:, d] = (c[d + half] * key[:, d] + s[d] * key[:, d + half]) / norm
            unrotated[:, d + half] = (c[d] * key[:, d + half] - s[d + half] * key[:, d]) / norm
        out[layer, row, entry] = torch.cat([unrotated.flatten(), value.flatten()])
    return out


@outside_graphs
def cache_gather(
    keys: Layers, values: Layers, index: Tensor, *, cos: Tensor, sin: Tensor, backend: str | None = None
) -> Tensor:
    """The entries at `index` as vectors: unrotated keys of all heads, then values of all heads.

    Differentiable in keys and values (first derivatives).

    Args:
        keys: per layer `[B, T, G, D]`, rotated; views of any strides whose last is 1.
        values: per layer `[B, T, G, D]`.
        index: `[L, B, S]` int64, slots of the cache; negative: no entry, which reads 0.
        cos: `[B or 1, T, D]`, as the model multiplied the key of each slot with it, any scale included.
        sin: like cos.
        backend: "auto", "torch", "triton"; None reads MEMARCH_BACKEND. Triton is for calls without gradients.

    Returns:
        `[L, B, S, 2 G D]` in the cache's dtype.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an unknown backend.
    """
    check_layers(keys, values, index, cos, sin)
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (*keys, *values))
    if _backend(backend, keys, values, needs_grad) == "triton":
        gathered: Tensor = kernels(OP).gather(keys, values, index, cos, sin)
        return gathered
    safe = index.clamp(min=0)
    rows = torch.arange(index.shape[1], device=index.device)[:, None]
    k = torch.stack([key[rows, slots] for key, slots in zip(keys, safe.unbind(), strict=True)])
    v = torch.stack([value[rows, slots] for value, slots in zip(values, safe.unbind(), strict=True)])
    c, s = (_at(x, safe).to(torch.promote_types(x.dtype, torch.float32)) for x in (cos, sin))
    # The inverse is R^T / scale^2, and cos^2 + sin^2 is the scale squared.
    k = ((k * c - rotate_half(k) * s) / (c * c + s * s)).to(v.dtype)
    return torch.cat([k.flatten(-2), v.flatten(-2)], -1).masked_fill((index < 0)[..., None], 0.0)


def cache_add_reference(
    keys: Layers,
    values: Layers,
    index: Tensor,
    change: Tensor,
    *,
    gate: Tensor,
    cos: Tensor,
    sin: Tensor,
    in_place: bool = False,
    backend: str | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """`cache_add` by its definition: loops over layers, rows and entries, always out of place."""
    check_layers(keys, values, index, cos, sin)
    num_heads, width = keys[0].shape[2:]
    new_keys, new_values = [k.clone() for k in keys], [v.clone() for v in values]
    for layer, row, entry in torch.ones_like(index).nonzero().tolist():
        slot = int(index[layer, row, entry])
        if slot < 0:
            continue
        parts = (gate[layer] * change[layer, row, entry]).split(num_heads * width)
        new_values[layer][row, slot] += parts[-1].view(num_heads, width)
        if len(parts) == 1:
            continue
        dk = parts[0].view(num_heads, width)
        c, s = cos[row if cos.shape[0] > 1 else 0, slot], sin[row if cos.shape[0] > 1 else 0, slot]
        for d in range(width // 2):
            e = d + width // 2
            new_keys[layer][row, slot, :, d] += c[d] * dk[:, d] - s[d] * dk[:, e]
            new_keys[layer][row, slot, :, e] += c[e] * dk[:, e] + s[e] * dk[:, d]
    return new_keys, new_values


@outside_graphs
def cache_add(
    keys: Layers,
    values: Layers,
    index: Tensor,
    change: Tensor,
    *,
    gate: Tensor,
    cos: Tensor,
    sin: Tensor,
    in_place: bool = False,
    backend: str | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Add `gate * change` to the entries at `index`: k += R (gate dk), v += gate dv.

    Args:
        keys: per layer `[B, T, G, D]`, rotated.
        values: per layer `[B, T, G, D]`.
        index: `[L, B, S]` int64, no slot twice in a row; negative: nothing to add.
        change: `[L, B, S, 2 G D]`, unrotated keys then values as `cache_gather` gives them, or `[L, B, S, G D]`, values
            only: then keys are not touched.
        gate: `[L]`.
        cos: see `cache_gather`.
        sin: see `cache_gather`.
        in_place: write into keys and values (no gradient) instead of into copies (differentiable in everything).
        backend: see `cache_gather`; Triton writes in place.

    Returns:
        Keys and values, the given tensors themselves with `in_place`.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an unknown backend.
    """
    check_layers(keys, values, index, cos, sin)
    num_heads, width = keys[0].shape[2:]
    both = 2 * num_heads * width
    if change.shape[:-1] != index.shape or change.shape[-1] not in (both, both // 2):
        raise ValueError(
            f"change must be {list(index.shape)} + [{both}], or [{both // 2}] for values only; got {list(change.shape)}"
        )
    if gate.shape != (len(keys),):
        raise ValueError(f"gate must be [L={len(keys)}]; got {list(gate.shape)}")
    with_keys = change.shape[-1] == both
    if in_place and _backend(backend, keys, values, False) == "triton":
        kernels(OP).add(keys, values, index, change, gate, cos, sin)
        return list(keys), list(values)
    safe = index.clamp(min=0)
    # Before the product with the gate: what no entry holds may be anything, and 0 times NaN is NaN.
    scaled = change.masked_fill((index < 0)[..., None], 0.0) * gate[:, None, None, None].to(change.dtype)
    dtype = keys[0].dtype
    dk, dv = scaled.split(scaled.shape[-1] // 2, -1) if with_keys else (None, scaled)
    shape = (*index.shape, num_heads, width)
    if dk is not None:
        dk = dk.view(shape)
        dk = (dk * _at(cos, safe) + rotate_half(dk) * _at(sin, safe)).to(dtype)
    dv = dv.reshape(shape).to(dtype)
    where = safe[..., None, None].expand(shape)
    add = Tensor.scatter_add_ if in_place else Tensor.scatter_add
    new_keys = [add(k, 1, i, d) for k, i, d in zip(keys, where, dk, strict=True)] if dk is not None else list(keys)
    return new_keys, [add(v, 1, i, d) for v, i, d in zip(values, where, dv, strict=True)]


def rotate_half(x: Tensor) -> Tensor:
    """(-x2, x1) of the halves (x1, x2) of the last axis."""
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


def check_layers(keys: Layers, values: Layers, index: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Raise ValueError unless caches, index and rotations fit together."""
    if index.dim() != 3 or index.dtype != torch.int64:
        raise ValueError(f"index must be int64 [L, B, S]; got {index.dtype} {list(index.shape)}")
    num_layers, batch, _ = index.shape
    if not len(keys) == len(values) == num_layers:
        raise ValueError(
            f"keys and values must hold one tensor per layer of index, {num_layers}; got {len(keys)}, {len(values)}"
        )
    for name, layers in (("keys", keys), ("values", values)):
        for i, x in enumerate(layers):
            if x.dim() != 4 or x.shape[0] != batch or x.shape != keys[0].shape:
                raise ValueError(f"{name}[{i}] must be [B={batch}, T, G, D], the same everywhere; got {list(x.shape)}")
            if x.dtype != keys[0].dtype or x.device != index.device:
                raise ValueError(f"{name}[{i}] must be {keys[0].dtype} on {index.device}; got {x.dtype} on {x.device}")
    _, length, _, width = keys[0].shape
    if width % 2:
        raise ValueError(f"rotated heads have an even width; got D={width}")
    for name, x in (("cos", cos), ("sin", sin)):
        if x.dim() != 3 or x.shape[0] not in (1, batch) or x.shape[1:] != (length, width):
            raise ValueError(f"{name} must be [B={batch} or 1, T={length}, D={width}]; got {list(x.shape)}")


def _at(table: Tensor, index: Tensor) -> Tensor:
    """Rows `[L, B, S, 1, D]` of a table `[B or 1, T, D]`."""
    rows = torch.arange(index.shape[1], device=index.device)[:, None] if table.shape[0] > 1 else 0
    return table[rows, index].unsqueeze(-2)


def _backend(backend: str | None, keys: Layers, values: Layers, needs_grad: bool) -> str:
    def unsupported(module: object) -> str:
        if needs_grad:
            return "the kernels have no gradient"
        reason: str = module.unsupported(keys, values)  # type: ignore[attr-defined]
        return reason

    return choose_backend(OP, backend, keys[0], unsupported)
