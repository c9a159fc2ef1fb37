"""Calls of the Triton kernels and what they are compared with: shared by the kernels' tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memarch.ops import MirasRule, miras_memory, miras_memory_reference
from memarch.testing import MirasInputs, miras_inputs, relative_rms

from ._miras_cases import call, cut, leaves, loss_of, state_tensors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Compiled where there is a GPU, in Triton's interpreter elsewhere: the same tests."""

OVERFLOW = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
"""A sigmoid of a very negative number is 1 / (1 + inf) = 0, as meant; numpy, which interprets it, warns."""

FACTOR, FLOOR = 12.0, 2e-5
"""Errors against the float64 reference may be this multiple of the torch path's at the same dtype, or this small.

The interpreter multiplies with numpy, whose rounding depends on the processor: over OpenBLAS's and numpy's paths
(Haswell, SkylakeX, neither of their vector units) the same gradients are off by 4e-7 to 5e-5.
"""


def to_device(inputs: MirasInputs, dtype: torch.dtype, *, requires_grad: bool) -> MirasInputs:
    """The same numbers on DEVICE: q, k, v in `dtype`, gates and weights in float32."""

    def leaf(x: Tensor, kind: torch.dtype = torch.float32) -> Tensor:
        return x.detach().to(DEVICE, kind).requires_grad_(requires_grad)

    named = {
        name: leaf(x, dtype if name in ("q", "k", "v") else torch.float32)
        for name, x in inputs._asdict().items()
        if isinstance(x, Tensor)
    }
    return inputs._replace(weights=tuple(leaf(w) for w in inputs.weights), **named)


def results(fn, inputs: MirasInputs, rule: MirasRule, *, cut_at: int | None, grad: bool = True, **options) -> dict:
    """Outputs, final state and every gradient by name; with `cut_at`, of two calls joined by the state."""
    state, outputs = None, []
    total = inputs.q.shape[1]
    for start, end in [(0, total)] if cut_at is None else [(0, cut_at), (cut_at, total)]:
        o, state = call(fn, cut(inputs, start, end), rule, state=state, **options)
        outputs.append(o)
    found = {"o": torch.cat(outputs, 1), **state_tensors(state)}
    if grad:
        named = leaves(inputs)
        loss = loss_of(found["o"].double().cpu(), _on_cpu(state))
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for (name, x), g in zip(named.items(), grads, strict=True):
            found[f"d {name}"] = torch.zeros_like(x) if g is None else g
    return found


def _on_cpu(state):
    return state._map(lambda x: x.double().cpu(), state.position)


def check_against_reference(
    rule: MirasRule,
    *,
    dtype: torch.dtype = torch.float32,
    cut_at: int | None = None,
    grad: bool = True,
    factor: float = FACTOR,
    floor: float = FLOOR,
    chunk_size: int = 4,
    cu_seqlens: Tensor | None = None,
    **sizes,
) -> None:
    """Outputs, states and gradients of the kernels against the float64 reference, beside the torch path's own error."""
    exact = miras_inputs(rule, requires_grad=grad, **sizes)
    options = {"cut_at": cut_at, "grad": grad, "chunk_size": chunk_size, "cu_seqlens": cu_seqlens}
    expected = results(miras_memory_reference, exact, rule, **options)
    given = to_device(exact, dtype, requires_grad=grad)
    ours = results(miras_memory, given, rule, backend="triton", **options)
    torchs = results(miras_memory, given, rule, backend="torch", **options)
    wrong = []
    for name, want in expected.items():
        error, usual = relative_rms(ours[name], want), relative_rms(torchs[name], want)
        if not error <= factor * usual + floor:
            wrong.append(f"{name}: {error:.2e}, torch path {usual:.2e}")
    assert not wrong, "; ".join(wrong)
