"""The chunk path against the token-by-token reference: outputs, states, every gradient; splits, packing, causality."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memarch.ops import DELTANET, MEMORA, MONETA, YAAD, MirasRule, miras_memory, miras_memory_reference
from memarch.testing import assert_close, miras_inputs, relative_rms

from ._miras_cases import CLOSED_FORM, RULES, call, cut, gradients, loss_of, state_tensors

EXACT = 1e-9


@pytest.mark.parametrize("channelwise", [False, True], ids=["head", "channel"])
@pytest.mark.parametrize("name", RULES)
def test_matches_reference(name, channelwise):
    rule = RULES[name]
    inputs = miras_inputs(rule, seq_len=13, num_heads=2, head_dim=5, channelwise=channelwise, requires_grad=True)
    o, state = call(miras_memory, inputs, rule, chunk_size=4)
    expected_o, expected_state = call(miras_memory_reference, inputs, rule, chunk_size=4)
    assert_close(o, expected_o, rtol=EXACT, name="o")
    for part, expected in state_tensors(expected_state).items():
        assert_close(state_tensors(state)[part], expected, rtol=EXACT, name=part)
    assert state.position.tolist() == [1, 1]
    actual = gradients(miras_memory, inputs, rule, chunk_size=4)
    for leaf, expected in gradients(miras_memory_reference, inputs, rule, chunk_size=4).items():
        assert_close(actual[leaf], expected, rtol=EXACT, name=f"d{leaf}")


@pytest.mark.parametrize("chunk_size", [1, 2, 7, 23, 64])
@pytest.mark.parametrize(
    "name", ["yaad", "moneta", "mlp-softmax-frozen", "matrix-huber-pseudo", "delta", "mlp-momentum"]
)
def test_every_chunk_size(name, chunk_size):
    rule = RULES[name]
    inputs = miras_inputs(rule, seq_len=23)
    o, state = call(miras_memory, inputs, rule, chunk_size=chunk_size)
    expected_o, expected = call(miras_memory_reference, inputs, rule, chunk_size=chunk_size)
    assert_close(o, expected_o, rtol=EXACT, name="o")
    assert_close(state.running[0], expected.running[0], rtol=EXACT, name="running")
    assert state.position.tolist() == expected.position.tolist() == [23 % chunk_size] * 2


def test_hand_computed_matrix_memory():
    """Two tokens of the delta rule, worked on paper."""

    def tokens(*rows):
        return torch.tensor(rows, dtype=torch.float64).view(1, 2, 1, 2)

    k, v, q = tokens((1, 0), (0, 1)), tokens((2, 3), (4, 0)), tokens((1, 0), (1, 1))
    log_decay = torch.tensor([1.0, 0.5], dtype=torch.float64).log().view(1, 2, 1)
    step = torch.tensor([0.5, 1.0], dtype=torch.float64).view(1, 2, 1)
    rule, weights = MirasRule(memory="matrix"), (torch.zeros(1, 2, 2, dtype=torch.float64),)
    for fn in (miras_memory, miras_memory_reference):
        o, state = fn(q, k, v, log_decay, step, rule=rule, weights=weights, chunk_size=1)
        assert o.flatten().tolist() == [1.0, 1.5, 4.5, 0.75]
        assert state.running[0].flatten().tolist() == [0.5, 4.0, 0.75, 0.0]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("split", [1, 4, 6])
def test_split_anywhere(name, split):
    """Whole == two calls, gradients through the state included; the split is inside, at and after a chunk's start."""
    rule = RULES[name]
    inputs = miras_inputs(rule, seq_len=9, num_heads=2, head_dim=5, requires_grad=True)
    whole, end = call(miras_memory, inputs, rule, chunk_size=4)
    first, state = call(miras_memory, cut(inputs, 0, split), rule, chunk_size=4)
    second, split_end = call(miras_memory, cut(inputs, split, 9), rule, chunk_size=4, state=state)
    assert_close(torch.cat([first, second], 1), whole, rtol=EXACT, name="o")
    for part, expected in state_tensors(end).items():
        assert_close(state_tensors(split_end)[part], expected, rtol=EXACT, name=part)
    whole_grad = torch.autograd.grad(loss_of(whole, end), inputs.k)[0]
    split_grad = torch.autograd.grad(loss_of(torch.cat([first, second], 1), split_end), inputs.k)[0]
    assert_close(split_grad, whole_grad, rtol=EXACT, name="dk")


@pytest.mark.parametrize("name", ["yaad", "moneta", "mlp-softmax-frozen", "delta", "matrix-momentum", "memora"])
def test_token_by_token_equals_prefill(name):
    rule = RULES[name]
    inputs = miras_inputs(rule, seq_len=11)
    whole, end = call(miras_memory, inputs, rule, chunk_size=4)
    state, outputs = None, []
    for t in range(11):
        o, state = call(miras_memory, cut(inputs, t, t + 1), rule, chunk_size=4, state=state)
        outputs.append(o)
    assert_close(torch.cat(outputs, 1), whole, rtol=EXACT, name="o")
    assert_close(state.running[0], end.running[0], rtol=EXACT, name="running")


def _packed(inputs, lengths):
    """The first `length` tokens of every sequence, one after the other, and the boundaries."""
    pieces = {
        key: torch.cat([x[i, :n] for i, n in enumerate(lengths)]).unsqueeze(0)
        for key, x in inputs._asdict().items()
        if isinstance(x, torch.Tensor)
    }
    return inputs._replace(**pieces), torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize("name", RULES)
def test_packed_equals_one_by_one(name):
    """Unequal lengths, continued from states at unequal positions; gradients too."""
    rule, lengths = RULES[name], [5, 1, 11]
    inputs = miras_inputs(rule, batch_size=3, seq_len=11, num_heads=2, head_dim=5, requires_grad=True)
    starts = [call(miras_memory, cut(inputs, 0, n), rule, chunk_size=4)[1].select([i]) for i, n in enumerate((3, 4, 1))]
    joined = starts[0].concat(starts[1]).concat(starts[2])
    packed, bounds = _packed(inputs, lengths)
    o, state = call(miras_memory, packed, rule, chunk_size=4, cu_seqlens=bounds, state=joined)
    loss = loss_of(o, state)
    singles = []
    for i, n in enumerate(lengths):
        single = inputs._replace(
            **{k: x[i : i + 1, :n] for k, x in inputs._asdict().items() if isinstance(x, torch.Tensor)}
        )
        singles.append(call(miras_memory, single, rule, chunk_size=4, state=starts[i]))
    expected_o = torch.cat([s[0] for s in singles], 1)
    expected_state = singles[0][1].concat(singles[1][1]).concat(singles[2][1])
    assert_close(o, expected_o, rtol=EXACT, name="o")
    assert state.position.tolist() == expected_state.position.tolist() == [0, 1, 0]
    for part, expected in state_tensors(expected_state).items():
        assert_close(state_tensors(state)[part], expected, rtol=EXACT, name=part)
    names = [inputs.k, inputs.log_decay, *inputs.weights]
    actual = torch.autograd.grad(loss, names, retain_graph=True)
    for a, e in zip(actual, torch.autograd.grad(loss_of(expected_o, expected_state), names), strict=True):
        assert_close(a, e, rtol=EXACT, name="gradient")


def test_packed_reference_agrees():
    inputs, bounds = _packed(miras_inputs(YAAD, batch_size=3, seq_len=9), [9, 2, 6])
    o, state = call(miras_memory, inputs, YAAD, chunk_size=4, cu_seqlens=bounds)
    expected, expected_state = call(miras_memory_reference, inputs, YAAD, chunk_size=4, cu_seqlens=bounds)
    assert_close(o, expected, rtol=EXACT, name="o")
    assert_close(state.anchor[0], expected_state.anchor[0], rtol=EXACT, name="anchor")


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_chain_of_splits(data):
    """Any cut of a sequence into calls, under any of the three models, is the whole sequence."""
    rule = data.draw(st.sampled_from([YAAD, MONETA, MEMORA.replace(read="frozen"), DELTANET]))
    inputs = miras_inputs(rule, batch_size=1, seq_len=12, num_heads=1, head_dim=3, hidden_dim=5)
    chunk_size = data.draw(st.integers(1, 7))
    cuts = sorted(data.draw(st.sets(st.integers(1, 11), max_size=4)))
    state, outputs = None, []
    for start, end in zip([0, *cuts], [*cuts, 12], strict=True):
        o, state = call(miras_memory, cut(inputs, start, end), rule, chunk_size=chunk_size, state=state)
        outputs.append(o)
    whole, _ = call(miras_memory_reference, inputs, rule, chunk_size=chunk_size)
    assert_close(torch.cat(outputs, 1), whole, rtol=EXACT, name=f"cuts {cuts}, chunk_size {chunk_size}")


@pytest.mark.parametrize("name", ["yaad", "moneta", "mlp-softmax-frozen", "mlp-softmax-exact", "delta", "mlp-momentum"])
@pytest.mark.parametrize("at", [5, 8])
def test_causality_is_bit_exact(name, at):
    """Whatever follows token `at` cannot move a bit of what came before, inside its chunk or across chunks."""
    rule = RULES[name]
    inputs = miras_inputs(rule, seq_len=16, dtype=torch.float32)
    changed = inputs._replace(
        **{
            key: torch.cat([x[:, :at], x[:, at:] * 0.5], dim=1)
            for key, x in inputs._asdict().items()
            if isinstance(x, torch.Tensor)
        }
    )
    o, _ = call(miras_memory, inputs, rule, chunk_size=8)
    other, _ = call(miras_memory, changed, rule, chunk_size=8)
    assert torch.equal(o[:, :at], other[:, :at])
    assert not torch.equal(o[:, at:], other[:, at:])


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_float32_is_near_float64(name):
    rule = RULES[name]
    exact, _ = call(miras_memory_reference, miras_inputs(rule), rule, chunk_size=8)
    single = miras_inputs(rule, dtype=torch.float32)
    o, state = call(miras_memory, single, rule, chunk_size=8)
    own_error = relative_rms(call(miras_memory_reference, single, rule, chunk_size=8)[0], exact)
    assert o.dtype == torch.float32 and state.running[0].dtype == torch.float32
    assert_close(o, exact, rtol=3 * own_error, name="o")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_float32_state(dtype):
    """The error is that of rounding the inputs and the output, not of accumulating in half precision."""
    inputs = miras_inputs(YAAD, seq_len=40, dtype=dtype)
    widened = inputs._replace(
        **{k: x.double() for k, x in inputs._asdict().items() if isinstance(x, torch.Tensor)},
        weights=tuple(w.double() for w in inputs.weights),
    )
    exact, _ = call(miras_memory_reference, widened, YAAD)
    o, state = call(miras_memory, inputs, YAAD)
    assert o.dtype == dtype and state.running[0].dtype == torch.float32
    assert relative_rms(o, exact) < torch.finfo(dtype).eps


@pytest.mark.parametrize("name", ["yaad", "moneta", "matrix-softmax-frozen"])
def test_channel_decay_too_strong_to_factor(name):
    """exp(-b) would overflow float32; the pairwise form takes over and stays exact."""
    rule = RULES[name]
    inputs = miras_inputs(rule, seq_len=10, channelwise=True, dtype=torch.float32)
    inputs.log_decay[:, 3:6] = -70.0
    widened = inputs._replace(
        **{k: x.double() for k, x in inputs._asdict().items() if isinstance(x, torch.Tensor)},
        weights=tuple(w.double() for w in inputs.weights),
    )
    exact, _ = call(miras_memory_reference, widened, rule, chunk_size=8)
    o, _ = call(miras_memory, inputs, rule, chunk_size=8)
    assert_close(o, exact, rtol=2e-4, name="o")


def test_saved_memory_grows_with_states_not_tokens():
    """Training keeps inputs and one state per chunk: four times longer chunks, about a quarter of the states."""
    inputs = miras_inputs(YAAD, batch_size=1, seq_len=128, num_heads=1, head_dim=32, hidden_dim=512, requires_grad=True)
    state_bytes = sum(w.numel() * w.element_size() for w in inputs.weights)

    def saved_states(chunk_size):
        sizes = []

        def pack(x):
            sizes.append(x.numel() * x.element_size())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            call(miras_memory, inputs, YAAD, chunk_size=chunk_size)
        return sum(sizes) / state_bytes

    few, many = saved_states(64), saved_states(8)
    assert 16 <= many < 24
    assert few < 8


def test_inputs_and_state_are_left_alone():
    inputs = miras_inputs(MONETA, seq_len=7)
    _, state = call(miras_memory, inputs, MONETA, chunk_size=4)
    before = [x.clone() for x in (*inputs[:5], *inputs.weights, *state_tensors(state).values())]
    call(miras_memory, inputs, MONETA, chunk_size=4, state=state)
    after = (*inputs[:5], *inputs.weights, *state_tensors(state).values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_state_select_and_detach():
    inputs = miras_inputs(YAAD, batch_size=3, seq_len=5, requires_grad=True)
    _, state = call(miras_memory, inputs, YAAD, chunk_size=4)
    picked = state.select([2, 0, 2])
    assert picked.batch_size == 3
    assert torch.equal(picked.running[1][0], state.running[1][2])
    assert state.running[0].requires_grad and not state.detach().running[0].requires_grad


def test_backend_argument(monkeypatch):
    inputs = miras_inputs(YAAD, seq_len=3)
    o, _ = call(miras_memory, inputs, YAAD, backend="torch")
    monkeypatch.setenv("MEMARCH_BACKEND", "torch")
    assert torch.equal(call(miras_memory, inputs, YAAD)[0], o)
    monkeypatch.setenv("MEMARCH_BACKEND", "fast")
    with pytest.raises(ValueError, match="MEMARCH_BACKEND must be one of 'auto', 'torch', 'triton'; got 'fast'"):
        call(miras_memory, inputs, YAAD)
    with pytest.raises(ValueError, match="backend='triton' for miras: .* use 'auto' or 'torch'"):
        call(miras_memory, inputs, YAAD, backend="triton")
