"""What every layer called as `y, state = layer(x, state, reset=reset)` must do: shared by their tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

B, T = 3, 23


def steps(d_model: int, seed: int, reset_rate: float) -> tuple[Tensor, Tensor]:
    """x `[B, T, d_model]` float64 and reset `[B, T]`; row 0 has resets at the first step, in a row and at the last."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, T, d_model, generator=g, dtype=torch.float64)
    reset = torch.rand(B, T, generator=g) < reset_rate
    if reset_rate:
        reset[0, [0, 5, 6, T - 1]] = True
    return x, reset


def in_pieces(layer: nn.Module, x: Tensor, reset: Tensor | None, cuts: list[int]):
    """Output and last state of the window cut at `cuts`, the state carried over."""
    state, parts = None, []
    for first, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        y, state = layer(x[:, first:end], state, reset=None if reset is None else reset[:, first:end])
        parts.append(y)
    return torch.cat(parts, 1), state


def check_act_equals_learn(layer: nn.Module, d_model: int, rtol: float = 1e-10) -> None:
    """Step by step and cut at random places equal the whole window, also going on from the states."""
    for seed, rate in enumerate((0.0, 0.08, 0.3)):
        x, reset = steps(d_model, seed, rate)
        random_cuts = sorted(torch.randperm(T - 1, generator=torch.Generator().manual_seed(seed))[:4].add(1).tolist())
        with torch.no_grad():
            whole, end = layer(x, reset=reset)
            after, _ = layer(x.flip(1), end, reset=reset.flip(1))
            for cuts in (list(range(1, T)), random_cuts):
                y, state = in_pieces(layer, x, reset, cuts)
                torch.testing.assert_close(y, whole, rtol=rtol, atol=rtol)
                again, _ = layer(x.flip(1), state, reset=reset.flip(1))
                torch.testing.assert_close(again, after, rtol=rtol, atol=rtol)


def check_reset_forgets(layer: nn.Module, d_model: int) -> None:
    """After a reset the outputs are those of a fresh sequence, and no gradient crosses it."""
    x, _ = steps(d_model, 7, 0.0)
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[1, 9] = True
    x.requires_grad_()
    y, _ = layer(x, reset=reset)
    fresh, _ = layer(x[1:2, 9:])
    torch.testing.assert_close(y[1, 9:], fresh[0], rtol=1e-10, atol=1e-10)
    assert torch.autograd.grad(y[1, 9:].sum(), x, retain_graph=True)[0][1, :9].abs().sum() == 0
    with torch.no_grad():
        kept, _ = layer(x)
    assert not torch.allclose(kept[1, 9:], y[1, 9:]) and torch.allclose(kept[[0, 2]], y[[0, 2]])


def check_causal(layer: nn.Module, d_model: int) -> None:
    """A later step changes no earlier output."""
    x, reset = steps(d_model, 3, 0.08)
    changed = x.clone()
    changed[:, 11:] += 1
    with torch.no_grad():
        y, other = layer(x, reset=reset)[0], layer(changed, reset=reset)[0]
    torch.testing.assert_close(y[:, :11], other[:, :11], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(y[:, 11], other[:, 11])


def check_errors(layer: nn.Module, d_model: int) -> None:
    """Wrong x, reset and state: ValueError with the user's value."""
    x, reset = steps(d_model, 0, 0.1)
    _, state = layer(x)
    for arguments, options, message in (
        ((x[0],), {}, f"x must be [B, T, d_model={d_model}] with steps in it; got [{T}, {d_model}]"),
        ((x[:, :0],), {}, f"got [{B}, 0, {d_model}]"),
        ((x,), {"reset": reset[:, :5]}, f"reset must be bool [B, T] = [{B}, {T}], True where an episode begins"),
        ((x,), {"reset": reset.double()}, "got torch.float64"),
        ((x,), {"reset": reset.to("meta")}, "reset must be on x's device cpu; got meta: move it there"),
        ((x, [1.0]), {}, "or None; got list"),
        ((x[:2], state), {}, f"state holds {B} sequences, x has 2"),
    ):
        try:
            layer(*arguments, **options)
        except ValueError as error:
            assert message in str(error), str(error)
        else:
            raise AssertionError(f"accepted: {message}")
