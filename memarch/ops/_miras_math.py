"""Closed forms of Miras' losses and links and of their derivatives, on whole chunks (rows are tokens).

Shapes: errors `[..., C, D]`, thresholds broadcast against them; accumulators `[..., D, N]` with their slice axis named.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._miras_rule import MirasRule

SIGN_SHARPNESS = 10.0
ABS_EPS = 1e-6
LN_EPS = 1e-6
NORM_FLOOR = 1e-30

_GELU_A = 2.0 * (2.0 / torch.pi) ** 0.5
_GELU_B = 0.044715 * _GELU_A


def smooth_sign(x: Tensor) -> Tensor:
    """tanh(10 x)."""
    return torch.tanh(SIGN_SHARPNESS * x)


def error_gradient(rule: MirasRule, e: Tensor, delta: Tensor | None) -> Tensor:
    """rho(e): gradient of the attentional bias with respect to the prediction."""
    if rule.bias == "lp":
        return rule.p * smooth_sign(e) * (e * e + ABS_EPS) ** ((rule.p - 1) / 2)
    if rule.bias != "huber":
        return e
    assert delta is not None
    if rule.huber == "coordinate":
        return torch.clamp(e, -delta, delta)
    if rule.huber == "pseudo":
        return e * (delta * torch.rsqrt(delta * delta + e * e + NORM_FLOOR))
    norm = torch.linalg.vector_norm(e, dim=-1, keepdim=True)
    if rule.huber == "norm":
        return e * torch.clamp(delta / norm.clamp_min(NORM_FLOOR), max=1.0)
    return torch.where(norm <= delta, e, delta * smooth_sign(e))


def error_gradient_vjp(rule: MirasRule, e: Tensor, delta: Tensor | None, dg: Tensor) -> tuple[Tensor, Tensor | None]:
    """Pull `dg` back through rho: gradients of e and of delta (in delta's shape)."""
    if rule.bias == "lp":
        sign, square = smooth_sign(e), e * e + ABS_EPS
        slope = SIGN_SHARPNESS * (1 - sign * sign) * square ** ((rule.p - 1) / 2)
        slope += (rule.p - 1) * sign * e * square ** ((rule.p - 3) / 2)
        return rule.p * slope * dg, None
    if rule.bias != "huber":
        return dg, None
    assert delta is not None
    if rule.huber == "coordinate":
        outside = e.abs() > delta
        return dg.masked_fill(outside, 0.0), _sum_to(delta, dg * torch.sign(e) * outside)
    if rule.huber == "pseudo":
        inverse = torch.rsqrt(delta * delta + e * e + NORM_FLOOR)
        return dg * (delta * inverse) ** 3, _sum_to(delta, dg * (e * inverse) ** 3)
    norm = torch.linalg.vector_norm(e, dim=-1, keepdim=True)
    outside = norm > delta
    if rule.huber == "norm":
        unit = e / norm.clamp_min(NORM_FLOOR)
        along = (unit * dg).sum(-1, keepdim=True)
        clipped = (dg - unit * along) * (delta / norm.clamp_min(NORM_FLOOR))
        return torch.where(outside, clipped, dg), _sum_to(delta, along * outside)
    sign = smooth_sign(e)
    de = torch.where(outside, delta * SIGN_SHARPNESS * (1 - sign * sign) * dg, dg)
    return de, _sum_to(delta, sign * dg * outside)


def _sum_to(like: Tensor, x: Tensor) -> Tensor:
    return x.sum_to_size(like.shape) if x.shape != like.shape else x


def link(rule: MirasRule, a: Tensor, axis: int) -> Tensor:
    """W = link(A). `axis` is the slice axis: the one whose entries share a channel-wise gate."""
    if rule.link == "identity":
        return a
    if rule.link == "lq":
        return a * link_scale(rule, a)
    if rule.link == "pnorm_dual":
        return torch.sign(a) * a.abs() ** (rule.q - 1) * link_scale(rule, a)
    if rule.link == "softmax":
        return torch.softmax(a, dim=axis) * (a.shape[axis] if rule.scale is None else rule.scale)
    if rule.link == "soft_threshold":
        return torch.nn.functional.softshrink(a, rule.shrinkage)
    if rule.link == "sigmoid":
        return torch.sigmoid(a)
    return torch.exp(a) if rule.divergence == "kl" else torch.relu(1 + a)


def link_vjp(rule: MirasRule, a: Tensor, w: Tensor, dw: Tensor, axis: int, dscale: Tensor | None = None) -> Tensor:
    """Pull `dw` back through W = link(A); `dscale` `[..., 1, 1]` adds the gradient of `link_scale(A)` itself ("lq")."""
    if rule.link == "identity":
        return dw
    if rule.link in ("lq", "pnorm_dual"):
        power = torch.sign(a) * a.abs() ** (rule.q - 1)
        norm = q_norm(rule, a)
        scale = norm ** (2 - rule.q)
        base, slope = (a, 1.0) if rule.link == "lq" else (power, (rule.q - 1) * a.abs() ** (rule.q - 2))
        dscale_total = (dw * base).sum((-2, -1), keepdim=True)
        if dscale is not None:
            dscale_total = dscale_total + dscale
        return scale * slope * dw - (rule.q - 2) * norm ** (2 - 2 * rule.q) * dscale_total * power
    if rule.link == "softmax":
        mass = a.shape[axis] if rule.scale is None else rule.scale
        return w * (dw - (w * dw).sum(axis, keepdim=True) / mass)
    if rule.link == "soft_threshold":
        return dw * (w != 0)
    if rule.link == "sigmoid":
        return dw * w * (1 - w)
    return dw * w if rule.divergence == "kl" else dw * (w > 0)


def q_norm(rule: MirasRule, a: Tensor) -> Tensor:
    """|A|_q of each matrix, `[..., 1, 1]`; products beat a general power at the paper's q = 4."""
    if rule.q == 4:
        square = a * a
        return (square * square).sum((-2, -1), keepdim=True).sqrt().sqrt()
    return torch.linalg.vector_norm(a, rule.q, dim=(-2, -1), keepdim=True)


def link_scale(rule: MirasRule, a: Tensor) -> Tensor:
    """|A|_q^(2-q), `[..., 1, 1]`: what "lq" multiplies A by."""
    return q_norm(rule, a) ** (2 - rule.q)


def gelu_parts(z: Tensor) -> tuple[Tensor, Tensor]:
    """tanh-GELU of z and its gate s: gelu(z) = z s with s = sigmoid(z (a + b z^2)).

    The logistic form is the same function and several times cheaper on CPU than tanh; s also gives both derivatives.
    """
    gate = torch.sigmoid_((z * z).mul_(_GELU_B).add_(_GELU_A).mul_(z))
    return z * gate, gate


def gelu_slope(z: Tensor, gate: Tensor) -> Tensor:
    """gelu'(z) = s + z s (1 - s) x' with x' = a + 3 b z^2."""
    slope = (z * z).mul_(3 * _GELU_B).add_(_GELU_A).mul_(z)
    return torch.addcmul(gate, slope, gate - gate * gate)


def gelu_curvature(z: Tensor, gate: Tensor) -> Tensor:
    """gelu''(z) = s (1 - s) (2 x' + z x'' + z x'^2 (1 - 2 s))."""
    square = z * z
    dx = torch.add(square.mul(3 * _GELU_B), _GELU_A)
    inner = (dx * dx).mul_(z).mul_(1 - 2 * gate)
    inner.add_(dx, alpha=2.0).add_(square, alpha=6 * _GELU_B)
    return inner.mul_(gate - gate * gate)


def layer_norm(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LN over the last axis without affine, eps 1e-6: (normalised, mean, 1 / standard deviation)."""
    return torch.native_layer_norm(y, [y.shape[-1]], None, None, LN_EPS)


def layer_norm_vjp(dy: Tensor, y: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Pull dy back through LN: rstd (dy - mean(dy) - yhat mean(dy yhat)). As a map of dy it is symmetric."""
    grad_input = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(dy, y, [y.shape[-1]], mean, rstd, None, None, grad_input)[0]
