"""Attention against a slow explicit softmax: window, split, padding, gradients, bounded cache, errors."""

import logging
import math
import sys
import types

import pytest
import torch
from torch import Tensor

from memarch.layers import attention as module
from memarch.layers.attention import Attention, AttentionState, flash_off_reason, rotate

B, T, D_MODEL, HEADS, HEAD_DIM = 3, 17, 20, 5, 6
WINDOWS = [None, 1, 4, 16, 40]


def make(window_tokens: int | None = None, seed: int = 0) -> tuple[Attention, Tensor]:
    torch.manual_seed(seed)
    layer = Attention(D_MODEL, HEADS, head_dim=HEAD_DIM, window_tokens=window_tokens).double()
    return layer, torch.randn(B, T, D_MODEL, dtype=torch.float64)


def explicit_attention(layer: Attention, x: Tensor) -> Tensor:
    """One row [T, d_model], one query, one head, one key at a time."""
    seq_len, half = x.shape[0], layer.head_dim // 2
    qkv = (x @ layer.qkv_proj.weight.T).view(seq_len, 3, layer.num_heads, layer.head_dim)

    def turned(vector: Tensor, position: int) -> Tensor:
        out = []
        for i in range(half):
            angle = position * layer.rope_base ** (-i / half)
            out.append(vector[i] * math.cos(angle) - vector[i + half] * math.sin(angle))
        for i in range(half):
            angle = position * layer.rope_base ** (-i / half)
            out.append(vector[i + half] * math.cos(angle) + vector[i] * math.sin(angle))
        return torch.stack(out)

    rows = []
    for t in range(seq_len):
        first = 0 if layer.window_tokens is None else max(0, t - layer.window_tokens + 1)
        heads = []
        for h in range(layer.num_heads):
            query = turned(qkv[t, 0, h], t)
            keys = [turned(qkv[s, 1, h], s) for s in range(first, t + 1)]
            scores = torch.stack([query @ key for key in keys]) / math.sqrt(layer.head_dim)
            heads.append(torch.softmax(scores, 0) @ qkv[first : t + 1, 2, h])
        rows.append(layer.out_proj(torch.cat(heads)))
    return torch.stack(rows)


@pytest.mark.parametrize("window_tokens", WINDOWS)
def test_matches_the_explicit_softmax_with_gradients(window_tokens: int | None) -> None:
    layer, x = make(window_tokens)
    weight = torch.randn(B, T, D_MODEL, dtype=torch.float64)
    results = []
    for forward in (lambda z: layer(z)[0], lambda z: torch.stack([explicit_attention(layer, row) for row in z])):
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        y = forward(leaf)
        (y * weight).sum().backward()
        results.append([y.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("window_tokens", WINDOWS)
@pytest.mark.parametrize("cuts", [(1,), (5, 6), (3, 4, 11, 16), tuple(range(1, T))])
def test_split_anywhere_equals_whole(window_tokens: int | None, cuts: tuple[int, ...]) -> None:
    layer, x = make(window_tokens)
    whole, last = layer(x)
    state, parts = None, []
    for first, end in zip((0, *cuts), (*cuts, T), strict=True):
        y, state = layer(x[:, first:end], state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-13)
    assert isinstance(state, AttentionState)
    torch.testing.assert_close(state.keys, last.keys)
    assert torch.equal(state.num_tokens, last.num_tokens)


def test_gradients_flow_through_the_state_and_stop_at_detach() -> None:
    layer, x = make(4)
    x.requires_grad_()
    _, state = layer(x[:, :7])
    layer(x[:, 7:], state)[0].sum().backward()
    assert x.grad is not None and x.grad[:, 4:7].abs().sum() > 0 and x.grad[:, :4].abs().sum() == 0
    x.grad = None
    layer(x[:, 7:], state.detach())[0].sum().backward()
    assert x.grad[:, :7].abs().sum() == 0


@pytest.mark.parametrize("window_tokens", WINDOWS)
def test_padded_equals_unpadded_on_either_side_and_across_a_split(window_tokens: int | None) -> None:
    layer, x = make(window_tokens)
    lengths = (T, 9, 4)
    mask = torch.zeros(B, T, dtype=torch.bool)
    mask[0] = True
    mask[1, T - 9 :] = True
    mask[2, :4] = True
    x = x.masked_fill(~mask[..., None], float("nan"))
    y, _ = layer(x, mask=mask)
    first, state = layer(x[:, :10], mask=mask[:, :10])
    second, _ = layer(x[:, 10:], state, mask=mask[:, 10:])
    for row, length in enumerate(lengths):
        alone, _ = layer(x[row : row + 1, mask[row]])
        assert alone.shape[1] == length
        torch.testing.assert_close(y[row, mask[row]], alone[0], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(torch.cat([first, second], 1)[row, mask[row]], alone[0], rtol=1e-12, atol=1e-13)
    assert torch.all(y[~mask] == 0)


def test_padded_rows_decode_on_as_if_alone() -> None:
    layer, x = make(4)
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[1, :6] = False
    mask[2, 3:] = False
    _, state = layer(x, mask=mask)
    assert state.keys.shape[1] == 3
    step = torch.randn(B, 2, D_MODEL, dtype=torch.float64)
    y, _ = layer(step, state)
    for row in range(B):
        alone, _ = layer(torch.cat([x[row, mask[row]], step[row]])[None])
        torch.testing.assert_close(y[row], alone[0, -2:], rtol=1e-12, atol=1e-13)


def test_gradients_stay_finite_when_a_row_is_all_padding() -> None:
    layer, x = make()
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[1] = False
    x.requires_grad_()
    layer(x, mask=mask)[0].sum().backward()
    assert torch.isfinite(x.grad).all() and torch.all(x.grad[1] == 0) and x.grad[0].abs().sum() > 0


@pytest.mark.parametrize("window_tokens", [None, 4])
def test_causality_is_exact(window_tokens: int | None) -> None:
    layer, x = make(window_tokens)
    y, _ = layer(x)
    changed = x.clone()
    changed[:, 9:] = 100.0
    assert torch.equal(layer(changed)[0][:, :9], y[:, :9])
    assert not torch.equal(layer(changed)[0][:, 9], y[:, 9])


def test_the_window_bounds_the_cache() -> None:
    layer, x = make(4)
    state = None
    for t in range(T):
        _, state = layer(x[:, t : t + 1], state)
        assert state.keys.shape[1] == min(t + 1, 3)
    assert torch.equal(state.positions, torch.tensor([[T - 3, T - 2, T - 1]]).expand(B, -1))


def test_rotate_keeps_norms_and_depends_on_distance_only() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def score(i: int, j: int) -> Tensor:
        return (rotate(q, torch.tensor([[i]]), 1e4) * rotate(k, torch.tensor([[j]]), 1e4)).sum()

    torch.testing.assert_close(score(11, 4), score(107, 100))
    assert not torch.isclose(score(11, 4), score(11, 5))
    torch.testing.assert_close(rotate(q, torch.tensor([[5]]), 1e4).norm(), q.norm())
    # By hand: width 2 at position 1 turns (1, 0) by one radian.
    turned = rotate(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[1]]), 1e4).flatten()
    torch.testing.assert_close(turned, torch.tensor([math.cos(1.0), math.sin(1.0)]))


def test_flash_falls_back_and_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    module._log_once.cache_clear()
    torch.manual_seed(0)
    layer = Attention(8, 2, backend="flash")
    x = torch.randn(1, 3, 8)
    with caplog.at_level(logging.WARNING, logger="memarch"):
        y, _ = layer(x)
        layer(x)
    assert [r.getMessage() for r in caplog.records] == [
        "attention runs through torch SDPA: flash-attn needs CUDA tensors, these are on cpu"
    ]
    layer.backend = "sdpa"
    assert torch.equal(layer(x)[0], y)


def flash_attn_stand_in(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, window_size: tuple[int, int]) -> Tensor:
    """flash-attn's documented meaning on the CPU: [B, T, H, D], the causal diagonal ends at the bottom right."""
    assert causal
    shift = k.shape[1] - q.shape[1]
    gap = torch.arange(q.shape[1])[:, None] + shift - torch.arange(k.shape[1])
    seen = (gap >= 0) & ((gap <= window_size[0]) if window_size[0] >= 0 else True)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v)


@pytest.mark.parametrize("window_tokens", [None, 4])
def test_the_flash_call_means_the_same(window_tokens: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = make(window_tokens)
    whole, _ = layer(x)
    calls = []

    def recorded(*tensors: Tensor, causal: bool, window_size: tuple[int, int]) -> Tensor:
        calls.append(window_size)
        return flash_attn_stand_in(*tensors, causal=causal, window_size=window_size)

    monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace(flash_attn_func=recorded))
    monkeypatch.setattr(module, "flash_off_reason", lambda q, padded: "padded" if padded else "")
    first, state = layer(x[:, :7])
    second, _ = layer(x[:, 7:], state)
    assert len(calls) == 2
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-10, atol=1e-12)
    layer(x, mask=torch.ones(B, T, dtype=torch.bool))
    assert len(calls) == 2


def test_flash_reasons() -> None:
    module._flash_installed.cache_clear()
    assert "CUDA" in flash_off_reason(torch.empty(1, 2, 1, 4), padded=False)
    for dtype, padded, reason in [
        (torch.float32, False, "float16 or bfloat16"),
        (torch.bfloat16, True, "no padding mask"),
    ]:
        q = types.SimpleNamespace(device=torch.device("cuda"), dtype=dtype)
        assert reason in flash_off_reason(q, padded=padded)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((10, 3), {}, "d_model must be divisible by num_heads; got 10 and 3"),
        ((9, 3), {}, "head_dim must be even .* got 3"),
        ((8, 2), {"window_tokens": 0}, "window_tokens must be at least 1.* got 0"),
        ((8, 2), {"backend": "fast"}, "backend must be one of .* got 'fast'"),
        ((8, 2), {"rope_base": 0.0}, "rope_base must be positive; got 0.0"),
        ((0, 2), {}, "at least 1; got 0 and 2"),
    ],
)
def test_bad_options(arguments: tuple[int, int], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attention(*arguments, **options)


def test_bad_calls() -> None:
    layer, x = make()
    _, state = layer(x)
    with pytest.raises(ValueError, match=r"x must be \[B, T, 20\] with T >= 1; got \[3, 0, 20\]"):
        layer(x[:, :0])
    with pytest.raises(ValueError, match=r"mask must be bool \[3, 17\].*float32"):
        layer(x, mask=torch.ones(B, T))
    with pytest.raises(ValueError, match=r"keys \[2, S, 5, 6\]; got \[3, 17, 5, 6\]"):
        layer(x[:2], state)
    with pytest.raises(ValueError, match="state must be an AttentionState or None; got tuple"):
        layer(x, (state.keys, state.values))
