"""Miras layers with resets: act = learn, forgetting, errors."""

import pytest

from memarch.layers.episodic_miras import EpisodicMiras
from memarch.layers.miras_points import miras_point

from ._episode_cases import check_act_equals_learn, check_causal, check_errors, check_reset_forgets

D_MODEL = 8


@pytest.mark.parametrize("name", ["yaad", "gated-deltanet"])
def test_act_equals_learn(name):
    layer = EpisodicMiras(miras_point(name, D_MODEL, 2, chunk_size=4)).double()
    check_act_equals_learn(layer, D_MODEL, rtol=1e-8)
    check_causal(layer, D_MODEL)
    check_reset_forgets(layer, D_MODEL)


def test_errors():
    check_errors(EpisodicMiras(miras_point("linear-attention", D_MODEL, 2)).double(), D_MODEL)
