"""Caches of many layers in one launch: a table of their addresses, since stacking them would copy them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

ELEMENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
ALIGNMENT = 16
"""Bytes: what wide loads need, and every tensor of its own has."""


def refused(layers: Sequence[Tensor], interpreted: bool) -> str:
    """Why a table of these tensors `[B, T, G, D]` cannot be made; empty if it can."""
    first = layers[0]
    if first.device.type not in ("cuda", "meta") and not interpreted:
        return (
            f"the cache is on {first.device}: the kernels need CUDA tensors (on a CPU they run only in Triton's "
            "interpreter, switched on by TRITON_INTERPRET=1 before the first import, for tests)"
        )
    if first.dtype not in ELEMENTS:
        return f"the kernels take float32, bfloat16 and float16, not {first.dtype}"
    if first.stride(3) != 1:
        return f"the last axis must be contiguous; got strides {first.stride()}"
    if any(x.stride() != first.stride() for x in layers):
        return "the layers must have equal strides"
    if any(x.data_ptr() % ALIGNMENT for x in layers):
        return f"the layers must begin at a multiple of {ALIGNMENT} bytes"
    return ""


def table(layers: Sequence[Tensor]) -> Tensor:
    """int64 `[L]` on the layers' device: where each begins."""
    return torch.tensor([x.data_ptr() for x in layers], dtype=torch.int64).to(layers[0].device, non_blocking=True)
