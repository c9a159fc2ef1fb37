"""Every supported space: read in batches and singly alike, written as JSON and back."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from memarch.agents.observations import ObservationReader, leaves, space_from_json, space_to_json

from ._envs import Shaped

SPACES = {
    "vector": spaces.Box(-1, 1, (3,), np.float32),
    "number": spaces.Box(-1, 1, (), np.float64),
    "uneven bounds": spaces.Box(np.array([-1.0, -np.inf]), np.array([1.0, np.inf]), dtype=np.float64),
    "integers": spaces.Box(0, 9, (2, 2), np.int32),
    "image": spaces.Box(0, 255, (9, 8, 3), np.uint8),
    "channels first": spaces.Box(0, 255, (3, 40, 41), np.uint8),
    "discrete": spaces.Discrete(4, start=3),
    "multi-discrete": spaces.MultiDiscrete([3, 5]),
    "multi-binary": spaces.MultiBinary(4),
    "text": spaces.Text(8),
    "dict": spaces.Dict(a=spaces.Discrete(3), b=spaces.Dict(c=spaces.Box(0, 1, (2,), np.float32), d=spaces.Text(4))),
    "tuple": spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 255, (7, 7, 3), np.uint8)]),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_batch_reads_as_its_members(name: str) -> None:
    space = SPACES[name]
    reader = ObservationReader(space)
    env = SyncVectorEnv([lambda: Shaped(space, spaces.Discrete(2))] * 3)
    batch, _ = env.reset(seed=1)
    singles = []
    for row in range(3):
        one = Shaped(space_from_json(space_to_json(space)) if name != "text" else space, spaces.Discrete(2))
        singles.append(one.reset(seed=1 + row)[0])
    read, single = reader.read(batch), reader.read_single(singles)
    assert list(read) == [leaf.name for leaf in reader.leaves]
    for leaf in reader.leaves:
        assert read[leaf.name].shape == (3, *leaf.shape) and read[leaf.name].dtype == leaf.dtype
        if "text" not in (leaf.kind, name) and name != "dict":
            assert torch.equal(read[leaf.name], single[leaf.name])


def test_names_and_kinds() -> None:
    found = {leaf.name: leaf.kind for leaf in leaves(SPACES["dict"])}
    assert found == {"a": "categories", "b.c": "vector", "b.d": "text"}
    assert [leaf.kind for leaf in leaves(SPACES["tuple"])] == ["categories", "image"]
    assert leaves(SPACES["image"])[0].name == "observation" and not leaves(SPACES["image"])[0].channels_first
    assert leaves(SPACES["channels first"])[0].channels_first
    assert leaves(spaces.Box(0, 1, (2, 3, 4), np.float32))[0].kind == "vector"
    reader = ObservationReader(SPACES["discrete"])
    assert reader.read(np.array([3, 6]))["observation"].tolist() == [[0], [3]]


def test_words_count_and_order_does_not() -> None:
    reader = ObservationReader(spaces.Text(30))
    one, two, three = reader.read(("go to the door", "The door go to", "go to the ball"))["observation"]
    assert torch.equal(one, two) and not torch.equal(one, three) and one.sum() == 4


@pytest.mark.parametrize("name", [name for name in SPACES if "text" not in name and name != "dict"])
def test_json_round_trip(name: str) -> None:
    assert space_from_json(space_to_json(SPACES[name])) == SPACES[name]


@pytest.mark.parametrize(
    "space", [spaces.Sequence(spaces.Discrete(2)), spaces.Dict(x=spaces.Graph(spaces.Discrete(2), None)), spaces.Dict()]
)
def test_spaces_without_a_size_are_refused_by_name(space: gymnasium.Space) -> None:
    with pytest.raises(ValueError, match="observation space (observation|x) is"):
        leaves(space)
