"""Distributions against torch.distributions, and actions in the environment's own terms."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from memarch.agents.actions import ActionHead

SPACES = {
    "discrete": spaces.Discrete(5, start=-2),
    "multi-discrete": spaces.MultiDiscrete([3, 2, 4]),
    "multi-discrete grid": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "multi-binary": spaces.MultiBinary(3),
    "box": spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)),
    "unbounded box": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
}


@pytest.mark.parametrize("name", SPACES)
def test_samples_are_of_the_space_and_follow_the_probabilities(name: str) -> None:
    space = SPACES[name]
    head = ActionHead(space)
    outputs = torch.randn(head.num_outputs).expand(20_000, -1)
    action = head.sample(outputs, head.noise((20_000,), torch.Generator().manual_seed(0)))
    assert action.shape == (20_000, head.num_components)
    assert all(space.contains(one) for one in head.to_env(action[:50]))
    if head.log_deviation is None:
        for k, part in enumerate(outputs[0].split(head.counts)):
            counts = torch.bincount(action[:, k], minlength=len(part)) / 20_000
            torch.testing.assert_close(counts, part.softmax(-1), atol=0.012, rtol=0)
    else:
        torch.testing.assert_close(action.mean(0), outputs[0], atol=0.02, rtol=0)
        torch.testing.assert_close(action.std(0), head.log_deviation.detach().exp(), atol=0.02, rtol=0)
    # The entropy is the mean of -log p.
    log_p = head.log_prob(outputs, action)
    torch.testing.assert_close(-log_p.mean(), head.entropy(outputs)[0], atol=0.05, rtol=0.02)


def test_log_probabilities_equal_those_of_torch() -> None:
    head = ActionHead(SPACES["multi-discrete"])
    outputs, action = torch.randn(7, 9), torch.tensor([2, 1, 3]).expand(7, -1)
    expected = sum(
        torch.distributions.Categorical(logits=part).log_prob(action[:, k])
        for k, part in enumerate(outputs.split((3, 2, 4), -1))
    )
    torch.testing.assert_close(head.log_prob(outputs, action), expected)
    head = ActionHead(SPACES["box"])
    outputs, action = torch.randn(7, 2), torch.randn(7, 2)
    normal = torch.distributions.Normal(outputs, head.log_deviation.exp())
    torch.testing.assert_close(head.log_prob(outputs, action), normal.log_prob(action).sum(-1))
    torch.testing.assert_close(head.entropy(outputs), normal.entropy().sum(-1))


def test_continuous_actions_fill_the_bounds_and_stay_in_them() -> None:
    head = ActionHead(SPACES["box"])
    acted = head.to_env(torch.tensor([[0.0, 0.0], [1.0, -1.0], [5.0, -5.0]]))
    assert acted.tolist() == [[0.0, 5.0], [2.0, 0.0], [2.0, 0.0]]


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Dict(a=spaces.Discrete(2)), spaces.Box(0, 9, (1,), np.int64)])
def test_other_spaces_are_refused_by_name(space) -> None:
    with pytest.raises(ValueError, match="action space is .*: expected Discrete, MultiDiscrete, MultiBinary or a Box"):
        ActionHead(space)
