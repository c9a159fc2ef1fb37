"""Every memory for agents is built, follows the one call, and acts as it learns."""

import pytest

from memarch.layers.episodic_registry import EPISODIC_MEMORIES, build_episodic_memory
from memarch.layers.miras_points import MIRAS_POINTS

from ._episode_cases import check_act_equals_learn, check_reset_forgets


@pytest.mark.parametrize("name", ["hcam", "gtrxl", "gru", "lstm", "trace", "yaad", "deltanet"])
def test_act_equals_learn(name):
    layer = build_episodic_memory(name, 8, 2, chunk_size=3, top_k=2, num_chunks=4, window_tokens=5).double()
    check_act_equals_learn(layer, 8, rtol=1e-8)
    check_reset_forgets(layer, 8)


def test_every_name_is_built_and_options_arrive():
    assert set(MIRAS_POINTS) < set(EPISODIC_MEMORIES)
    for name in EPISODIC_MEMORIES:
        assert build_episodic_memory(name, 8, 2) is not None
    layer = build_episodic_memory("hcam", 8, 2, chunk_size=3, num_chunks=7, window_tokens=5, reset_memory="never")
    assert (layer.chunk_size, layer.num_chunks, layer.within_episode) == (3, 7, False)
    assert layer.local.window_tokens == 5


def test_unknown_name():
    with pytest.raises(ValueError, match="got 'hcma'; did you mean 'hcam'"):
        build_episodic_memory("hcma", 8, 2)
