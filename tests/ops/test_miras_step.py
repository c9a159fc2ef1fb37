"""Decoding: the one-launch kernel (interpreted without a GPU) and the torch path against the float64 reference."""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import replace

import pytest
import torch

from memarch.ops import (
    DELTANET,
    YAAD,
    decoding_state,
    miras_memory,
    miras_memory_reference,
    miras_step,
    miras_step_reference,
)
from memarch.ops._miras_triton import _kernel_rule
from memarch.testing import assert_close, relative_rms
from memarch_kernels import _miras_step_kernels
from memarch_kernels import miras_step as kernel_module

from ._miras_cases import CLOSED_FORM, RULES, call, cut, state_tensors
from ._miras_step_cases import (
    CHUNK,
    DEVICE,
    RTOL,
    assert_same,
    compare,
    decode,
    own,
    prefilled,
    step_inputs,
    tokens_at,
)

# exp(-x) of a very negative x is infinite inside the interpreter's sigmoid; 1 / (1 + inf) is the right 0.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")


@pytest.mark.parametrize("channelwise", [False, True], ids=["head", "channel"])
@pytest.mark.parametrize("name", CLOSED_FORM)
def test_matches_reference(name, channelwise):
    """Every rule, from unequal positions inside a chunk across its end: each position of a chunk is met."""
    rule = RULES[name]
    inputs = step_inputs(rule, seq_len=8, num_heads=1, channelwise=channelwise)
    end = compare(rule, inputs, prefilled(rule, inputs), range(5, 8))
    assert end.position.tolist() == [1, 2]


@pytest.mark.parametrize(
    "name", ["yaad", "moneta", "memora", "mlp-huber-coordinate", "matrix-l2", "matrix-softmax-frozen"]
)
def test_many_tiles_and_heads(name, monkeypatch):
    """Heads wider than a slice of values, hidden widths of several tiles, three heads that share a position."""
    monkeypatch.setattr(kernel_module, "MLP_TILE", 1024)
    rule = RULES[name]
    inputs = step_inputs(rule, batch_size=1, seq_len=4, num_heads=3, head_dim=37, hidden_dim=41)
    start = call(miras_memory_reference, cut(inputs, 0, 2), rule, chunk_size=CHUNK)[1]
    assert compare(rule, inputs, start, range(2, 4)).position.tolist() == [1]


@pytest.mark.parametrize("name", ["yaad", "matrix-l2"])
def test_chunks_of_one_token(name):
    """Every token starts and ends its chunk."""
    rule = RULES[name]
    inputs = step_inputs(rule, seq_len=6, num_heads=1)
    start = replace(prefilled(rule, inputs, (3, 3)), chunk_size=1)
    end = compare(rule, inputs, start, range(4, 6))
    assert all(torch.equal(a, r) for a, r in zip(end.anchor, end.running, strict=True))


@pytest.mark.parametrize("which", ["log_decay", "step_size"])
def test_one_gate_per_channel(which):
    inputs = step_inputs(YAAD, seq_len=6, num_heads=1)
    per_channel = getattr(step_inputs(YAAD, seq_len=6, num_heads=1, channelwise=True, seed=1), which)
    inputs = inputs._replace(**{which: per_channel})
    compare(YAAD, inputs, prefilled(YAAD, inputs), range(5, 6))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", ["yaad", "moneta", "memora", "matrix-huber-norm"])
def test_prefill_and_decode_equal_prefill(name, backend):
    """At every position of a chunk, and from an untouched memory, whose tensors are expanded and shared."""
    rule = RULES[name]
    inputs = step_inputs(rule, batch_size=1, seq_len=5, num_heads=1)
    whole, end = call(miras_memory_reference, inputs, rule, chunk_size=CHUNK)
    for split in range(1, 5):
        start = call(miras_memory_reference, cut(inputs, 0, split), rule, chunk_size=CHUNK)[1]
        state = own(start)
        o = decode(miras_step, rule, inputs, state, range(split, 5), torch.float32, backend=backend)
        assert_close(o, whole[:, split:], rtol=RTOL, name=f"o after {split}")
        assert_close(state.running[0], end.running[0], rtol=RTOL, name=f"running after {split}")
        assert_close(state.anchor[0], end.anchor[0], rtol=RTOL, name=f"anchor after {split}")
        assert state.position.tolist() == [2]


@pytest.mark.parametrize("name", [n for n, r in RULES.items() if not r.momentum and n not in CLOSED_FORM])
def test_torch_path_serves_what_has_no_kernel(name):
    """Reads of link(A_t) and gradients at every token, in float64; "auto" takes the torch path by itself."""
    rule = RULES[name]
    inputs = step_inputs(rule, seq_len=8)
    start = prefilled(rule, inputs)
    states = own(start, torch.float64, "cpu"), own(start, torch.float64, "cpu")
    expected = decode(miras_step_reference, rule, inputs, states[0], range(5, 8), torch.float64, "cpu")
    o = decode(miras_step, rule, inputs, states[1], range(5, 8), torch.float64, "cpu")
    assert_close(o, expected, rtol=1e-9, name="o")
    for part, x in state_tensors(states[0]).items():
        assert_close(state_tensors(states[1])[part], x, rtol=1e-9, name=part)
    assert states[0].position.tolist() == states[1].position.tolist()
    with pytest.raises(ValueError, match="backend='triton' for miras_step: there is no kernel for (gradient_at|read)"):
        tokens, threshold = tokens_at(inputs, 7)
        miras_step(*tokens, rule=rule, state=states[1], threshold=threshold, backend="triton")


def _out_of_place(rule, inputs, t, position, anchor, running):
    tokens, threshold = tokens_at(inputs, t, torch.float32, DEVICE)
    kernel_rule = _kernel_rule(kernel_module, rule, running[0].shape[-1])
    return kernel_module.step(kernel_rule, CHUNK, position, *tokens, threshold, anchor, running)


@pytest.mark.parametrize("position", [[1, 1], [0, 0], [2, 2], [2, 1], [0, 2]])
@pytest.mark.parametrize("name", ["yaad", "matrix-lq-running"])
def test_out_of_place_leaves_the_old_state(name, position):
    """Bit for bit what the step in place computes, in fresh memory; the anchor is aliased where rows need no mix."""
    rule, position = RULES[name], torch.tensor(position)
    inputs = step_inputs(rule, seq_len=6, num_heads=2)
    start = own(prefilled(rule, inputs))
    for a, r in zip(start.anchor, start.running, strict=True):
        a[position.to(DEVICE) == 0] = r[position.to(DEVICE) == 0]
    state = own(replace(start, position=position))
    before = [x.clone() for x in (*start.anchor, *start.running, position)]
    o, running, anchor = _out_of_place(rule, inputs, 5, position, start.anchor, start.running)
    assert all(torch.equal(x, y) for x, y in zip(before, (*start.anchor, *start.running, position), strict=True))
    expected = decode(miras_step, rule, inputs, state, [5], torch.float32, backend="triton")
    assert torch.equal(o, expected)
    for mine, theirs in ((running, state.running), (anchor, state.anchor)):
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))
    if position.tolist() == [2, 2]:
        assert anchor is running
    if position.tolist() == [1, 1]:
        assert all(x.data_ptr() == y.data_ptr() for x, y in zip(anchor, start.anchor, strict=True))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", ["mlp-l2", "matrix-l2"])
def test_the_given_state_is_overwritten(name, backend):
    """The very tensors change: running at each step, the anchor at a chunk's end only; nothing is rebound."""
    rule = RULES[name]
    inputs = step_inputs(rule, seq_len=6, num_heads=1)
    given = prefilled(rule, inputs)
    before = [x.clone() for x in state_tensors(given).values()]
    state = own(given)
    anchor, running = state.anchor[0], state.running[0]
    old_anchor, old_running = anchor.clone(), running.clone()
    decode(miras_step, rule, inputs, state, [5], torch.float32, backend=backend)
    assert state.position.tolist() == [2, 0]
    assert state.anchor[0] is anchor and state.running[0] is running
    assert not torch.equal(running[0], old_running[0]) and not torch.equal(running[1], old_running[1])
    assert torch.equal(anchor[0], old_anchor[0]) and torch.equal(anchor[1], running[1])
    assert all(torch.equal(x, y) for x, y in zip(before, state_tensors(given).values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["yaad", "matrix-lp"])
def test_half_precision_inputs_keep_a_float32_state(name, dtype):
    """The error of the output is that of rounding it."""
    rule = RULES[name]
    inputs = step_inputs(rule, seq_len=7, num_heads=1)
    inputs = inputs._replace(**{k: x.to(dtype).double() for k, x in inputs._asdict().items() if k in "qkv"})
    start = prefilled(rule, inputs)
    exact, state = own(start, torch.float64, "cpu"), own(start)
    expected = decode(miras_step_reference, rule, inputs, exact, [5, 6], torch.float64, "cpu")
    outputs = []
    for t in (5, 6):
        tokens, threshold = tokens_at(inputs, t, torch.float32, DEVICE)
        tokens[:3] = [x.to(dtype) for x in tokens[:3]]
        outputs.append(miras_step(*tokens, rule=rule, state=state, threshold=threshold, backend="triton"))
    assert outputs[0].dtype == dtype and state.running[0].dtype == torch.float32
    assert relative_rms(torch.cat(outputs, 1), expected) < torch.finfo(dtype).eps
    assert_close(state.running[0], exact.running[0], rtol=RTOL, name="running")


def test_strided_tokens():
    """q, k and v as views of one projection."""
    inputs = step_inputs(YAAD, seq_len=6, num_heads=2)
    states = own(prefilled(YAAD, inputs)), own(prefilled(YAAD, inputs))
    tokens, threshold = tokens_at(inputs, 5, torch.float32, DEVICE)
    views = torch.stack(tokens[:3], 3).unbind(3)
    assert not views[0].is_contiguous()
    options = {"rule": YAAD, "threshold": threshold, "backend": "triton"}
    o = miras_step(*views, *tokens[3:], state=states[0], **options)
    assert torch.equal(o, miras_step(*tokens, state=states[1], **options))


BUGS = {
    "anchor not renewed at the chunk's end": ("(seen == C - 1)", "(seen == C)"),
    "anchor renewed at every token": ("(seen == C - 1)", "(seen >= 0)"),
    "position of a chunk's end": ("(seen + 1) % C", "seen + 1"),
    "position moved by the first head": ("== visitors - 1", "== 0"),
    "gradient at the running memory": ("seen == 0", "seen >= 0"),
    "read before the update": ("zq = tl.sum(a2 * q_, 1)", "zq = tl.sum(w2 * q_, 1)"),
    "decay left out": ("a2 = a2 * decay[None, :]", "a2 = a2"),
    "gelu' left out": ("gelu_slope(z, gate) * tl.sum", "tl.sum"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_noticed(bug, monkeypatch, tmp_path):
    old, new = BUGS[bug]
    source = inspect.getsource(_miras_step_kernels)
    assert old in source, f"the kernels no longer have {old!r}: update the planted bug"
    path = tmp_path / "mutant.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location("memarch_kernels._mutant", path)
    mutant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutant)
    monkeypatch.setattr(kernel_module, "mlp_step", mutant.mlp_step)
    rule = RULES["mlp-l2"]
    inputs = step_inputs(rule, seq_len=8, num_heads=2)
    with pytest.raises(AssertionError):
        compare(rule, inputs, prefilled(rule, inputs), range(5, 8))


def test_decoding_state_is_a_copy_of_its_own():
    """After an aligned prefill anchor and running are one tensor; before any token they are expanded weights."""
    inputs = step_inputs(YAAD, seq_len=4, dtype=torch.bfloat16, requires_grad=True)
    for tokens in (3, 4):
        state = call(miras_memory, cut(inputs, 0, tokens), YAAD, chunk_size=CHUNK)[1]
        own = decoding_state(state)
        spans = {x.untyped_storage().data_ptr() for x in state_tensors(own).values()}
        assert len(spans) == 4 and not spans & {x.untyped_storage().data_ptr() for x in state_tensors(state).values()}
        for part, x in state_tensors(own).items():
            assert torch.equal(x, state_tensors(state)[part]) and x.is_contiguous() and not x.requires_grad
        own.position.add_(1)
        assert state.position.tolist() == [tokens % CHUNK] * 2
    weights = tuple(w.detach().expand(2, *w.shape) for w in inputs.weights)
    empty = replace(state, anchor=weights, running=weights)
    assert {x.dtype for x in state_tensors(decoding_state(empty)).values()} == {torch.float32}
    double = state._map(torch.Tensor.double, state.position)
    assert {x.dtype for x in state_tensors(decoding_state(double)).values()} == {torch.float64}


def test_delta_rule_keeps_anchor_and_running_apart():
    """Its states hold one tensor twice; decoding needs two."""
    inputs = step_inputs(DELTANET, seq_len=6)
    state = own(prefilled(DELTANET, inputs), torch.float64, "cpu")
    decode(miras_step, DELTANET, inputs, state, [5], torch.float64, "cpu")
    assert torch.equal(state.anchor[0], state.running[0])
    assert state.anchor[0].data_ptr() != state.running[0].data_ptr()


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [48, 64, 96, 128])
@pytest.mark.parametrize("name", ["yaad", "moneta", "memora", "matrix-huber-mixture", "matrix-l2"])
def test_replayed_graph_matches_reference(name, head_dim):
    """2 C + 1 tokens through one captured step: the position moves on the device."""
    rule, times = RULES[name], range(5, 6 + 2 * CHUNK)
    sizes = {"head_dim": head_dim, "hidden_dim": 4 * head_dim, "num_heads": 5}
    inputs = step_inputs(rule, seq_len=times.stop, **sizes)
    start = prefilled(rule, inputs)
    exact, state, other = own(start, torch.float64, "cpu"), own(start), own(start)
    expected = decode(miras_step_reference, rule, inputs, exact, times, torch.float64, "cpu")
    tokens, threshold = tokens_at(inputs, 5, torch.float32, "cuda")
    options = {"rule": rule, "threshold": threshold, "backend": "triton"}
    miras_step(*tokens, state=other, **options)  # compile outside of the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o = miras_step(*tokens, state=state, **options)
    outputs = []
    for t in times:
        fresh, delta = tokens_at(inputs, t, torch.float32, "cuda")
        for buffer, x in zip((*tokens, threshold), (*fresh, delta), strict=True):
            if buffer is not None:
                buffer.copy_(x)
        graph.replay()
        outputs.append(o.clone())
    # What float32 costs the torch path here is 3e-5 for Memora, 1e-5 for the others.
    assert_same(torch.cat(outputs, 1), state, expected, exact, rtol=1e-4 if name == "memora" else 3e-5)


@pytest.mark.gpu
def test_bfloat16_on_the_gpu():
    inputs = step_inputs(YAAD, seq_len=9, head_dim=64, hidden_dim=256)
    inputs = inputs._replace(**{k: x.bfloat16().double() for k, x in inputs._asdict().items() if k in "qkv"})
    start = prefilled(YAAD, inputs)
    exact, state = own(start, torch.float64, "cpu"), own(start)
    expected = decode(miras_step_reference, YAAD, inputs, exact, range(5, 9), torch.float64, "cpu")
    outputs = []
    for t in range(5, 9):
        tokens, threshold = tokens_at(inputs, t, torch.float32, "cuda")
        tokens[:3] = [x.bfloat16() for x in tokens[:3]]
        outputs.append(miras_step(*tokens, rule=YAAD, state=state, threshold=threshold))
    assert relative_rms(torch.cat(outputs, 1), expected) < torch.finfo(torch.bfloat16).eps
    assert_close(state.running[0], exact.running[0], rtol=RTOL, name="running")
