"""Cutting rollouts into windows: pairs, order, memories."""

import torch

from memarch.agents.rollout import Rollout


def test_pairs_are_windows_of_environments() -> None:
    steps, envs = 6, 2
    number = torch.arange(steps * envs).view(steps, envs)
    states = [(torch.tensor([[0.0], [1.0]]),), (torch.tensor([[2.0], [3.0]]),), (torch.tensor([[4.0], [5.0]]),)]
    rollout = Rollout(
        observation={"x": number[..., None]},
        action=number[..., None],
        log_prob=number,
        advantage=number,
        target=number,
        reset=number == 4,
        valid=number < 10,
        states=states,
    )
    assert rollout.num_pairs == 6
    batch = rollout.minibatch(torch.tensor([3, 0]), rollout.joined_states())
    # Pair 3 is window 1 (steps 2 and 3) of environment 1.
    assert batch.log_prob.tolist() == [[5, 7], [0, 2]]
    assert batch.observation["x"].shape == (2, 2, 1) and batch.state[0].tolist() == [[3.0], [0.0]]
    assert batch.reset.tolist() == [[False, False], [False, False]] and batch.valid.all()
    assert rollout.minibatch(torch.tensor([2]), rollout.joined_states()).reset.tolist() == [[True, False]]
