"""Generalised advantage estimation (arXiv 1506.02438) over episodes that end, are cut, and begin again in a rollout.

T steps, N environments.
"""

from __future__ import annotations

import torch
from torch import Tensor


def generalised_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """A_t = d_t + gamma lambda A_{t+1}, d_t = r_t + gamma V(s_{t+1}) - V(s_t), all `[T, N]`.

    Args:
        reward: r.
        value: V(s_t).
        next_value: V of the observation that the step led to: of a cut episode its last one, not the next episode's
            first.
        terminated: the episode ended by its rules, so nothing follows: V(s_{t+1}) counts as 0.
        done: the episode ended, by its rules or a limit: A_{t+1} is another episode's.
        discount: gamma.
        gae_lambda: lambda.
    """
    delta = reward + discount * next_value * ~terminated - value
    factor = discount * gae_lambda * (~done).to(delta.dtype)
    advantage = torch.empty_like(delta)
    last = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        last = torch.addcmul(delta[t], factor[t], last)
        advantage[t] = last
    return advantage
