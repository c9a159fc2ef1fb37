"""LocalAttention against an explicit softmax with resets; act = learn; errors."""

import pytest
import torch

from memarch.layers.attention import Attention
from memarch.layers.local_attention import LocalAttention

from ._episode_cases import check_act_equals_learn, check_causal, check_errors, check_reset_forgets, steps

D_MODEL, HEADS = 12, 3


def make(window_tokens: int) -> LocalAttention:
    return LocalAttention(D_MODEL, HEADS, window_tokens=window_tokens).double()


@pytest.mark.parametrize("window_tokens", [1, 4, 7, 40])
def test_act_equals_learn(window_tokens):
    layer = make(window_tokens)
    check_act_equals_learn(layer, D_MODEL)
    check_causal(layer, D_MODEL)


def test_a_reset_forgets():
    check_reset_forgets(make(7), D_MODEL)


@pytest.mark.parametrize("window_tokens", [1, 4, 40])
def test_without_resets_it_is_sliding_window_attention(window_tokens):
    layer, other = make(window_tokens), Attention(D_MODEL, HEADS, window_tokens=window_tokens).double()
    other.load_state_dict(layer.state_dict())
    x, _ = steps(D_MODEL, 0, 0.0)
    torch.testing.assert_close(layer(x)[0], other(x)[0], rtol=1e-10, atol=1e-12)


def test_state_moves_and_detaches():
    x, _ = steps(D_MODEL, 0, 0.0)
    _, state = make(4)(x.requires_grad_())
    assert state.inputs.requires_grad and not state.detach().inputs.requires_grad
    assert state.to("meta").inputs.is_meta and state.to("meta").num_steps.is_meta


def test_errors():
    check_errors(make(4), D_MODEL)
    with pytest.raises(ValueError, match="even integer .* got 9 and 3"):
        LocalAttention(9, 3, window_tokens=4)
    with pytest.raises(ValueError, match="window_tokens must be an integer of at least 1; got 0"):
        LocalAttention(12, 3, window_tokens=0)
    x, _ = steps(D_MODEL, 0, 0.0)
    _, state = make(4)(x)
    with pytest.raises(ValueError, match="must hold 4 steps for window_tokens=5; got 3"):
        make(5)(x, state)
