"""Helpers shared by memarch's tests and benchmarks: one comparison that names what differs, one input maker."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from memarch.ops import MirasRule


def relative_rms(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected| over all entries, in float64; the absolute norm where expected is zero."""
    a, e = actual.detach().double().cpu(), expected.detach().double().cpu()
    scale = e.norm().item()
    return ((a - e).norm() / (scale if scale > 0 else 1.0)).item()


def assert_close(actual: Tensor, expected: Tensor, *, rtol: float, name: str = "tensor") -> None:
    """Raise AssertionError naming `name`, the error and where it is largest, unless relative_rms <= rtol.

    NaN and Inf in `actual` always fail.
    """
    if actual.shape != expected.shape:
        raise AssertionError(f"{name}: shape {list(actual.shape)}, expected {list(expected.shape)}")
    if not bool(torch.isfinite(actual.detach()).all()):
        raise AssertionError(f"{name}: has NaN or Inf")
    error = relative_rms(actual, expected)
    if not error <= rtol:
        gap = (actual.detach().double().cpu() - expected.detach().double().cpu()).abs()
        worst = [int(i) for i in torch.unravel_index(gap.argmax(), gap.shape)] if gap.dim() else []
        raise AssertionError(f"{name}: relative RMS error {error:.3e} > {rtol:.1e}; largest {gap.max():.3e} at {worst}")


class MirasInputs(NamedTuple):
    """Arguments of `memarch.ops.miras_memory`, by name."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    step_size: Tensor
    weights: tuple[Tensor, ...]
    threshold: Tensor | None
    log_momentum: Tensor | None


def miras_inputs(
    rule: MirasRule,
    *,
    batch_size: int = 2,
    seq_len: int = 23,
    num_heads: int = 3,
    head_dim: int = 7,
    hidden_dim: int = 11,
    channelwise: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    requires_grad: bool = False,
) -> MirasInputs:
    """Random, well-conditioned inputs for `rule`: unit-norm q and k, usual gates, weights of unit gain."""
    g = torch.Generator().manual_seed(seed)
    shape = (batch_size, seq_len, num_heads, head_dim)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    q, k, v = (randn(*shape) for _ in range(3))
    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    gate = shape if channelwise else shape[:3]
    log_decay = torch.nn.functional.logsigmoid(randn(*gate) + 3)
    step_size = 0.3 * torch.sigmoid(randn(*gate))
    delta_shape = shape if channelwise and rule.huber in ("coordinate", "pseudo") else shape[:3]
    threshold = torch.nn.functional.softplus(randn(*delta_shape) + 0.5) if rule.needs_threshold else None
    log_momentum = torch.nn.functional.logsigmoid(randn(*shape[:3])) if rule.momentum else None
    shapes = [(head_dim, hidden_dim), (hidden_dim, head_dim)] if rule.memory == "mlp" else [(head_dim, head_dim)]
    weights = [randn(num_heads, rows, columns) / columns**0.5 for rows, columns in shapes]
    if rule.link in ("lq", "pnorm_dual"):
        weights = [w / torch.linalg.vector_norm(w, rule.q, dim=(1, 2), keepdim=True) for w in weights]

    def leaf(x: Tensor) -> Tensor:
        return x.to(dtype).requires_grad_(requires_grad)

    return MirasInputs(
        q=leaf(q),
        k=leaf(k),
        v=leaf(v),
        log_decay=leaf(log_decay),
        step_size=leaf(step_size),
        weights=tuple(leaf(w) for w in weights),
        threshold=None if threshold is None else leaf(threshold),
        log_momentum=None if log_momentum is None else leaf(log_momentum),
    )
