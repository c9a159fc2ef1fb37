"""Causal softmax attention with rotary positions, whole or in a sliding window: the baseline, and the hybrid's partner.

B batch, T time, S cached time, H heads, D head width.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger("memarch")

BACKENDS = ("auto", "sdpa", "flash")


@dataclass(frozen=True)
class AttentionState:
    """Keys and values of the tokens a later query may still see; at most `window_tokens - 1` of them with a window.

    Attributes:
        keys: `[B, S, H, D]`, already rotated.
        values: `[B, S, H, D]`.
        valid: `[B, S]` bool, False where the entry is padding.
        positions: `[B, S]` int64, the number of real tokens before each entry in its row.
        num_tokens: `[B]` int64, real tokens seen so far: the next token's position.
        padded: whether any `valid` may be False; False promises that rows are aligned.
    """

    keys: Tensor
    values: Tensor
    valid: Tensor
    positions: Tensor
    num_tokens: Tensor
    padded: bool

    def detach(self) -> AttentionState:
        """The same cache cut from the autograd graph."""
        return replace(self, keys=self.keys.detach(), values=self.values.detach())


class Attention(nn.Module):
    """Softmax attention over all earlier tokens, or over the last `window_tokens` (the token itself included).

    Shapes: x `[B, T, d_model]` -> `[B, T, d_model]`; state see `AttentionState`. Where `mask` is False the input is
    ignored and the output is zero; positions count real tokens only, so padding on either side changes no row's result.

    Args:
        d_model: width of the input and output.
        num_heads: heads.
        head_dim: width of a head, even; None is `d_model / num_heads`.
        window_tokens: None for full attention (the cache then grows with the sequence).
        rope_base: base of the rotary frequencies (arXiv 2104.09864).
        backend: "sdpa" (torch), "flash" (flash-attn, CUDA half precision; falls back to SDPA and logs why once), or
            "auto" / None: flash where it can run.

    Raises:
        ValueError: `d_model` not divisible by `num_heads`, an odd `head_dim`, a window or size below 1.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        window_tokens: int | None = None,
        rope_base: float = 10000.0,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if d_model < 1 or num_heads < 1:
            raise ValueError(f"d_model and num_heads must be at least 1; got {d_model} and {num_heads}")
        if head_dim is None and d_model % num_heads:
            raise ValueError(
                f"d_model must be divisible by num_heads; got {d_model} and {num_heads}: change one or pass head_dim"
            )
        head_dim = d_model // num_heads if head_dim is None else head_dim
        if head_dim < 2 or head_dim % 2:
            raise ValueError(f"head_dim must be even and at least 2 (rotary positions turn pairs); got {head_dim}")
        if window_tokens is not None and window_tokens < 1:
            raise ValueError(f"window_tokens must be at least 1, or None for full attention; got {window_tokens}")
        if rope_base <= 0:
            raise ValueError(f"rope_base must be positive; got {rope_base}")
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))} or None; got {backend!r}")
        self.d_model, self.num_heads, self.head_dim = d_model, num_heads, head_dim
        self.window_tokens, self.rope_base, self.backend = window_tokens, rope_base, backend or "auto"
        self.qkv_proj = nn.Linear(d_model, 3 * num_heads * head_dim, bias=False)
        self.out_proj = nn.Linear(num_heads * head_dim, d_model, bias=False)

    def forward(
        self, x: Tensor, state: AttentionState | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, AttentionState]:
        """Attend from x `[B, T, d_model]` to itself and to `state`; returns the output and the next state.

        Raises:
            ValueError: wrong shapes, an empty sequence, a mask that is not bool, another layer's or batch's state.
        """
        self._check(x, state, mask)
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        batch_size, seq_len, _ = x.shape
        q, k, v = self.qkv_proj(x).view(batch_size, seq_len, 3, self.num_heads, self.head_dim).unbind(2)
        valid = torch.ones(batch_size, seq_len, dtype=torch.bool, device=x.device) if mask is None else mask
        start = 0 if state is None else state.num_tokens[:, None]
        counted = valid.cumsum(1)
        positions = (start + counted - 1).clamp_min(0)
        num_tokens = counted[:, -1] if state is None else state.num_tokens + counted[:, -1]
        q, k = rotate(q, positions, self.rope_base), rotate(k, positions, self.rope_base)

        padded = mask is not None
        key_valid, key_positions = valid, positions
        if state is not None:
            k, v = torch.cat([state.keys, k], 1), torch.cat([state.values, v], 1)
            key_valid = torch.cat([state.valid, valid], 1)
            key_positions = torch.cat([state.positions, positions], 1)
            padded = padded or state.padded
        y = self._attend(q, k, v, positions, key_positions, key_valid, padded)
        y = self.out_proj(y.flatten(2))
        if mask is not None:
            y = y.masked_fill(~mask[..., None], 0)
        cache = AttentionState(k, v, key_valid, key_positions, num_tokens, padded)
        return y, cache if self.window_tokens is None else _keep_last(cache, self.window_tokens - 1)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, key_positions: Tensor, valid: Tensor, padded: bool
    ) -> Tensor:
        window, seq_len, past = self.window_tokens, q.shape[1], k.shape[1] - q.shape[1]
        if self._use_flash(q, padded):
            from flash_attn import flash_attn_func

            left = -1 if window is None else window - 1
            return flash_attn_func(q, k, v, causal=True, window_size=(left, 0 if window is not None else -1))
        if padded:
            gap = positions[:, :, None] - key_positions[:, None, :]
            seen = valid[:, None, :] & (gap >= 0)
            if window is not None:
                seen &= gap < window
            # A padding query would see nothing, and softmax over nothing is NaN: let every query see its own slot.
            own = torch.arange(seq_len, device=q.device)
            seen[:, own, own + past] = True
            return _sdpa(q, k, v, seen[:, None])
        if window is None or past + seq_len <= window:
            return _sdpa(q, k, v, None if past == 0 or seq_len == 1 else _not_later(seq_len, past, q.device))
        # Blocks of one window of queries: work and memory grow with T x window, not T x T.
        blocks = []
        for first in range(0, seq_len, window):
            last = min(first + window, seq_len)
            low = max(0, past + first - window + 1)
            seen = _not_later(last - first, past + first - low, q.device, window)
            blocks.append(_sdpa(q[:, first:last], k[:, low : past + last], v[:, low : past + last], seen))
        return torch.cat(blocks, 1)

    def _use_flash(self, q: Tensor, padded: bool) -> bool:
        if self.backend == "sdpa":
            return False
        reason = flash_off_reason(q, padded=padded)
        if reason and self.backend == "flash":
            _log_once(reason)
        return not reason

    def _check(self, x: Tensor, state: AttentionState | None, mask: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[-1] != self.d_model or x.shape[1] < 1:
            raise ValueError(f"x must be [B, T, {self.d_model}] with T >= 1; got {list(x.shape)}")
        if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(
                f"mask must be bool {list(x.shape[:2])}, True = real token; got {mask.dtype} {list(mask.shape)}"
            )
        if state is None:
            return
        if not isinstance(state, AttentionState):
            raise ValueError(f"state must be an AttentionState or None; got {type(state).__name__}")
        expected = (x.shape[0], self.num_heads, self.head_dim)
        if (state.keys.shape[0], *state.keys.shape[2:]) != expected:
            raise ValueError(
                f"state must have keys [{expected[0]}, S, {expected[1]}, {expected[2]}]; got {list(state.keys.shape)}: "
                "pass the state this layer returned for the same batch, or None to start anew"
            )


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Rotary embedding of x `[B, T, H, D]` at `positions` `[B, T]`; channels i and i + D/2 turn together."""
    half = x.shape[-1] // 2
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    frequencies = base ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    angle = (positions[..., None].to(dtype) * frequencies)[:, :, None]
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def flash_off_reason(q: Tensor, *, padded: bool) -> str:
    """Why flash-attn cannot run on these inputs; empty if it can."""
    if q.device.type != "cuda":
        return f"flash-attn needs CUDA tensors, these are on {q.device.type}"
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"flash-attn needs float16 or bfloat16, these are {q.dtype}"
    if padded:
        return "flash-attn takes no padding mask"
    if not _flash_installed():
        return "flash-attn is not installed: pip install 'memarch[gpu]'"
    return ""


@cache
def _flash_installed() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


@cache
def _log_once(reason: str) -> None:
    logger.warning("attention runs through torch SDPA: %s", reason)


def _not_later(num_queries: int, past: int, device: torch.device, window: int | None = None) -> Tensor:
    """`[Q, past + Q]` bool: keys not after the query, and fewer than `window` tokens before it."""
    gap = torch.arange(num_queries, device=device)[:, None] + past - torch.arange(past + num_queries, device=device)
    return gap >= 0 if window is None else (gap >= 0) & (gap < window)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    causal = seen is None and q.shape[1] > 1
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal).transpose(1, 2)


def _keep_last(cache: AttentionState, num_kept: int) -> AttentionState:
    """The last `num_kept` real tokens of every row."""
    if cache.keys.shape[1] <= num_kept:
        return cache
    first = cache.keys.shape[1] - num_kept
    if not cache.padded:
        return replace(
            cache,
            keys=cache.keys[:, first:],
            values=cache.values[:, first:],
            valid=cache.valid[:, first:],
            positions=cache.positions[:, first:],
        )
    order = cache.valid.long().argsort(dim=1, stable=True)[:, first:]
    wide = order[..., None, None].expand(-1, -1, *cache.keys.shape[2:])
    return replace(
        cache,
        keys=cache.keys.gather(1, wide),
        values=cache.values.gather(1, wide),
        valid=cache.valid.gather(1, order),
        positions=cache.positions.gather(1, order),
    )
