"""Decoding's bad input: what was expected, what came, what to do; the state stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memarch.ops import TITANS_LMM, YAAD, decoding_state, miras_step, miras_step_reference
from memarch_kernels import miras_step as kernel_module

from ._miras_cases import state_tensors
from ._miras_step_cases import DEVICE, own, prefilled, step_inputs, tokens_at


@pytest.fixture
def ready():
    """A rule, a state to decode with, and arguments of a step."""
    inputs = step_inputs(YAAD, seq_len=6)
    state = own(prefilled(YAAD, inputs), torch.float64, "cpu")
    tokens, threshold = tokens_at(inputs, 5)
    names = ("q", "k", "v", "log_decay", "step_size")
    return dict(zip(names, tokens, strict=True)) | {"rule": YAAD, "state": state, "threshold": threshold}


GATES = ("log_decay", "step_size", "threshold")
BAD = {
    "tokens": (
        lambda a: {k: a[k].repeat(1, 2, *[1] * (a[k].dim() - 2)) for k in ("q", "k", "v", *GATES)},
        r"one token per sequence, q \[B, 1, H, D\]; got \[2, 2, 3, 7\]: prefill with miras_memory",
    ),
    "shape": (lambda a: {"k": a["k"][..., :3]}, r"k must have q's shape .*; got \[2, 1, 3, 3\]"),
    "dtype": (lambda a: {"v": a["v"].long()}, r"v must have a floating-point dtype; got torch.int64"),
    "sign": (lambda a: {"step_size": -a["step_size"]}, r"step_size must be finite and >= 0; got values from -"),
    "threshold": (lambda a: {"threshold": None}, r"bias='huber' \(mixture\) needs threshold"),
    "batch": (lambda a: {"state": decoding_state(a["state"].select([0]))}, r"state holds 1 sequences, the call has 2"),
    "state": (lambda a: {"state": None}, r"state must be a MirasState, see decoding_state; got NoneType"),
    "rule": (lambda a: {"rule": "yaad"}, r"rule must be a MirasRule such as memarch.ops.YAAD; got 'yaad'"),
    "other rule": (lambda a: {"rule": YAAD.replace(huber="norm")}, r"state was written under another rule"),
    "momentum": (lambda a: {"rule": TITANS_LMM}, r"no momentum, but the rule has momentum=True; use miras_memory"),
    "shared": (
        lambda a: {"state": replace(a["state"], anchor=a["state"].running)},
        r"anchor and running share memory.*call decoding_state\(state\)",
    ),
    "expanded": (
        lambda a: {"state": replace(a["state"], anchor=tuple(x[:1].expand(x.shape) for x in a["state"].anchor))},
        r"expanded or non-contiguous tensors.*call decoding_state\(state\)",
    ),
    "position elsewhere": (
        lambda a: {"state": replace(a["state"], position=a["state"].position.to("meta"))},
        r"position must be on the memory's device cpu; got meta: call decoding_state\(state\)",
    ),
    "position type": (
        lambda a: {"state": replace(a["state"], position=a["state"].position.int())},
        r"state.position must be \[2\] int64; got \[2\] torch.int32",
    ),
    "backend": (lambda a: {"backend": "cuda"}, r"backend must be one of 'auto', 'torch', 'triton'; got 'cuda'"),
    "no kernel": (
        lambda a: {"backend": "triton"},
        r"backend='triton' for miras_step: the kernels take .* torch.float64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_changes_nothing(case, ready):
    change, message = BAD[case]
    before = [x.clone() for x in state_tensors(ready["state"]).values()]
    with pytest.raises(ValueError, match=message):
        miras_step(**(ready | change(ready)))
    assert all(torch.equal(x, y) for x, y in zip(before, state_tensors(ready["state"]).values(), strict=True))
    assert ready["state"].position.tolist() == [1, 2]
    if "backend" not in message:
        with pytest.raises(ValueError, match=message):
            miras_step_reference(**(ready | change(ready)))


@pytest.mark.parametrize("name", ["k", "step_size", "threshold", "state"])
def test_decoding_has_no_gradient(name, ready):
    leaf = ready["state"].running[0] if name == "state" else ready[name]
    leaf.requires_grad_()
    with pytest.raises(ValueError, match=f"{name} requires grad, but decoding has no gradient; use miras_memory"):
        miras_step(**ready)
    with torch.no_grad():
        assert not miras_step(**ready).requires_grad


def test_kernel_refuses_what_it_cannot_hold(monkeypatch):
    """Wide heads, other precisions, and a CPU without the interpreter."""
    inputs = step_inputs(YAAD, seq_len=6)
    start = prefilled(YAAD, inputs)
    tokens, threshold = tokens_at(inputs, 5, torch.float32, DEVICE)
    options = {"rule": YAAD, "threshold": threshold, "backend": "triton"}
    double, single = own(start, torch.float64), own(start)
    with pytest.raises(ValueError, match="the kernels take a float32 state, not torch.float64"):
        miras_step(*tokens, state=double, **options)
    with pytest.raises(ValueError, match="the state mixes torch.float32 and torch.float64"):
        miras_step(*tokens, state=replace(double, anchor=single.anchor), **options)
    with pytest.raises(ValueError, match="the kernels take float32, bfloat16 and float16, not torch.float64"):
        miras_step(*(x.double() for x in tokens), state=single, **options)
    wide, memory = (torch.empty(1, 1, 1, n, device=DEVICE) for n in (129, 1))
    assert kernel_module.unsupported(wide[..., :128], memory) == ""
    assert "head widths up to 128; got 129" in kernel_module.unsupported(wide, memory)
    monkeypatch.setattr(kernel_module, "INTERPRETED", False)
    assert "q is on cpu: the kernels need CUDA tensors" in kernel_module.unsupported(wide.cpu(), memory)
