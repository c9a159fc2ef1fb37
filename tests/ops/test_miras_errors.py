"""Bad input: what was expected, what came, what to do; and nothing computed before the check."""

from __future__ import annotations

import pytest
import torch

from memarch.ops import DELTANET, MONETA, TITANS_LMM, YAAD, MirasRule, miras_memory, miras_memory_reference
from memarch.testing import assert_close, miras_inputs

from ._miras_cases import call

SHAPE = r"\[2, 5, 3, 7\]"


def _with(x: torch.Tensor, value: float) -> torch.Tensor:
    x = x.clone()
    x[0, 1, 2] = value
    return x


# name of the input, its bad value, what the message must say
BAD_INPUTS = {
    "q not 4-d": ("q", lambda i: i.q[0], r"q must have shape \[B, T, H, D\]; got \[5, 3, 7\]"),
    "q integer": ("q", lambda i: i.q.long(), r"q must have a floating-point dtype; got torch.int64"),
    "q a list": ("q", lambda i: [1.0], r"q must be a tensor; got list"),
    "k shape": ("k", lambda i: i.k[:, :4], rf"k must have q's shape \[B, T, H, D\] = {SHAPE}; got \[2, 4, 3, 7\]"),
    "v dtype": ("v", lambda i: i.v.float(), r"v must have q's dtype torch.float64; got torch.float32"),
    "v device": ("v", lambda i: i.v.to("meta"), r"v must be on q's device cpu; got meta: move it"),
    "decay shape": (
        "log_decay",
        lambda i: i.log_decay[..., :2],
        rf"log_decay must have shape \[B, T, H\] = \[2, 5, 3\] or, per channel, {SHAPE}; got \[2, 5, 2\]",
    ),
    "positive decay": (
        "log_decay",
        lambda i: _with(i.log_decay, 0.5),
        r"log_decay .* finite and <= 0; got values from .* to 0.5: pass logsigmoid",
    ),
    "infinite decay": ("log_decay", lambda i: _with(i.log_decay, -float("inf")), r"got values from -inf .* about -80"),
    "decay NaN": ("log_decay", lambda i: _with(i.log_decay, float("nan")), r"log_decay .* finite and <= 0; got .*nan"),
    "step shape": ("step_size", lambda i: i.step_size[0], r"step_size must have shape .*; got \[5, 3\]"),
    "negative step": ("step_size", lambda i: _with(i.step_size, -0.25), r"step_size must be finite and >= 0; .* -0.25"),
    "threshold missing": ("threshold", lambda i: None, r"bias='huber' \(mixture\) needs threshold .*; got None"),
    "threshold shape": (
        "threshold",
        lambda i: torch.ones_like(i.q),
        rf"threshold must have shape \[B, T, H\] = \[2, 5, 3\]; got {SHAPE}",
    ),
    "negative threshold": ("threshold", lambda i: _with(i.threshold, -1.0), r"threshold must be finite and >= 0"),
    "momentum unwanted": ("log_momentum", lambda i: i.log_decay, r"momentum=False; pass log_momentum=None"),
    "weights missing": ("weights", lambda i: i.weights[:1], r"memory='mlp' takes weights = \(W1 .*\); got 1 of them"),
    "weights not a tuple": ("weights", lambda i: i.weights[0], r"takes weights = .*; got Tensor"),
    "weights shape": (
        "weights",
        lambda i: (i.weights[0], i.weights[1].mT),
        r"weights must be .* H = 3, D = 7; got \[\[3, 7, 11\], \[3, 7, 11\]\]",
    ),
    "weights dtype": ("weights", lambda i: tuple(w.long() for w in i.weights), r"weights\[0\] must have a floating"),
}


@pytest.mark.parametrize("fn", [miras_memory, miras_memory_reference])
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input(case, fn):
    name, bad, message = BAD_INPUTS[case]
    inputs = miras_inputs(YAAD, seq_len=5)
    with pytest.raises(ValueError, match=message):
        call(fn, inputs._replace(**{name: bad(inputs)}), YAAD)


@pytest.mark.parametrize("tokens,batch", [(0, 2), (5, 0)])
def test_empty_sequences(tokens, batch):
    inputs = miras_inputs(YAAD, seq_len=5)
    empty = {k: x[:batch, :tokens] for k, x in inputs._asdict().items() if isinstance(x, torch.Tensor)}
    with pytest.raises(ValueError, match="must not be empty"):
        call(miras_memory, inputs._replace(**empty), YAAD)


@pytest.mark.parametrize("chunk_size", [0, -3, 2.0, True, None])
def test_chunk_size(chunk_size):
    with pytest.raises(ValueError, match=f"chunk_size must be an integer of at least 1; got {chunk_size}"):
        call(miras_memory, miras_inputs(YAAD, seq_len=5), YAAD, chunk_size=chunk_size)


BAD_RULES = {
    r"memory must be one of 'mlp', 'matrix'; got 'vector'": {"memory": "vector"},
    r"bias must be one of 'l2', .*; got 'L2'": {"bias": "L2"},
    r"link must be one of .*; got 'kl'": {"link": "kl"},
    r"huber must be one of .*; got 'hard'": {"huber": "hard"},
    r"divergence must be one of .*; got 'js'": {"divergence": "js"},
    r"read must be one of .*; got 'lag'": {"read": "lag"},
    r"p must be at least 1 .*; got 0.5": {"p": 0.5},
    r"p must be at least 1 .*; got nan": {"p": float("nan")},
    r"q must be at least 2 .*; got 1.5": {"q": 1.5},
    r"scale, .* must be positive or None; got 0": {"scale": 0},
    r"shrinkage must not be negative; got -1": {"shrinkage": -1},
    r"read='running' needs a link that only scales .*; got link='softmax'": {"link": "softmax", "read": "running"},
    r"gradient_at='token' .* read='frozen' contradicts": {"gradient_at": "token", "read": "frozen"},
}


@pytest.mark.parametrize("message", BAD_RULES)
def test_bad_rule(message):
    with pytest.raises(ValueError, match=message):
        MirasRule(**BAD_RULES[message])


def test_misspelt_option_is_an_error():
    with pytest.raises(TypeError, match="memmory"):
        MirasRule(memmory="mlp")


def test_rule_of_another_type():
    with pytest.raises(ValueError, match="rule must be a MirasRule such as memarch.ops.YAAD; got 'yaad'"):
        call(miras_memory, miras_inputs(YAAD, seq_len=5), "yaad")


def test_momentum_gate_missing():
    inputs = miras_inputs(TITANS_LMM, seq_len=5)
    with pytest.raises(ValueError, match=r"momentum=True needs log_momentum \[B, T, H\].*; got None"):
        call(miras_memory, inputs._replace(log_momentum=None), TITANS_LMM)


def test_threshold_without_huber():
    inputs = miras_inputs(YAAD, seq_len=5)
    with pytest.raises(ValueError, match="threshold is the delta of bias='huber', but bias='l2'"):
        call(miras_memory, inputs, MirasRule())


def test_singular_moneta_start():
    inputs = miras_inputs(MONETA, seq_len=5)
    zero_head = inputs.weights[1].clone()
    zero_head[1] = 0
    with pytest.raises(ValueError, match=r"divides by \|A\|_q: weights\[1\] must not be all zero"):
        call(miras_memory, inputs._replace(weights=(inputs.weights[0], zero_head)), MONETA)


BOUNDARIES = {
    "list": ([0, 5], r"cu_seqlens must be a 1-d int32 or int64 tensor"),
    "float": (torch.tensor([0.0, 5.0]), r"cu_seqlens must be a 1-d int32 or int64 tensor"),
    "short": (torch.tensor([0, 4]), r"must run from 0 to T = 5; got \[0, 4\]"),
    "late": (torch.tensor([1, 5]), r"must run from 0 to T = 5; got \[1, 5\]"),
    "empty": (torch.tensor([0, 3, 3, 5]), r"an empty sequence cannot be packed; got \[0, 3, 3, 5\]"),
}


@pytest.mark.parametrize("case", BOUNDARIES)
def test_bad_boundaries(case):
    bounds, message = BOUNDARIES[case]
    with pytest.raises(ValueError, match=message):
        call(miras_memory, miras_inputs(YAAD, batch_size=1, seq_len=5), YAAD, cu_seqlens=bounds)


def test_boundaries_need_one_row():
    with pytest.raises(ValueError, match=r"q must be \[1, T, H, D\]; got \[2, 5, 3, 7\]"):
        call(miras_memory, miras_inputs(YAAD, seq_len=5), YAAD, cu_seqlens=torch.tensor([0, 5]))


def test_state_of_another_rule_batch_chunk_or_shape():
    inputs = miras_inputs(YAAD, seq_len=5)
    _, state = call(miras_memory, inputs, YAAD, chunk_size=4)
    plain = inputs._replace(threshold=None)
    with pytest.raises(ValueError, match="state was written under another rule: .*huber.*; this call has .*'l2'"):
        call(miras_memory, plain, MirasRule(), chunk_size=4, state=state)
    with pytest.raises(ValueError, match="state was written with chunk_size=4; got chunk_size=8"):
        call(miras_memory, inputs, YAAD, chunk_size=8, state=state)
    with pytest.raises(ValueError, match=r"state holds 1 sequences, the call has 2; select rows with state.select"):
        call(miras_memory, inputs, YAAD, chunk_size=4, state=state.select([0]))
    with pytest.raises(ValueError, match=r"state tensors must be \[N, \*weights\]"):
        call(miras_memory, miras_inputs(YAAD, seq_len=5, hidden_dim=5), YAAD, chunk_size=4, state=state)
    with pytest.raises(ValueError, match="state must be the MirasState of an earlier call or None; got tuple"):
        call(miras_memory, inputs, YAAD, chunk_size=4, state=state.running)
    with pytest.raises(ValueError, match="cannot join memories"):
        state.concat(call(miras_memory, inputs, YAAD, chunk_size=8)[1])


def test_token_gradients_without_a_chunk_form():
    rule = MirasRule(gradient_at="token")
    inputs = miras_inputs(rule, seq_len=5)
    with pytest.raises(ValueError, match="use gradient_at='chunk' with chunk_size=1"):
        call(miras_memory, inputs, rule)
    same, _ = call(miras_memory, inputs, MirasRule(), chunk_size=1)
    assert_close(same, call(miras_memory_reference, inputs, rule)[0], rtol=1e-9, name="the advice")


def test_delta_rule_refuses_a_decay_it_cannot_factor():
    inputs = miras_inputs(DELTANET, seq_len=5, channelwise=True, dtype=torch.float32)
    inputs.log_decay[:] = -40
    with pytest.raises(ValueError, match="falls by more than the range of torch.float32 within chunk_size=16"):
        call(miras_memory, inputs, DELTANET)
    o, _ = call(miras_memory, inputs, DELTANET, chunk_size=1)
    assert torch.isfinite(o).all()
