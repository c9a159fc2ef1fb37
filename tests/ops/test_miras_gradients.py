"""The closed-form backward: finite differences, and planted bugs that the comparison has to notice."""

from __future__ import annotations

import inspect
import types

import pytest
import torch

from memarch.ops import (
    MirasRule,
    MirasState,
    _miras_chunk,
    _miras_chunk_backward,
    _miras_general,
    _miras_grid,
    _miras_math,
    miras,
    miras_memory,
    miras_memory_reference,
)
from memarch.testing import assert_close, miras_inputs

from ._miras_cases import CLOSED_FORM, RULES, call, gradients, state_tensors, worst_gradient_error

SMOOTH = [
    name
    for name in CLOSED_FORM
    # A loss with a kink has no finite differences there; lp's slope is near-singular at e = 0 when p < 2.
    if not any(kink in name for kink in ("mixture", "coordinate", "norm", "soft_threshold", "chi", "yaad", "lq5"))
] + ["mlp-pnorm_dual-frozen", "matrix-pnorm_dual-frozen"]


@pytest.mark.parametrize("channelwise", [False, True], ids=["head", "channel"])
@pytest.mark.parametrize("name", SMOOTH)
def test_gradcheck(name, channelwise):
    """Finite differences for every input, the initial state (anchor and running apart) and the final state."""
    rule = RULES[name]
    inputs = miras_inputs(
        rule,
        batch_size=1,
        seq_len=5,
        num_heads=1,
        head_dim=3,
        hidden_dim=4,
        channelwise=channelwise,
        requires_grad=True,
    )
    _, middle = call(
        miras_memory,
        miras_inputs(rule, batch_size=1, seq_len=2, num_heads=1, head_dim=3, hidden_dim=4),
        rule,
        chunk_size=3,
    )
    num = rule.num_weights
    start = [x.detach().clone().requires_grad_() for x in (*middle.anchor, *middle.running)]

    def run(q, k, v, log_decay, step_size, threshold, *state):
        given = MirasState(rule, 3, state[:num], state[num:], None, middle.position)
        o, end = miras_memory(
            q,
            k,
            v,
            log_decay,
            step_size,
            rule=rule,
            weights=inputs.weights,
            threshold=threshold,
            chunk_size=3,
            state=given,
        )
        return (o, *state_tensors(end).values())

    assert torch.autograd.gradcheck(run, (*inputs[:5], inputs.threshold, *start), eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["yaad", "moneta", "mlp-softmax-frozen", "matrix-softmax-exact", "delta"])
def test_gradient_of_the_learned_initial_memory(name):
    rule = RULES[name]
    inputs = miras_inputs(rule, seq_len=7, requires_grad=True)
    actual = gradients(miras_memory, inputs, rule, chunk_size=3)
    expected = gradients(miras_memory_reference, inputs, rule, chunk_size=3)
    for i in range(rule.num_weights):
        assert expected[f"weights[{i}]"].norm() > 1e-3
        assert_close(actual[f"weights[{i}]"], expected[f"weights[{i}]"], rtol=1e-9, name=f"dweights[{i}]")


BUGS = {
    "LN's second-order term through the mean of g y_hat": (
        _miras_chunk_backward,
        "du * (m.g * m.y_hat).mean(-1, keepdim=True)",
        "0 * du",
        "yaad",
    ),
    "LN's second-order term through the standard deviation": (
        _miras_chunk_backward,
        "- d_log_std * m.rstd * m.y_hat",
        "",
        "yaad",
    ),
    "gelu''": (_miras_chunk_backward, ".mul_(fn.gelu_curvature(m.z, m.gate))", ".mul_(0)", "mlp-l2"),
    "inner error reaches the keys": (_miras_chunk_backward, "dy_hat += de", "pass", "mlp-l2"),
    "norm path of Moneta's link": (
        _miras_math,
        "- (rule.q - 2) * norm ** (2 - 2 * rule.q) * dscale_total * power",
        "",
        "moneta",
    ),
    "scale of the running read": (
        _miras_chunk_backward,
        "dscale[1] = (dn2 * n2)",
        "dscale[1] = 0 * (dn2 * n2)",
        "moneta",
    ),
    "mass term of the softmax": (_miras_math, "(w * dw).sum(axis, keepdim=True) / mass", "0", "mlp-softmax-frozen"),
    "delta of the Huber loss": (
        _miras_math,
        "return de, _sum_to(delta, sign * dg * outside)",
        "return de, 0 * delta",
        "yaad",
    ),
    "decay of the state's gradient": (_miras_chunk_backward, "g * last.unsqueeze(2) for g", "g for g", "mlp-l2"),
    "last anchor's gradient": (
        _miras_chunk_backward,
        "d_start[ended:] += d_last_anchor[i][ended:n]",
        "pass",
        "mlp-l2",
    ),
}
FORWARD_BUGS = {
    "D transposed": (
        _miras_grid,
        "total.unsqueeze(-1) - total.unsqueeze(-2)",
        "total.unsqueeze(-2) - total.unsqueeze(-1)",
    ),
    "last eta for every token": (_miras_grid, "* step_size.unsqueeze(-2)", "* step_size[..., -1:].unsqueeze(-2)"),
    "own token not read": (_miras_grid, "device=like.device).tril()", "device=like.device).tril(-1)"),
    "key of the chunk's start forgotten": (_miras_chunk, "w1 = anchor[0] if", "w1 = running[0] if"),
    "write weight left out": (_miras_chunk, "(m.u * c.write).mT", "m.u.mT"),
}


def _mutated(module: types.ModuleType, old: str, new: str) -> dict:
    """Namespace of `module` compiled with one change; the change must be there to make."""
    source = inspect.getsource(module)
    assert source.count(old) >= 1, f"{module.__name__} no longer has {old!r}: update the planted bug"
    mutant = types.ModuleType(module.__name__)
    mutant.__package__, mutant.__file__ = module.__package__, module.__file__
    exec(compile(source.replace(old, new), str(module.__file__), "exec"), mutant.__dict__)
    return mutant.__dict__


def _plant(monkeypatch, module: types.ModuleType, old: str, new: str) -> None:
    """Put the mutant's functions everywhere the operator took the originals from."""
    for key, value in _mutated(module, old, new).items():
        if inspect.isfunction(value) or inspect.isclass(value):
            original = getattr(module, key, None)
            if getattr(original, "__module__", None) != module.__name__:
                continue
            for user in (module, miras, _miras_chunk, _miras_chunk_backward, _miras_general):
                if getattr(user, key, None) is original:
                    monkeypatch.setattr(user, key, value)


@pytest.mark.parametrize("bug", BUGS)
def test_planted_backward_bug_is_noticed(bug, monkeypatch):
    module, old, new, name = BUGS[bug]
    rule = RULES[name]
    inputs = miras_inputs(rule, seq_len=10, requires_grad=True)
    expected = gradients(miras_memory_reference, inputs, rule, chunk_size=4)
    assert worst_gradient_error(gradients(miras_memory, inputs, rule, chunk_size=4), expected) < 1e-9
    _plant(monkeypatch, module, old, new)
    assert worst_gradient_error(gradients(miras_memory, inputs, rule, chunk_size=4), expected) > 1e-3


@pytest.mark.parametrize("bug", FORWARD_BUGS)
def test_planted_forward_bug_is_noticed(bug, monkeypatch):
    rule = RULES["mlp-l2"]
    inputs = miras_inputs(rule, seq_len=10)
    _, start = call(miras_memory_reference, miras_inputs(rule, seq_len=2, seed=1), rule, chunk_size=4)
    expected, _ = call(miras_memory_reference, inputs, rule, chunk_size=4, state=start)
    o, _ = call(miras_memory, inputs, rule, chunk_size=4, state=start)
    assert_close(o, expected, rtol=1e-9, name="o")
    _plant(monkeypatch, *FORWARD_BUGS[bug])
    broken, _ = call(miras_memory, inputs, rule, chunk_size=4, state=start)
    with pytest.raises(AssertionError, match="o: relative RMS error|NaN"):
        assert_close(broken, expected, rtol=1e-3, name="o")


def test_second_order_is_refused_not_wrong():
    """The backward is not differentiable again: asking for it must fail loudly."""
    inputs = miras_inputs(MirasRule(memory="matrix"), seq_len=4, requires_grad=True)
    o, _ = call(miras_memory, inputs, MirasRule(memory="matrix"), chunk_size=2)
    with pytest.raises(RuntimeError, match="first derivatives only.*miras_memory_reference"):
        torch.autograd.grad(o.sum(), inputs.k, create_graph=True)
