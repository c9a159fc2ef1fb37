"""GTrXL: act = learn with resets, forgetting, gradients, the gate's start, errors."""

import torch

from memarch.layers.gtrxl import Gate, GTrXL

from ._episode_cases import check_act_equals_learn, check_causal, check_errors, check_reset_forgets, steps

D_MODEL = 12


def test_act_equals_learn():
    layer = GTrXL(D_MODEL, 3, window_tokens=5).double()
    check_act_equals_learn(layer, D_MODEL)
    check_causal(layer, D_MODEL)
    check_reset_forgets(layer, D_MODEL)
    check_errors(layer, D_MODEL)


def test_gradients_reach_every_parameter():
    layer = GTrXL(D_MODEL, 3, window_tokens=5).double()
    layer(steps(D_MODEL, 0, 0.1)[0])[0].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_the_gate_by_hand():
    gate = Gate(1)
    with torch.no_grad():
        for p in (gate.from_y.weight, gate.from_x.weight, gate.from_reset.weight):
            p.zero_()
    # z = sigmoid(-2), h = tanh(0) = 0.
    torch.testing.assert_close(gate(torch.ones(1), torch.ones(1)), 1 - torch.sigmoid(torch.tensor([-2.0])))
