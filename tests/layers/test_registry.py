"""Every registered mixer is built and follows the one calling convention."""

import pytest
import torch

from memarch.layers.attention import Attention
from memarch.layers.miras_points import MIRAS_POINTS
from memarch.layers.registry import MIXERS, build_mixer


def test_names() -> None:
    assert MIXERS == ("attention", *MIRAS_POINTS)
    assert len(set(MIXERS)) == len(MIXERS) and "yaad" in MIXERS


@pytest.mark.parametrize("name", MIXERS)
def test_split_equals_whole_for_every_mixer(name: str) -> None:
    torch.manual_seed(0)
    layer = build_mixer(name, 12, 2, chunk_size=4)
    x = torch.randn(2, 11, 12)
    with torch.no_grad():
        whole, _ = layer(x)
        first, state = layer(x[:, :5])
        second, _ = layer(x[:, 5:], state.detach())
    assert whole.shape == x.shape and whole.abs().sum() > 0
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=2e-4, atol=2e-5)


def test_options_reach_the_layer() -> None:
    layer = build_mixer("attention", 12, 3, head_dim=6, window_tokens=5)
    assert isinstance(layer, Attention) and (layer.head_dim, layer.window_tokens) == (6, 5)
    assert build_mixer("yaad", 12, 3, chunk_size=8).chunk_size == 8


def test_unknown_name_and_window_without_attention() -> None:
    with pytest.raises(ValueError, match="got 'yadd'; did you mean 'yaad'"):
        build_mixer("yadd", 12, 3)
    with pytest.raises(ValueError, match="window_tokens is for 'attention'; got 5 with 'yaad'"):
        build_mixer("yaad", 12, 3, window_tokens=5)
