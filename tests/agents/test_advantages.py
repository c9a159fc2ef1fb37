"""Generalised advantages against the definition, written as a double sum."""

import torch

from memarch.agents.advantages import generalised_advantages


def by_definition(reward, value, next_value, terminated, done, gamma, lam):
    """A_t = sum_l (gamma lambda)^l d_{t+l}, up to the end of the episode, one environment and step at a time."""
    advantage = torch.zeros_like(reward)
    for n in range(reward.shape[1]):
        for t in range(reward.shape[0]):
            weight = 1.0
            for k in range(t, reward.shape[0]):
                follows = 0.0 if terminated[k, n] else gamma * next_value[k, n]
                advantage[t, n] += weight * (reward[k, n] + follows - value[k, n])
                if done[k, n]:
                    break
                weight *= gamma * lam
    return advantage


def test_equals_the_definition() -> None:
    shape = (11, 5)
    reward, value, next_value = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    done = torch.rand(shape) < 0.3
    terminated = done & (torch.rand(shape) < 0.5)
    got = generalised_advantages(reward, value, next_value, terminated, done, discount=0.9, gae_lambda=0.8)
    torch.testing.assert_close(got, by_definition(reward, value, next_value, terminated, done, 0.9, 0.8))


def test_by_hand() -> None:
    # Three steps: 0.5 + 0.9 * 2 - 1 = 1.3; cut: 1 + 0.9 * 3 - 2 = 1.7; terminated: 2 - 4 = -2.
    reward, value, next_value = (torch.tensor([row]).T for row in ([0.5, 1.0, 2.0], [1.0, 2.0, 4.0], [2.0, 3.0, 7.0]))
    terminated, done = torch.tensor([[0, 0, 1]], dtype=torch.bool).T, torch.tensor([[0, 1, 1]], dtype=torch.bool).T
    got = generalised_advantages(reward, value, next_value, terminated, done, discount=0.9, gae_lambda=0.5)
    torch.testing.assert_close(got[:, 0], torch.tensor([1.3 + 0.45 * 1.7, 1.7, -2.0]))
