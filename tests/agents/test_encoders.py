"""Encoders: every kind of leaf in and out, pictures of any layout, gradients everywhere."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from memarch.agents.encoders import Encoder, Reconstruction, numbers
from memarch.agents.observations import ObservationReader

MIXED = spaces.Dict(
    image=spaces.Box(0, 255, (9, 8, 3), np.uint8),
    kinds=spaces.MultiDiscrete([3, 5]),
    word=spaces.Text(8),
    where=spaces.Box(-1, 1, (2,), np.float32),
)
B, T = 2, 3


def sample(space: spaces.Space) -> tuple[list, dict[str, torch.Tensor]]:
    space.seed(0)
    reader = ObservationReader(space)
    read = reader.read_single([space.sample() for _ in range(B * T)])
    return reader.leaves, {name: x.unflatten(0, (B, T)) for name, x in read.items()}


def test_every_leaf_matters_and_learns() -> None:
    leaves, seen = sample(MIXED)
    encoder, decoder = Encoder(leaves, 16), Reconstruction(leaves, 16)
    y = encoder(seen)
    assert y.shape == (B, T, 16)
    loss = decoder(y, seen)
    assert loss.shape == (B, T)
    loss.sum().backward()
    for name, p in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert p.grad is not None and p.grad.abs().sum() > 0, name
    for leaf in leaves:
        other = {**seen, leaf.name: seen[leaf.name].flip(1)}
        changed = encoder(other)
        assert not torch.allclose(changed[:, 0], y[:, 0]), leaf.name
        assert not torch.allclose(decoder(y, other), loss), leaf.name


@pytest.mark.parametrize("shape", [(7, 7, 3), (3, 7, 9), (40, 36, 1), (4, 84, 84)])
def test_pictures_of_any_size_and_layout(shape: tuple[int, ...]) -> None:
    leaves, seen = sample(spaces.Box(0, 255, shape, np.uint8))
    assert Encoder(leaves, 16)(seen).shape == (B, T, 16)
    scaled = numbers(leaves[0], seen["observation"])
    assert scaled.max() <= 1 and scaled.max() > 0.9


def test_layouts_are_told_apart() -> None:
    """The same picture with channels last or first is encoded alike by the same weights."""
    last, seen = sample(spaces.Box(0, 255, (9, 8, 3), np.uint8))
    first, _ = sample(spaces.Box(0, 255, (3, 9, 8), np.uint8))
    one, other = Encoder(last, 16), Encoder(first, 16)
    other.load_state_dict(one.state_dict())
    moved = {"observation": seen["observation"].movedim(-1, 2)}
    torch.testing.assert_close(one(seen), other(moved))


def test_categories_are_reconstructed_by_name() -> None:
    leaves, seen = sample(spaces.MultiDiscrete([3, 5]))
    decoder = Reconstruction(leaves, 16)
    expected = torch.stack(
        [
            -torch.log_softmax(part, -1).gather(-1, seen["observation"][..., k, None])[..., 0]
            for k, part in enumerate(decoder.outputs[0](torch.ones(B, T, 16)).split((3, 5), -1))
        ]
    ).mean(0)
    torch.testing.assert_close(decoder(torch.ones(B, T, 16), seen), expected)


def test_small_vectors_are_told_apart_from_the_start() -> None:
    """What one number of two says must not drown in the bias: a rare sight would get a common one's action."""
    torch.manual_seed(0)
    leaves, _ = sample(spaces.Box(-1, 1, (2,), np.float32))
    seen = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
    features = Encoder(leaves, 64)({"observation": seen})[0]
    similar = torch.cosine_similarity(features[:, None], features, dim=-1)
    assert similar.triu(1).max() < 0.75
