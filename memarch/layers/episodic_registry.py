"""Every memory for agents by name: layers called as `y, state = layer(x, state=None, *, reset=None)`."""

from __future__ import annotations

import difflib
from typing import Literal

from torch import nn

from .episodic_miras import EpisodicMiras
from .gtrxl import GTrXL
from .hcam import HCAM
from .memory_trace import MemoryTrace
from .miras_points import MIRAS_POINTS, miras_point
from .recurrent import GRU, LSTM

EPISODIC_MEMORIES: tuple[str, ...] = ("hcam", "gtrxl", "gru", "lstm", "trace", *MIRAS_POINTS)


def build_episodic_memory(
    name: str,
    d_model: int,
    num_heads: int,
    *,
    chunk_size: int = 16,
    top_k: int = 4,
    num_chunks: int = 32,
    window_tokens: int = 32,
    reset_memory: Literal["episode", "never"] = "episode",
    gradient_window: bool = False,
    chunk_summary: Literal["mean", "learned"] = "mean",
) -> nn.Module:
    """A layer from x `[B, T, d_model]` and reset `[B, T]` to y `[B, T, d_model]`.

    Args:
        name: one of `EPISODIC_MEMORIES`.
        d_model: width of the input and output.
        num_heads: heads ("gru", "lstm" and "trace" have none).
        chunk_size: steps of a chunk, of "hcam" and of Miras points.
        top_k, num_chunks, reset_memory, gradient_window, chunk_summary: of "hcam".
        window_tokens: steps seen by the attention of "hcam" and "gtrxl".

    Raises:
        ValueError: an unknown name, or sizes the layer refuses.
    """
    if name == "hcam":
        return HCAM(
            d_model,
            num_heads,
            chunk_size=chunk_size,
            top_k=top_k,
            num_chunks=num_chunks,
            local_window=window_tokens,
            reset_memory=reset_memory,
            gradient_window=gradient_window,
            summary=chunk_summary,
        )
    if name == "gtrxl":
        return GTrXL(d_model, num_heads, window_tokens=window_tokens)
    plain = {"gru": GRU, "lstm": LSTM, "trace": MemoryTrace}
    if name in plain:
        return plain[name](d_model)
    if name not in MIRAS_POINTS:
        near = difflib.get_close_matches(name, EPISODIC_MEMORIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"memory must be one of {', '.join(EPISODIC_MEMORIES)}; got {name!r}{hint}")
    return EpisodicMiras(miras_point(name, d_model, num_heads, chunk_size=chunk_size))
