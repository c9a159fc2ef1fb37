"""Every token mixer by name: what `--memory` accepts."""

from __future__ import annotations

import difflib

from torch import nn

from .attention import Attention
from .miras_points import MIRAS_POINTS, miras_point

MIXERS: tuple[str, ...] = ("attention", *MIRAS_POINTS)


def build_mixer(
    name: str,
    d_model: int,
    num_heads: int,
    *,
    head_dim: int | None = None,
    chunk_size: int = 16,
    window_tokens: int | None = None,
) -> nn.Module:
    """A layer with the call `y, state = layer(x, state=None, *, mask=None)`, x and y `[B, T, d_model]`.

    Args:
        name: one of `MIXERS`.
        d_model: width of the input and output.
        num_heads: heads.
        head_dim: width of a head; None is `d_model / num_heads`.
        chunk_size: tokens that share one inner gradient point (Miras points; attention has no chunks and ignores it).
        window_tokens: sliding window, for "attention" only.

    Raises:
        ValueError: an unknown name, `window_tokens` for a mixer without a window, or sizes the layer refuses.
    """
    check_mixer(name)
    if name == "attention":
        return Attention(d_model, num_heads, head_dim=head_dim, window_tokens=window_tokens)
    if window_tokens is not None:
        raise ValueError(f"window_tokens is for 'attention'; got {window_tokens} with {name!r}: pass None")
    return miras_point(name, d_model, num_heads, head_dim=head_dim, chunk_size=chunk_size)


def check_mixer(name: str) -> None:
    """Raise ValueError, naming the nearest mixer, unless `name` is one."""
    if name not in MIXERS:
        near = difflib.get_close_matches(name, MIXERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"memory must be one of {', '.join(MIXERS)}; got {name!r}{hint}")
