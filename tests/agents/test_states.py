"""Trees of tensors: selected, joined, emptied and rebuilt for every memory."""

import pytest
import torch

from memarch.agents import MEMORIES, _states
from memarch.agents.memories import build_memory

from ._envs import SIZES


@pytest.mark.parametrize("name", MEMORIES)
def test_rows_of_a_state_go_on_as_they_would_have_together(name: str) -> None:
    memory = build_memory(name, SIZES).double()
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    y, _ = memory(x)
    _, state = memory(x[:, :4])
    parts = [_states.select(state, torch.tensor([row])) for row in (2, 0, 1)]
    joined = _states.join(parts)
    again = _states.rebuild(_states.zeros(joined), _states.tensors(joined))
    after, _ = memory(x[[2, 0, 1], 4:], again)
    torch.testing.assert_close(after, y[[2, 0, 1], 4:])


@pytest.mark.parametrize("name", MEMORIES)
def test_zeros_with_a_reset_are_an_empty_memory(name: str) -> None:
    memory = build_memory(name, SIZES)
    x = torch.randn(2, 6, 16)
    _, used = memory(torch.randn(2, 9, 16))
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[:, 0] = True
    torch.testing.assert_close(memory(x, _states.zeros(used), reset=reset)[0], memory(x)[0])


def test_what_holds_no_tensor_is_left_alone() -> None:
    state = ({"a": [torch.ones(2)], "b": None}, "name", 3)
    changed = _states.map_state(lambda x: x + 1, state)
    assert changed[0]["a"][0].tolist() == [2.0, 2.0] and changed[0]["b"] is None and changed[1:] == ("name", 3)
