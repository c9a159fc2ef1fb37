"""Calls shared by the tests of Miras decoding."""

from __future__ import annotations

import torch

from memarch.ops import decoding_state, miras_memory_reference, miras_step, miras_step_reference
from memarch.testing import assert_close, miras_inputs

from ._miras_cases import call, cut, state_tensors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHUNK = 3
RTOL = 1e-5


def step_inputs(rule, **sizes):
    """`miras_inputs` with accumulators of unit size, for links that make weights positive.

    Softmax or sigmoid of small logits is nearly constant, and LayerNorm then magnifies float32's rounding.
    """
    inputs = miras_inputs(rule, **sizes)
    if rule.link in ("identity", "lq", "pnorm_dual"):
        return inputs
    return inputs._replace(weights=tuple(w * w.shape[-1] ** 0.5 for w in inputs.weights))


def prefilled(rule, inputs, lengths=(4, 5)):
    """The state after `lengths` tokens of each sequence, packed: with chunks of 3, at unequal positions 1 and 2."""
    packed = {
        key: torch.cat([x[i, :n] for i, n in enumerate(lengths)]).unsqueeze(0)
        for key, x in inputs._asdict().items()
        if isinstance(x, torch.Tensor)
    }
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    return call(miras_memory_reference, inputs._replace(**packed), rule, chunk_size=CHUNK, cu_seqlens=bounds)[1]


def tokens_at(inputs, t, dtype=None, device="cpu"):
    """Arguments of a step: token t of every sequence."""
    x = cut(inputs, t, t + 1)
    tensors = [None if x is None else x.to(device=device, dtype=dtype or x.dtype) for x in (*x[:5], x.threshold)]
    return tensors[:5], tensors[5]


def own(state, dtype=torch.float32, device=DEVICE):
    """A decoding state in another precision."""
    return decoding_state(state._map(lambda x: x.to(device, dtype), state.position))


def decode(fn, rule, inputs, state, times, dtype, device=DEVICE, **options):
    """Outputs of the steps `times`, joined."""
    outputs = []
    for t in times:
        tokens, threshold = tokens_at(inputs, t, dtype, device)
        outputs.append(fn(*tokens, rule=rule, state=state, threshold=threshold, **options))
    return torch.cat(outputs, 1)


def compare(rule, inputs, start, times):
    """Kernel in float32 against the reference in float64: outputs, every tensor of the state, position."""
    exact, state = own(start, torch.float64, "cpu"), own(start)
    expected = decode(miras_step_reference, rule, inputs, exact, times, torch.float64, "cpu")
    o = decode(miras_step, rule, inputs, state, times, torch.float32, backend="triton")
    assert_same(o, state, expected, exact)
    return state


def assert_same(o, state, expected, exact, rtol=RTOL):
    """Outputs, every tensor of the state, position."""
    assert_close(o, expected, rtol=rtol, name="o")
    for part, x in state_tensors(exact).items():
        assert_close(state_tensors(state)[part], x, rtol=rtol, name=part)
    assert state.position.tolist() == exact.position.tolist()
