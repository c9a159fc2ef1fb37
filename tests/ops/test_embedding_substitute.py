"""Lookups with substituted rows: to the bit what a copy of the matrix with overwritten rows gives."""

from __future__ import annotations

import pytest
import torch

from memarch.ops import (
    embedding_substitute,
    embedding_substitute_reference,
    substitute_logits,
    substitute_logits_reference,
    substituted_tokens,
)

pytest.importorskip("memarch_kernels.embedding_substitute", reason="needs triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NOISE = {"std": 0.5, "seed": 3, "step": 9}


def case(num_tokens=37, num_columns=19, shape=(4, 9), dtype=torch.float32, device="cpu"):
    torch.manual_seed(2)
    weight = torch.randn(num_tokens, num_columns).to(device, dtype)
    return torch.randint(0, num_tokens, shape).to(device), weight, (torch.rand(num_tokens) < 0.2).to(device)


def look_up(fn, ids, weight, keep, backend=None, probability=0.4):
    leaf = weight.clone().requires_grad_()
    y = fn(ids, leaf, probability=probability, keep=keep, backend=backend, **NOISE)
    (grad,) = torch.autograd.grad((y.double() ** 2).sum(), leaf)
    assert torch.equal(leaf, weight)
    return y.detach().cpu(), grad.cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)])
@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sizes", [{}, {"num_columns": 300, "shape": (7,)}, {"num_columns": 1, "shape": (1, 2, 3)}])
def test_all_paths_agree_to_the_bit(sizes, probability, dtype):
    expected, slope = look_up(embedding_substitute_reference, *case(**sizes, dtype=dtype), probability=probability)
    for backend, device in [("torch", "cpu"), ("torch", DEVICE), ("triton", DEVICE)]:
        arguments = case(**sizes, dtype=dtype, device=device)
        y, grad = look_up(embedding_substitute, *arguments, backend=backend, probability=probability)
        assert torch.equal(y, expected), (backend, device)
        torch.testing.assert_close(grad, slope, msg=f"gradients of {backend} on {device}")


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_token_has_one_row_at_all_its_positions_and_no_gradient(backend):
    ids, weight, _ = case(num_tokens=5, shape=(50,), device=DEVICE)
    leaf = weight.clone().requires_grad_()
    y = embedding_substitute(ids, leaf, probability=0.5, backend=backend, **NOISE)
    y.sum().backward()
    taken = substituted_tokens(ids, probability=0.5, seed=3, step=9)
    assert 0 < taken.numel() < 5
    for token in range(5):
        rows = y[ids == token]
        assert (rows == rows[0]).all()
        assert (token in taken) == (not torch.equal(rows[0], weight[token]))
        assert (token in taken) == (not leaf.grad[token].any())


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_an_empty_batch(backend):
    ids = torch.zeros(2, 0, dtype=torch.int64, device=DEVICE)
    y = embedding_substitute(ids, torch.ones(3, 4, device=DEVICE), probability=1.0, backend=backend, **NOISE)
    assert y.shape == (2, 0, 4)


def test_kept_tokens_are_never_substituted():
    ids, weight, keep = case()
    everything = embedding_substitute(ids, weight, probability=1.0, keep=keep, **NOISE)
    same = (everything == weight[ids]).all(-1)
    assert torch.equal(same, keep[ids]) and same.any() and not same.all()
    assert not keep[substituted_tokens(ids, probability=1.0, seed=3, step=9, keep=keep)].any()


def test_every_step_takes_other_tokens_and_other_rows():
    ids, weight, _ = case(num_tokens=200, shape=(400,))
    first = substituted_tokens(ids, probability=0.3, seed=3, step=9)
    second = substituted_tokens(ids, probability=0.3, seed=3, step=10)
    assert not torch.equal(first, second)
    a, b = (embedding_substitute(ids, weight, probability=1.0, std=0.5, seed=3, step=step) for step in (9, 10))
    assert (a == b).sum() <= 2


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_logits_of_a_tied_head_with_gradients(probability):
    ids, weight, keep = case()
    weight = weight.double()
    tokens = substituted_tokens(ids, probability=probability, seed=3, step=9, keep=keep)
    hidden = torch.randn(2, 6, 19, dtype=torch.float64)
    found = []
    for corrected in (False, True):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if corrected:
            logits = substitute_logits(h @ w.T, h, tokens, **NOISE)
        else:
            logits = substitute_logits_reference(h, w, tokens, **NOISE)
        logits.logsumexp(-1).sum().backward()
        found.append((logits.detach(), h.grad, w.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    assert not found[1][2][tokens].any()


def test_the_head_uses_the_rows_of_the_lookup():
    ids, weight, _ = case()
    tokens = substituted_tokens(ids, probability=0.5, seed=3, step=9)
    rows = embedding_substitute(tokens, weight, probability=0.5, **NOISE)
    logits = substitute_logits_reference(torch.eye(19), weight, tokens, **NOISE)
    assert torch.equal(logits[:, tokens].T, rows)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"probability": -0.1}, r"probability must be in \[0, 1\]; got -0.1"),
        ({"std": float("inf")}, "std must be finite and at least 0; got inf"),
        ({"seed": 1 << 64}, r"seed must be in \[0, 2\^64\)"),
        ({"step": -1}, r"step must be in \[0, 2\^56\); got -1"),
        ({"keep": torch.zeros(3, dtype=torch.bool)}, r"keep must be bool \[37\]; got torch.bool \[3\]"),
        ({"backend": "cuda"}, "backend must be one of"),
    ],
)
def test_bad_input(options, message):
    ids, weight, _ = case()
    with pytest.raises(ValueError, match=message):
        embedding_substitute(ids, weight, **{"probability": 0.1} | NOISE | options)


def test_bad_shapes():
    ids, weight, _ = case()
    with pytest.raises(ValueError, match="ids must be int64; got torch.int32"):
        embedding_substitute(ids.int(), weight, probability=0.1, **NOISE)
    with pytest.raises(ValueError, match=r"weight must be a floating-point \[V, D\]"):
        embedding_substitute(ids, weight[0], probability=0.1, **NOISE)
    with pytest.raises(ValueError, match="logits and hidden must have the same positions"):
        substitute_logits(torch.zeros(2, 37), torch.zeros(3, 19), ids[0], **NOISE)
