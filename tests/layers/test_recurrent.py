"""GRU and LSTM with resets: act = learn, forgetting, the plain torch layer, errors."""

import pytest
import torch

from memarch.layers.recurrent import GRU, LSTM

from ._episode_cases import check_act_equals_learn, check_causal, check_errors, check_reset_forgets, steps

D_MODEL = 7


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_act_equals_learn(kind):
    layer = kind(D_MODEL).double()
    check_act_equals_learn(layer, D_MODEL)
    check_causal(layer, D_MODEL)
    check_reset_forgets(layer, D_MODEL)


@pytest.mark.parametrize(("kind", "plain"), [(GRU, torch.nn.GRU), (LSTM, torch.nn.LSTM)])
def test_without_resets_it_is_torchs(kind, plain):
    layer, other = kind(D_MODEL).double(), plain(D_MODEL, D_MODEL, batch_first=True).double()
    other.load_state_dict(layer.core.state_dict())
    x, _ = steps(D_MODEL, 0, 0.0)
    torch.testing.assert_close(layer(x)[0], other(x)[0])


def test_state_and_errors():
    layer = LSTM(D_MODEL).double()
    check_errors(layer, D_MODEL)
    _, state = layer(steps(D_MODEL, 0, 0.0)[0])
    assert state.cell.requires_grad and not state.detach().cell.requires_grad and state.to("meta").cell.is_meta
