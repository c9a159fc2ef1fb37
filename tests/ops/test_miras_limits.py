"""Every named point of the framework in a limit that is known on other grounds."""

from __future__ import annotations

import pytest
import torch

from memarch.ops import (
    DELTANET,
    ELASTIC_NET,
    F_DIVERGENCE,
    GATED_DELTANET,
    GLA,
    LINEAR_ATTENTION,
    MEMORA,
    MONETA,
    RETNET,
    SIGMOID_BREGMAN,
    TITANS_LMM,
    TTT_LINEAR,
    TTT_MLP,
    YAAD,
    MirasRule,
    _miras_math,
    miras_memory,
)
from memarch.testing import assert_close, miras_inputs

from ._miras_cases import call

EXACT = 1e-11


def _matrix(rule, channelwise=False, seq_len=11):
    inputs = miras_inputs(rule, seq_len=seq_len, channelwise=channelwise)
    return inputs._replace(weights=(torch.zeros_like(inputs.weights[0]),))


def _attention_without_softmax(inputs, decay):
    """o_t = sum_{i <= t} (q_t . decay(t, i) k_i) v_i, from its double loop."""
    o = torch.zeros_like(inputs.q)
    for t in range(o.shape[1]):
        for i in range(t + 1):
            o[:, t] += (inputs.q[:, t] * decay(t, i) * inputs.k[:, i]).sum(-1, keepdim=True) * inputs.v[:, i]
    return o


def test_linear_attention():
    inputs = _matrix(LINEAR_ATTENTION)
    inputs = inputs._replace(log_decay=torch.zeros_like(inputs.log_decay), step_size=torch.ones_like(inputs.step_size))
    o, _ = call(miras_memory, inputs, LINEAR_ATTENTION, chunk_size=4)
    assert_close(o, _attention_without_softmax(inputs, lambda t, i: 1.0), rtol=EXACT, name="linear attention")


def test_retnet():
    inputs = _matrix(RETNET)
    gamma = 1 - 2.0 ** (-5 - torch.arange(inputs.q.shape[2], dtype=torch.float64))
    fixed = gamma.log().expand_as(inputs.log_decay)
    inputs = inputs._replace(log_decay=fixed, step_size=torch.ones_like(inputs.step_size))
    o, _ = call(miras_memory, inputs, RETNET, chunk_size=4)
    expected = _attention_without_softmax(inputs, lambda t, i: gamma[:, None] ** (t - i))
    assert_close(o, expected, rtol=EXACT, name="RetNet")


def test_gla():
    inputs = _matrix(GLA, channelwise=True)
    inputs = inputs._replace(step_size=torch.ones_like(inputs.step_size))
    o, _ = call(miras_memory, inputs, GLA, chunk_size=4)
    total = inputs.log_decay.cumsum(1)
    expected = _attention_without_softmax(inputs, lambda t, i: (total[:, t] - total[:, i]).exp())
    assert_close(o, expected, rtol=EXACT, name="GLA")


def _gated_delta_rule(inputs, alpha, beta, values):
    """S_t = a_t S_{t-1} (I - b_t k_t k_t') + b_t v_t k_t', o_t = S_t q_t (arXiv 2412.06464, Eq. 10)."""
    batch, tokens, heads, dim = inputs.q.shape
    s = torch.zeros(batch, heads, dim, dim, dtype=torch.float64)
    outputs = []
    for t in range(tokens):
        k, b = inputs.k[:, t], beta[:, t, :, None, None]
        erase = torch.eye(dim, dtype=torch.float64) - b * k.unsqueeze(-1) * k.unsqueeze(-2)
        s = alpha[:, t, :, None, None] * s @ erase + b * values[:, t].unsqueeze(-1) * k.unsqueeze(-2)
        outputs.append((s @ inputs.q[:, t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(outputs, 1)


@pytest.mark.parametrize(
    "rule,chunk_size", [(GATED_DELTANET, 4), (TTT_LINEAR, 1)], ids=["exact-chunks", "chunk-of-one"]
)
def test_gated_deltanet(rule, chunk_size):
    """Miras' decoupled step is the gated delta rule with beta = eta / a and v' = a v."""
    inputs = _matrix(rule)
    alpha = inputs.log_decay.exp()
    o, _ = call(miras_memory, inputs, rule, chunk_size=chunk_size)
    expected = _gated_delta_rule(inputs, alpha, inputs.step_size / alpha, alpha.unsqueeze(-1) * inputs.v)
    assert_close(o, expected, rtol=EXACT, name="Gated DeltaNet")


@pytest.mark.parametrize("channelwise", [False, True])
def test_deltanet(channelwise):
    inputs = _matrix(DELTANET, channelwise)
    inputs = inputs._replace(
        log_decay=torch.zeros_like(inputs.log_decay), step_size=miras_inputs(DELTANET, seq_len=11).step_size
    )
    o, _ = call(miras_memory, inputs, DELTANET, chunk_size=5)
    expected = _gated_delta_rule(inputs, torch.ones_like(inputs.step_size), inputs.step_size, inputs.v)
    assert_close(o, expected, rtol=EXACT, name="DeltaNet")


def test_delta_rule_does_not_depend_on_the_chunk_size_but_ttt_does():
    inputs = _matrix(DELTANET)
    by_chunk = [call(miras_memory, inputs, DELTANET, chunk_size=c)[0] for c in (1, 3, 11)]
    assert_close(by_chunk[1], by_chunk[0], rtol=EXACT, name="C = 3")
    assert_close(by_chunk[2], by_chunk[0], rtol=EXACT, name="C = 11")
    one, eleven = (call(miras_memory, inputs, TTT_LINEAR, chunk_size=c)[0] for c in (1, 11))
    assert (one - eleven).norm() / one.norm() > 0.05


def test_ttt_linear_is_minibatch_gradient_descent():
    """One chunk of TTT-Linear: the sum of the chunk's gradients at its start."""
    inputs = _matrix(TTT_LINEAR, seq_len=6)
    w0 = miras_inputs(TTT_LINEAR).weights
    inputs = inputs._replace(log_decay=torch.zeros_like(inputs.log_decay), weights=w0)
    _, state = call(miras_memory, inputs, TTT_LINEAR, chunk_size=6)
    w = w0[0].expand(2, -1, -1, -1).clone().requires_grad_()
    error = torch.einsum("bhij,bthj->bthi", w, inputs.k) - inputs.v
    (grad,) = torch.autograd.grad((0.5 * error.square().sum(-1) * inputs.step_size).sum(), w)
    assert_close(state.running[0], w - grad, rtol=EXACT, name="TTT-Linear")


def test_ttt_mlp_is_minibatch_gradient_descent():
    inputs = miras_inputs(TTT_MLP, seq_len=6)
    inputs = inputs._replace(log_decay=torch.zeros_like(inputs.log_decay))
    _, state = call(miras_memory, inputs, TTT_MLP, chunk_size=6)
    w1, w2 = (w.expand(2, -1, -1, -1).clone().requires_grad_() for w in inputs.weights)
    hidden = torch.nn.functional.gelu(torch.einsum("bhij,bthj->bthi", w2, inputs.k), approximate="tanh")
    y = torch.einsum("bhij,bthj->bthi", w1, hidden)
    error = inputs.k + torch.nn.functional.layer_norm(y, y.shape[-1:], eps=1e-6) - inputs.v
    grads = torch.autograd.grad((0.5 * error.square().sum(-1) * inputs.step_size).sum(), (w1, w2))
    assert_close(state.running[0], w1 - grads[0], rtol=EXACT, name="W1")
    assert_close(state.running[1], w2 - grads[1], rtol=EXACT, name="W2")


def test_titans_without_momentum_is_the_l2_memory():
    inputs = miras_inputs(TITANS_LMM)
    none = inputs._replace(log_momentum=torch.full_like(inputs.log_momentum, -1e4))
    o, _ = call(miras_memory, none, TITANS_LMM, chunk_size=4)
    plain, _ = call(miras_memory, inputs._replace(log_momentum=None), MirasRule(), chunk_size=4)
    assert_close(o, plain, rtol=EXACT, name="Titans, momentum 0")


def test_titans_momentum_by_hand():
    """Constant gradient g (dot bias): S_t = m S_{t-1} - eta g and A_t = A_{t-1} + S_t add up a geometric series."""
    rule = MirasRule(memory="matrix", bias="dot", momentum=True)
    shape = (1, 3, 1, 2)
    k = v = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(shape).contiguous()
    gate = torch.zeros(shape[:3], dtype=torch.float64)
    half = gate + torch.log(torch.tensor(0.5, dtype=torch.float64))
    weights = (torch.zeros(1, 2, 2, dtype=torch.float64),)
    o, _ = miras_memory(k, k, v, gate, gate + 1, rule=rule, weights=weights, log_momentum=half, chunk_size=2)
    assert torch.allclose(o[0, :, 0, 0], torch.tensor([1.0, 2.5, 4.25], dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("huber", ["mixture", "coordinate", "norm", "pseudo"])
def test_huber_with_a_large_threshold_is_l2(huber):
    rule = YAAD.replace(huber=huber)
    inputs = miras_inputs(rule)
    o, _ = call(miras_memory, inputs._replace(threshold=torch.full_like(inputs.threshold, 1e7)), rule, chunk_size=4)
    plain, _ = call(miras_memory, inputs._replace(threshold=None), MirasRule(), chunk_size=4)
    assert_close(o, plain, rtol=EXACT, name=huber)


def test_huber_steps_are_bounded_where_l2_steps_are_not():
    e = torch.tensor([[3.0, -400.0]], dtype=torch.float64)
    delta = torch.tensor([[2.0]], dtype=torch.float64)
    expected = {
        "mixture": [2.0, -2.0],
        "coordinate": [2.0, -2.0],
        "norm": [2 * 3 / 400.01125, -2 * 400 / 400.01125],
        "pseudo": [3 / 3.25**0.5, -400 / 40001**0.5],
    }
    for huber, value in expected.items():
        rho = _miras_math.error_gradient(YAAD.replace(huber=huber), e, delta)
        assert torch.allclose(rho, torch.tensor([value], dtype=torch.float64), atol=1e-6), huber


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_lp_gradient_is_that_of_the_power(p):
    """Away from zero the smoothed gradient is d|e|^p / de; at p = 2 that is twice the l2 gradient."""
    e = torch.tensor([-2.0, -0.7, 0.6, 3.0], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad((e.abs() ** p).sum(), e)
    assert_close(_miras_math.error_gradient(MirasRule(bias="lp", p=p), e, None), exact, rtol=1e-4, name="rho")
    assert (p != 2.0) or torch.allclose(exact, 2 * e)


def test_moneta_link_is_an_involution_up_to_scale():
    """q = 4: W = A / |A|^2 has |W| = 1 / |A|; applied twice it gives A back."""
    a = torch.randn(5, 7, 11, dtype=torch.float64)
    w = _miras_math.link(MONETA, a, -1)
    assert_close(_miras_math.q_norm(MONETA, w), 1 / _miras_math.q_norm(MONETA, a), rtol=EXACT, name="norm")
    assert_close(_miras_math.link(MONETA, w, -1), a, rtol=EXACT, name="involution")


def test_moneta_decay_grows_the_weights():
    """The hole of Eq. 25 at q = 4, kept as printed: with no new gradient, decay of A grows W."""
    inputs = miras_inputs(MONETA.replace(memory="matrix"), seq_len=4)
    inputs = inputs._replace(step_size=torch.zeros_like(inputs.step_size), log_decay=inputs.log_decay * 0 - 0.5)
    o, _ = call(
        miras_memory,
        inputs._replace(q=inputs.q[:, :1].expand_as(inputs.q)),
        MONETA.replace(memory="matrix"),
        chunk_size=1,
    )
    growth = o[:, 1:].norm(dim=-1) / o[:, :-1].norm(dim=-1)
    # Chunk scales lag by one token: the first read is a A_0 / |A_0|^2, the next a^2 A_0 / (a^2 |A_0|^2).
    assert torch.allclose(growth, torch.full_like(growth, torch.e**0.5))


def test_lq_of_two_is_plain_l2_retention():
    rule = MirasRule(link="lq", q=2.0)
    inputs = miras_inputs(rule)
    o, _ = call(miras_memory, inputs, rule, chunk_size=4)
    assert_close(o, call(miras_memory, inputs, MirasRule(), chunk_size=4)[0], rtol=EXACT, name="q = 2")


def test_pnorm_dual_is_the_mirror_map():
    """W = grad of 1/2 |A|_q^2; the printed link is not."""
    a = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    (mirror,) = torch.autograd.grad(0.5 * (a.abs() ** 4).sum() ** 0.5, a)
    assert_close(_miras_math.link(MONETA.replace(link="pnorm_dual"), a, -1), mirror, rtol=EXACT, name="dual")
    assert (_miras_math.link(MONETA, a, -1) - mirror).norm() > 0.1


@pytest.mark.parametrize("read", ["exact", "frozen"])
def test_memora_logits_are_the_published_multiplicative_form(read):
    """W_t = c softmax(a_t log W_{t-1} - eta_t g_t) (Eq. 27) from weights, against logits."""
    rule = MEMORA.replace(memory="matrix", read=read)
    inputs = miras_inputs(rule, seq_len=7)
    o, state = call(miras_memory, inputs, rule, chunk_size=1)
    mass = inputs.q.shape[-1]
    w = mass * torch.softmax(inputs.weights[0].expand(2, -1, -1, -1), -2)
    for t in range(7):
        error = (w @ inputs.k[:, t].unsqueeze(-1)).squeeze(-1) - inputs.v[:, t]
        grad = error.unsqueeze(-1) * inputs.k[:, t].unsqueeze(-2)
        before = w
        a, eta = inputs.log_decay[:, t].exp()[..., None, None], inputs.step_size[:, t][..., None, None]
        w = mass * torch.softmax(a * (w / mass).log() - eta * grad, -2)
        read_from = w if read == "exact" else before
        assert_close(o[:, t], (read_from @ inputs.q[:, t].unsqueeze(-1)).squeeze(-1), rtol=1e-9, name=f"o[{t}]")
    final = mass * torch.softmax(state.running[0], -2)
    assert_close(final, w, rtol=1e-9, name="W")
    assert torch.allclose(final.sum(-2), torch.full_like(final.sum(-2), mass))


def test_elastic_net():
    """No shrinkage is l2 retention; shrinkage empties entries that nothing renews."""
    inputs = miras_inputs(ELASTIC_NET)
    rule = ELASTIC_NET.replace(shrinkage=0.0, read="exact")
    o, _ = call(miras_memory, inputs, rule, chunk_size=4)
    assert_close(o, call(miras_memory, inputs, MirasRule(), chunk_size=4)[0], rtol=EXACT, name="shrinkage 0")
    _, state = call(miras_memory, inputs, ELASTIC_NET.replace(shrinkage=0.2), chunk_size=4)
    w = _miras_math.link(ELASTIC_NET.replace(shrinkage=0.2), state.running[0], -1)
    assert 0.1 < (w == 0).double().mean() < 0.9


def test_f_divergence_kl_is_exponentiated_gradient():
    """W_t = W_{t-1}^a exp(-eta g): the KL divergence on positive weights, without normalisation."""
    rule = F_DIVERGENCE.replace(memory="matrix")
    inputs = miras_inputs(rule, seq_len=5)
    _, state = call(miras_memory, inputs, rule, chunk_size=1)
    w = inputs.weights[0].expand(2, -1, -1, -1).exp()
    for t in range(5):
        error = (w @ inputs.k[:, t].unsqueeze(-1)).squeeze(-1) - inputs.v[:, t]
        grad = error.unsqueeze(-1) * inputs.k[:, t].unsqueeze(-2)
        w = w ** inputs.log_decay[:, t].exp()[..., None, None] * torch.exp(
            -inputs.step_size[:, t][..., None, None] * grad
        )
    assert_close(state.running[0].exp(), w, rtol=1e-9, name="W")


def test_f_divergence_chi_square_is_projected_gradient_descent():
    rule = MirasRule(memory="matrix", link="f_divergence", divergence="chi_square")
    w = _miras_math.link(rule, torch.tensor([[-3.0, -0.25, 0.5]]), -2)
    assert w.tolist() == [[0.0, 0.75, 1.5]]


def test_sigmoid_bregman_is_the_published_form():
    """W_t = sigmoid(logit(W_{t-1}) - eta g) for a = 1: the Bregman divergence of the bit entropy."""
    rule = SIGMOID_BREGMAN.replace(memory="matrix")
    inputs = miras_inputs(rule, seq_len=5)
    inputs = inputs._replace(log_decay=torch.zeros_like(inputs.log_decay))
    _, state = call(miras_memory, inputs, rule, chunk_size=1)
    w = inputs.weights[0].expand(2, -1, -1, -1).sigmoid()
    for t in range(5):
        error = (w @ inputs.k[:, t].unsqueeze(-1)).squeeze(-1) - inputs.v[:, t]
        grad = error.unsqueeze(-1) * inputs.k[:, t].unsqueeze(-2)
        w = torch.sigmoid(torch.logit(w) - inputs.step_size[:, t][..., None, None] * grad)
    assert_close(state.running[0].sigmoid(), w, rtol=1e-9, name="W")
