"""Miras layers: splits, padding, gradients, state dict, the recurrence behind them, bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import memarch
from memarch.layers import MIRAS_POINTS, Memora, Miras, Moneta, Yaad, miras_point
from memarch.layers._miras_init import step_unit
from memarch.ops import YAAD, MirasRule, miras_memory_reference
from memarch.testing import assert_close

LAYERS = {
    "yaad": lambda: Yaad(24, 2, chunk_size=4),
    "yaad-mixture": lambda: Yaad(24, 2, huber="mixture", chunk_size=4),
    "yaad-matrix-heads": lambda: Yaad(24, 3, memory="matrix", huber="pseudo", gates="head", chunk_size=4),
    "moneta": lambda: Moneta(24, 2, chunk_size=4),
    "memora": lambda: Memora(24, 2, chunk_size=4),
    "memora-exact": lambda: Memora(24, 2, read="exact", chunk_size=4),
    "wide-heads-no-conv": lambda: Yaad(24, 2, head_dim=5, conv_size=1, gate_rank=3, chunk_size=4),
} | {name: lambda name=name: miras_point(name, 24, 2, chunk_size=4) for name in MIRAS_POINTS[3:]}


def _shake(layer: torch.nn.Module) -> torch.nn.Module:
    """Gates start independent of the data; give every parameter a value that shows in the output."""
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return layer.double()


@pytest.mark.parametrize("name", LAYERS)
def test_split_anywhere(name):
    layer = _shake(LAYERS[name]())
    x = torch.randn(2, 11, 24, dtype=torch.float64)
    whole, end = layer(x)
    assert whole.shape == x.shape
    for split in (1, 2, 6, 10):
        first, state = layer(x[:, :split])
        second, split_end = layer(x[:, split:], state)
        assert_close(torch.cat([first, second], 1), whole, rtol=1e-9, name=f"y split at {split}")
        assert_close(split_end.conv, end.conv, rtol=1e-9, name="conv")
        assert_close(split_end.memory.running[0], end.memory.running[0], rtol=1e-9, name="memory")


@pytest.mark.parametrize("name", LAYERS)
def test_padding_leaves_no_trace(name):
    """Left, right and inner padding, over two calls, equals each row alone; a row may be all padding."""
    layer = _shake(LAYERS[name]())
    x = torch.randn(3, 9, 24, dtype=torch.float64)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, :4] = False
    mask[1, 6:] = False
    mask[1, 2] = False
    mask[2, 3:] = False
    y1, state = layer(x[:, :5], mask=mask[:, :5])
    y2, state = layer(x[:, 5:], state, mask=mask[:, 5:])
    y = torch.cat([y1, y2], 1)
    for row in range(3):
        alone, alone_state = layer(x[row, mask[row]].unsqueeze(0))
        assert_close(y[row, mask[row]], alone[0], rtol=1e-9, name=f"row {row}")
        assert_close(state.memory.running[0][row], alone_state.memory.running[0][0], rtol=1e-9, name="memory")
        assert_close(state.conv[row], alone_state.conv[0], rtol=1e-9, name="conv")
    assert not y[~mask].any()


def test_all_padding_keeps_the_state():
    layer = _shake(LAYERS["yaad"]())
    _, state = layer(torch.randn(2, 5, 24, dtype=torch.float64))
    y, after = layer(torch.randn(2, 3, 24, dtype=torch.float64), state, mask=torch.zeros(2, 3, dtype=torch.bool))
    assert not y.any() and torch.equal(after.memory.running[0], state.memory.running[0])


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_reach_every_parameter(name):
    layer = _shake(LAYERS[name]())
    layer(torch.randn(2, 9, 24, dtype=torch.float64))[0].square().sum().backward()
    for key, p in layer.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, key


def test_yaad_is_its_published_recurrence():
    """The layer's own projections, then the token-by-token reference: nothing else lies between x and y."""
    layer = _shake(Yaad(24, 2, chunk_size=4))
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    padded = F.pad(layer.qkv(x), (0, 0, 3, 0))
    mixed = F.silu(sum(layer.conv[:, tap] * padded[:, tap : tap + 9] for tap in range(4)))
    q, k, v = (part.unflatten(-1, (2, 12)) for part in mixed.chunk(3, -1))
    q, k = (y / y.norm(dim=-1, keepdim=True) for y in (q, k))
    gates = layer.gates(x)
    o, _ = miras_memory_reference(
        q, k, v, rule=YAAD.replace(huber="norm"), weights=tuple(layer.memory), chunk_size=4, **gates
    )
    rms = (o.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    expected = (o / rms * layer.output_norm.weight * F.silu(layer.output_gate(x)).unflatten(-1, (2, 12))).flatten(-2)
    assert_close(layer(x)[0], layer.output(expected), rtol=1e-9, name="y")


def test_gates_start_where_documented():
    layer = Yaad(24, 3)
    gates = layer.gates(torch.randn(2, 5, 24))
    decay = gates["log_decay"].exp()
    assert decay.shape == (2, 5, 3, 8)
    assert torch.allclose(decay[0, 0, :, 0], torch.tensor([0.999, 1 - 10**-3.5, 0.9999]), atol=1e-6)
    assert torch.allclose(gates["step_size"], 0.1 * layer.step_unit.expand(2, 5, 3, 8))
    assert torch.allclose(gates["threshold"], torch.full((2, 5, 3), 8**0.5))
    matrix = Yaad(24, 3, memory="matrix", huber="coordinate").gates(torch.randn(1, 2, 24))
    assert torch.allclose(matrix["log_decay"].exp()[0, 0, :, 0], torch.tensor([0.999, 0.99293, 0.95]), atol=1e-4)
    assert torch.allclose(matrix["threshold"], torch.full((1, 2, 3, 8), 1.0))
    mixture = Yaad(24, 3, huber="mixture").gates(torch.randn(1, 2, 24))
    assert torch.allclose(mixture["threshold"], torch.full((1, 2, 3), 2 * 8**0.5))


@pytest.mark.parametrize("name", ["yaad", "moneta", "memora", "l2-memory"])
def test_gradients_start_near_one_over_long_sequences(name):
    """A fresh layer neither explodes nor vanishes through 256 tokens of chunk-wise inner gradients."""
    layer = miras_point(name, 32, 2)
    x = torch.randn(2, 256, 32, requires_grad=True)
    y, _ = layer(x)
    (y * torch.randn_like(y)).sum().backward()
    ratio = (x.grad.norm() / y.norm()).item()
    assert 0.02 < ratio < 50


def test_a_fresh_yaad_clips_some_tokens_and_its_threshold_learns():
    """A threshold that no error meets would make Yaad an l2 memory for good: it would have no gradient."""
    layer = Yaad(32, 2)
    layer(torch.randn(2, 32, 32))[0].square().sum().backward()
    first_threshold_row = layer.gate_sizes["log_decay"] + layer.gate_sizes["step_size"]
    assert layer.gate_up.bias.grad[first_threshold_row:].abs().min() > 0


def test_retnet_decay_is_fixed_and_deltanet_has_none():
    x = torch.randn(1, 2, 24)
    retnet, deltanet = miras_point("retnet", 24, 2), miras_point("deltanet", 24, 2)
    assert torch.allclose(retnet.gates(x)["log_decay"].exp()[0, 0], torch.tensor([1 - 2.0**-5, 1 - 2.0**-6]))
    assert not deltanet.gates(x)["log_decay"].any()


def test_channel_decay_stays_in_the_range_of_matrix_products():
    layer = Yaad(24, 2, chunk_size=64)
    with torch.no_grad():
        layer.gate_up.bias.fill_(-100.0)
    log_decay = layer.gates(torch.randn(1, 3, 24))["log_decay"]
    assert torch.allclose(log_decay.sum(1) * 64 / 3, torch.tensor(-56.0))


@pytest.mark.parametrize("head_dim", [8, 32])
def test_step_unit_of_the_delta_rule_is_one(head_dim):
    assert step_unit(MirasRule(memory="matrix"), head_dim) == pytest.approx(1.0, rel=1e-4)
    assert step_unit(MirasRule(memory="matrix", bias="lp", p=2.0), head_dim) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("name", [n for n in MIRAS_POINTS if n not in ("linear-attention", "retnet", "gla")])
def test_a_full_step_learns_a_pair(name):
    """With a unit step the fresh memory's answer to a key moves onto its value, whatever the rule's own scale.

    Not for Hebbian memories, which do not correct errors.
    """
    rule = miras_point(name, 24, 1).rule
    layer = miras_point(name, 16, 1, chunk_size=1).double()
    k = F.normalize(torch.randn(64, 1, 1, 16, dtype=torch.float64), dim=-1)
    gate = torch.ones(64, 1, 1, dtype=torch.float64)
    options = {
        "rule": rule,
        "weights": tuple(w.detach() for w in layer.initial_weights()),
        "threshold": gate if rule.needs_threshold else None,
        "log_momentum": -80 * gate if rule.momentum else None,
        "chunk_size": 1,
    }
    before, _ = miras_memory_reference(k, k, torch.zeros_like(k), 0 * gate, 0 * gate, **options)
    target = before + torch.randn_like(before)
    step = gate * 0.2 * layer.step_unit
    _, state = miras_memory_reference(k, k, target, 0 * gate, step, **options)
    after, _ = miras_memory_reference(k, k, target, 0 * gate, 0 * step, state=state, **options)
    assert (after - target).square().sum() < 0.9 * (before - target).square().sum()


def test_state_dict_round_trip_and_state_tools():
    layer, other = _shake(Moneta(24, 2)), Moneta(24, 2).double()
    other.load_state_dict(layer.state_dict())
    x = torch.randn(3, 7, 24, dtype=torch.float64)
    y, state = layer(x)
    assert torch.equal(other(x)[0], y)
    picked = state.select([2, 0])
    assert torch.equal(picked.conv[1], state.conv[0]) and torch.equal(
        picked.memory.running[0][0], state.memory.running[0][2]
    )
    assert state.memory.running[0].requires_grad and not state.detach().memory.running[0].requires_grad


def test_half_precision_layer():
    layer = Yaad(24, 2).bfloat16()
    y, state = layer(torch.randn(2, 5, 24, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and state.memory.running[0].dtype == torch.float32


def test_autocast():
    layer, x = Yaad(24, 2), torch.randn(2, 5, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(x)
    assert_close(y, layer(x)[0], rtol=0.05, name="y")


BAD = {
    r"d_model=24 is not divisible by num_heads=5": lambda: Yaad(24, 5),
    r"num_heads must be an integer of at least 1; got 0": lambda: Yaad(24, 0),
    r"chunk_size must be an integer of at least 1; got 0": lambda: Yaad(24, 2, chunk_size=0),
    r"head_dim must be an integer of at least 1; got 2.5": lambda: Yaad(24, 2, head_dim=2.5),
    r"gates must be one of 'channel', 'head'; got 'row'": lambda: Yaad(24, 2, gates="row"),
    r"decay must be one of .*; got 'learned'": lambda: Miras(24, 2, rule=YAAD, decay="learned"),
    r"huber must be one of .*; got 'soft'": lambda: Yaad(24, 2, huber="soft"),
    r"memory must be one of .*; got 'tree'": lambda: Moneta(24, 2, memory="tree"),
    r"no Miras point is called 'yad'; there are: moneta": lambda: miras_point("yad", 24, 2),
    r"x must be \[B, T, d_model=24\] .*; got \[2, 5, 25\]": lambda: Yaad(24, 2)(torch.randn(2, 5, 25)),
    r"x must be .* with tokens in it; got \[2, 0, 24\]": lambda: Yaad(24, 2)(torch.randn(2, 0, 24)),
    r"mask must be bool \[B, T\] = \[2, 5\]; got torch.bool \[2, 4\]": lambda: Yaad(24, 2)(
        torch.randn(2, 5, 24), mask=torch.ones(2, 4, dtype=torch.bool)
    ),
    r"mask must be bool .*; got torch.float32": lambda: Yaad(24, 2)(torch.randn(2, 5, 24), mask=torch.ones(2, 5)),
    r"state must be this layer's MirasLayerState or None; got Tensor": lambda: Yaad(24, 2)(
        torch.randn(2, 5, 24), torch.zeros(2)
    ),
    r"state holds 3 sequences, x has 2": lambda: Yaad(24, 2)(
        torch.randn(2, 5, 24), Yaad(24, 2)(torch.randn(3, 5, 24))[1]
    ),
    r"state was written with chunk_size=8; got chunk_size=16": lambda: Yaad(24, 2)(
        torch.randn(2, 5, 24), Yaad(24, 2, chunk_size=8)(torch.randn(2, 5, 24))[1]
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_public_names():
    assert memarch.Yaad is Yaad and memarch.Moneta is Moneta and memarch.Memora is Memora and memarch.Miras is Miras
