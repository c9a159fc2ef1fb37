"""Rules and calls shared by the Miras tests."""

from __future__ import annotations

import torch
from torch import Tensor

from memarch.ops import DELTANET, MEMORA, MONETA, YAAD, MirasRule, MirasState
from memarch.testing import MirasInputs, relative_rms


def _rules() -> dict[str, MirasRule]:
    rules = {"moneta": MONETA, "yaad": YAAD, "memora": MEMORA, "delta": DELTANET}
    for memory in ("mlp", "matrix"):
        for bias in ("l2", "lp", "dot"):
            rules[f"{memory}-{bias}"] = MirasRule(memory=memory, bias=bias)
        for huber in ("mixture", "coordinate", "norm", "pseudo"):
            rules[f"{memory}-huber-{huber}"] = MirasRule(memory=memory, bias="huber", huber=huber)
        for link in ("lq", "pnorm_dual", "softmax", "soft_threshold", "sigmoid", "f_divergence"):
            for read in ("running", "frozen", "exact"):
                if read != "running" or link == "lq":
                    rules[f"{memory}-{link}-{read}"] = MirasRule(memory=memory, link=link, read=read, shrinkage=0.05)
        chi = MirasRule(memory=memory, link="f_divergence", divergence="chi_square", read="frozen")
        rules[f"{memory}-chi-square"] = chi
        rules[f"{memory}-frozen"] = MirasRule(memory=memory, read="frozen")
        rules[f"{memory}-lp-lq5"] = MirasRule(memory=memory, bias="lp", p=1.5, link="lq", q=5.0)
        rules[f"{memory}-softmax-scale"] = MirasRule(memory=memory, link="softmax", scale=2.5, read="frozen")
        rules[f"{memory}-momentum"] = MirasRule(memory=memory, momentum=True)
        rules[f"{memory}-momentum-frozen"] = MirasRule(memory=memory, momentum=True, link="softmax", read="frozen")
    return rules


RULES = _rules()
CLOSED_FORM = [
    name
    for name, rule in RULES.items()
    if not rule.momentum and rule.read_mode != "exact" and rule.gradient_at == "chunk"
]
"""Rules whose backward is our own."""


def call(fn, inputs: MirasInputs, rule: MirasRule, **options) -> tuple[Tensor, MirasState]:
    """`fn` (miras_memory or its reference) on `inputs`."""
    named = {name: x for name, x in inputs._asdict().items() if name not in ("q", "k", "v", "log_decay", "step_size")}
    return fn(*inputs[:5], rule=rule, **named, **options)


def leaves(inputs: MirasInputs) -> dict[str, Tensor]:
    """Tensors that gradients are compared for, by name."""
    named = {k: x for k, x in inputs._asdict().items() if isinstance(x, Tensor)}
    return named | {f"weights[{i}]": w for i, w in enumerate(inputs.weights)}


def state_tensors(state: MirasState) -> dict[str, Tensor]:
    """Tensors of a state, by name."""
    parts = {"anchor": state.anchor, "running": state.running, "momentum": state.momentum or ()}
    return {f"{name}[{i}]": x for name, xs in parts.items() for i, x in enumerate(xs)}


def loss_of(o: Tensor, state: MirasState | None = None) -> Tensor:
    """A scalar that reads every output, and the final state, with fixed random weights."""
    g = torch.Generator().manual_seed(1)
    outputs = [o, *(state_tensors(state).values() if state is not None else ())]
    return sum((x * torch.randn(x.shape, generator=g, dtype=torch.float64)).sum() for x in outputs)


def gradients(fn, inputs: MirasInputs, rule: MirasRule, **options) -> dict[str, Tensor]:
    """Gradients of `loss_of` by name; zeros where an input has no influence."""
    o, state = call(fn, inputs, rule, **options)
    named = leaves(inputs)
    grads = torch.autograd.grad(loss_of(o, state), list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(named[name]) if g is None else g for name, g in zip(named, grads, strict=True)}


def worst_gradient_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative RMS error over all inputs."""
    return max(relative_rms(actual[name], expected[name]) for name in expected)


def cut(inputs: MirasInputs, start: int, end: int) -> MirasInputs:
    """Tokens start to end of every sequence."""
    return inputs._replace(**{k: x[:, start:end] for k, x in inputs._asdict().items() if isinstance(x, Tensor)})
