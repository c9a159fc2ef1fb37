"""Memories by name, and modules of the user's own."""

import pytest
import torch
from torch import nn

from memarch.agents import MEMORIES, PolicySettings
from memarch.agents.memories import build_memory

from ._envs import SIZES


@pytest.mark.parametrize("name", MEMORIES)
def test_every_name_builds_as_many_layers_as_asked_for(name: str) -> None:
    sizes = PolicySettings(**{**vars(SIZES), "num_layers": 2})
    memory = build_memory(name, sizes)
    assert len(memory.layers) == (0 if name == "none" else 2)
    x = torch.randn(2, 5, 16)
    y, state = memory(x)
    assert y.shape == x.shape and len(state) == len(memory.layers)
    assert torch.equal(y, x) == (name == "none")


def test_sizes_reach_hcam() -> None:
    sizes = PolicySettings(**{**vars(SIZES), "reset_memory": "never", "chunk_summary": "learned"})
    layer = build_memory("hcam", sizes).layers[0]
    assert (layer.chunk_size, layer.top_k, layer.num_chunks, layer.local.window_tokens) == (3, 2, 4, 4)
    assert layer.gradient_window and not layer.within_episode and layer.pooling is not None
    assert build_memory("hcam", SIZES).layers[0].pooling is None


def test_a_module_is_taken_if_it_keeps_to_the_call() -> None:
    class Own(nn.Module):
        def forward(self, x, state=None, *, reset=None):
            return 2 * x, x[:, -1]

    own = Own()
    assert build_memory(own, SIZES) is own
    with pytest.raises(ValueError, match=r"memory Linear failed on x \[2, 3, 16\].*expected y, state = module"):
        build_memory(nn.Linear(16, 16), SIZES)

    class Narrow(Own):
        def forward(self, x, state=None, *, reset=None):
            return x[..., :4], state

    with pytest.raises(ValueError, match=r"memory Narrow gave \[2, 3, 4\] for x \[2, 3, 16\]"):
        build_memory(Narrow(), SIZES)


@pytest.mark.parametrize(("name", "hint"), [("hcamm", "; did you mean 'hcam'?"), ("qqq", ""), (3, "")])
def test_unknown_names_teach(name: object, hint: str) -> None:
    with pytest.raises(ValueError) as error:
        build_memory(name, SIZES)
    assert f"memory must be one of {', '.join(MEMORIES)}, or a module; got {name!r}{hint}" == str(error.value)
