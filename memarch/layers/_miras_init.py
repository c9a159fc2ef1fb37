"""How a Miras layer starts: the learned initial memory, and the unit in which its step sizes are expressed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memarch.ops import MirasRule
from memarch.ops import _miras_math as fn
from memarch.ops.miras import _inner_gradient, _reference_link, _value

EXPANSION = 4


def initial_threshold(rule: MirasRule) -> float:
    """Huber threshold at the start, in units of `threshold_unit`.

    A fresh memory's error has entries of root mean square 1. Starting there, about half of the tokens are clipped and
    the threshold learns at once; where nothing is clipped it has no gradient. Not so "mixture": its step is sqrt(D)
    times too long just beyond the threshold, so it starts with outliers only.
    """
    return 2.0 if rule.huber == "mixture" else 1.0


def threshold_unit(rule: MirasRule, head_dim: int) -> float:
    """Unit of the threshold: "mixture" and "norm" compare it with the norm of D entries, the others with each entry."""
    return head_dim**0.5 if rule.huber in ("mixture", "norm") else 1.0


def initial_decays(rule: MirasRule, num_heads: int) -> Tensor:
    """alpha_t at the start, `[H]`, log-spaced in 1 - alpha over the heads.

    An MLP memory hides its scale behind LayerNorm, so decay shrinks it and its answer stays, while every gradient
    grows by the inverse: from alpha = 0.95, gradients through 256 tokens reached 1e3 to 1e11 [measured]. From 0.999 to
    0.9999 they start near 1. A matrix memory has no such inverse and starts with the usual short and long heads.
    """
    forget = (
        torch.logspace(-3, -4, num_heads) if rule.memory == "mlp" else torch.logspace(-3, math.log10(0.05), num_heads)
    )
    return 1 - forget


def initial_step(rule: MirasRule) -> float:
    """Step size at the start, in units of `step_unit`: small where correlated keys would overshoot together."""
    if rule.memory == "matrix":
        return 0.5
    return 0.02 if rule.link in ("lq", "pnorm_dual") else 0.1


def initial_memory(
    rule: MirasRule, num_heads: int, head_dim: int, generator: torch.Generator | None = None
) -> list[nn.Parameter]:
    """Accumulators A_0 at a scale where the memory can both answer and learn.

    Entries of an MLP memory have unit variance: its LayerNorm hides their scale from the output but not from the
    gradient, and unit variance makes one gradient step correct about one error. Logits of the softmax, sigmoid and
    f-divergence links need that spread too, or the slices stay uniform. A plain matrix memory starts empty.
    """
    hidden = EXPANSION * head_dim
    shapes = [(head_dim, hidden), (hidden, head_dim)] if rule.memory == "mlp" else [(head_dim, head_dim)]
    memory = [torch.randn(num_heads, *shape, generator=generator) for shape in shapes]
    if rule.link in ("lq", "pnorm_dual"):
        memory = [w / torch.linalg.vector_norm(w, rule.q, dim=(1, 2), keepdim=True) for w in memory]
    elif rule.memory == "matrix" and rule.link in ("identity", "soft_threshold"):
        memory = [torch.zeros_like(w) for w in memory]
    return [nn.Parameter(w) for w in memory]


def step_unit(rule: MirasRule, head_dim: int, num_probes: int = 32) -> float:
    """The step size that would cancel a fresh memory's unit error in one step, to first order: 1 for the delta rule.

    Measured: for random unit keys and unit-variance errors e, how far the prediction moves along e for a small step.
    """
    if rule.bias == "dot":
        return 1.0
    generator = torch.Generator().manual_seed(0)
    start = tuple(w.detach().double() for w in initial_memory(rule, num_probes, head_dim, generator))
    k = torch.nn.functional.normalize(torch.randn(num_probes, head_dim, generator=generator).double(), dim=-1)
    e = torch.randn(num_probes, head_dim, generator=generator).double()
    prediction = _value(rule, _reference_link(rule, start), k)
    delta = torch.full((num_probes,), initial_threshold(rule) * threshold_unit(rule, head_dim)).double()
    with torch.no_grad():
        grads = _inner_gradient(rule, start, k, prediction - e, delta if rule.needs_threshold else None)
        small = 1e-6 / max(g.abs().max().item() for g in grads)
        moved = _value(rule, _reference_link(rule, tuple(a - small * g for a, g in zip(start, grads, strict=True))), k)
    gain = ((prediction - moved) * e).sum() / (small * e.square().sum())
    return float(1 / gain.clamp_min(fn.NORM_FLOOR))


def inverse_softplus(y: float) -> float:
    """x with softplus(x) = y, for y > 0."""
    return math.log(math.expm1(y))
