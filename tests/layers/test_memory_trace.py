"""MemoryTrace against its recurrence; act = learn with resets; errors."""

import pytest
import torch

from memarch.layers import memory_trace
from memarch.layers.memory_trace import MemoryTrace

from ._episode_cases import T, check_act_equals_learn, check_causal, check_errors, check_reset_forgets, steps

D_MODEL = 5


def test_act_equals_learn(monkeypatch):
    layer = MemoryTrace(D_MODEL).double()
    for block in (64, 7):
        monkeypatch.setattr(memory_trace, "BLOCK", block)
        check_act_equals_learn(layer, D_MODEL)
        check_causal(layer, D_MODEL)
        check_reset_forgets(layer, D_MODEL)


def test_the_recurrence():
    layer = MemoryTrace(D_MODEL, decays=(0.0, 0.9)).double()
    x, reset = steps(D_MODEL, 4, 0.2)
    y, state = layer(x, reset=reset)
    z = torch.zeros(3, 2, D_MODEL, dtype=torch.float64)
    a = torch.tensor([0.0, 0.9], dtype=torch.float64)[:, None]
    for t in range(T):
        z = a * z * ~reset[:, t, None, None] + (1 - a) * x[:, t, None]
        torch.testing.assert_close(y[:, t], layer.out_proj(z.flatten(1)))
    torch.testing.assert_close(state, z)


def test_errors():
    layer = MemoryTrace(D_MODEL).double()
    check_errors(layer, D_MODEL)
    for decays in ((), (1.0,), (-0.1,)):
        with pytest.raises(ValueError, match="decays must be one or more numbers in"):
            MemoryTrace(D_MODEL, decays=decays)
    x, _ = steps(D_MODEL, 0, 0.0)
    with pytest.raises(ValueError, match=r"\[3, 4, 5\]; got \[3, 2, 5\]"):
        layer(x, x[:, :2])
