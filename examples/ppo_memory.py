"""PPO with a memory in one file, to read and to change: python examples/ppo_memory.py --memory hcam

It learns memarch/ProofOfMemory-v0 in about a minute on a CPU: the goal is shown for two steps, then hidden. What
`memarch train agent` adds (windows, any environment and space, checkpoints, several processes) is left out.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from dataclasses import fields, is_dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import memarch_envs
from memarch.layers import EPISODIC_MEMORIES, build_episodic_memory


class Policy(nn.Module):
    """Observation -> encoder -> memory -> logits and value, for whole sequences as for single steps."""

    def __init__(self, num_inputs: int, num_actions: int, memory: str, d_model: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(num_inputs, d_model), nn.Tanh(), nn.Linear(d_model, d_model), nn.Tanh())
        self.memory = build_episodic_memory(
            memory, d_model, 2, chunk_size=2, top_k=2, num_chunks=8, window_tokens=8, gradient_window=True
        )
        self.logits, self.value = nn.Linear(d_model, num_actions), nn.Linear(d_model, 1)
        nn.init.orthogonal_(self.logits.weight, 0.01)

    def forward(self, x: Tensor, state: Any, reset: Tensor) -> tuple[Tensor, Tensor, Any]:
        """x `[B, T, inputs]` and reset `[B, T]` bool -> logits `[B, T, actions]`, value `[B, T]`, next state."""
        h = self.encoder(x)
        y, state = self.memory(h, state, reset=reset)
        return self.logits(h + y), self.value(h + y).squeeze(-1), state


def main() -> None:
    """Collect, compute advantages, learn; again until the steps are done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="memarch/ProofOfMemory-v0", choices=sorted(memarch_envs.ENVIRONMENTS))
    parser.add_argument("--memory", default="hcam", choices=EPISODIC_MEMORIES)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--rollout-steps", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    discount, gae_lambda, clip, entropy_weight, epochs, minibatches = 0.99, 0.9, 0.2, 0.01, 4, 2
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    # SAME_STEP: the step that ends an episode returns the next one's first observation.
    envs = gymnasium.make_vec(args.env, num_envs=args.num_envs, autoreset_mode="SameStep")
    num_inputs, num_actions = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    policy = Policy(num_inputs, num_actions, args.memory, d_model=32)
    optimizer = torch.optim.Adam(policy.parameters(), lr=args.lr, eps=1e-5)

    shape = (args.num_envs, args.rollout_steps)
    x, reset = torch.zeros(*shape, num_inputs), torch.zeros(shape, dtype=torch.bool)
    action, log_prob, value = torch.zeros(shape, dtype=torch.long), torch.zeros(shape), torch.zeros(shape)
    reward, done, cut_value = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    observation, _ = envs.reset(seed=args.seed)
    state, begins = None, torch.ones(args.num_envs, dtype=torch.bool)
    totals, finished, began = np.zeros(args.num_envs), deque(maxlen=100), time.time()

    for step in range(0, args.steps, shape[0] * shape[1]):
        snapshot = state
        cut_value.zero_()
        for t in range(args.rollout_steps):
            x[:, t], reset[:, t] = torch.from_numpy(observation), begins
            with torch.no_grad():
                logits, v, state = policy(x[:, t : t + 1], state, reset[:, t : t + 1])
                chosen = torch.distributions.Categorical(logits=logits[:, 0])
                action[:, t] = chosen.sample()
                log_prob[:, t], value[:, t] = chosen.log_prob(action[:, t]), v[:, 0]
            observation, r, terminated, truncated, infos = envs.step(action[:, t].numpy())
            reward[:, t], begins = torch.from_numpy(r), torch.from_numpy(terminated | truncated)
            done[:, t] = begins
            if truncated.any():
                # An episode cut by a time limit would have gone on: its last observation's value is added.
                last = observation.copy()
                last[truncated] = np.stack(infos["final_obs"][truncated])
                with torch.no_grad():
                    v = policy(torch.from_numpy(last)[:, None], state, torch.zeros_like(begins)[:, None])[1]
                cut_value[:, t] = v[:, 0] * torch.from_numpy(truncated)
            totals += r
            for i in np.flatnonzero(terminated | truncated):
                finished.append((totals[i], infos["final_info"]["success"][i]))
                totals[i] = 0

        with torch.no_grad():
            following = policy(torch.from_numpy(observation)[:, None], state, begins[:, None])[1][:, 0]
        advantage, running = torch.zeros(shape), torch.zeros(args.num_envs)
        for t in reversed(range(args.rollout_steps)):
            going = (~done[:, t]).float()
            delta = reward[:, t] + discount * (following * going + cut_value[:, t]) - value[:, t]
            running = delta + discount * gae_lambda * going * running
            advantage[:, t], following = running, value[:, t]
        target = advantage + value
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

        for _ in range(epochs):
            for rows in torch.randperm(args.num_envs).chunk(minibatches):
                # Whole windows, replayed from the memory they began with; resets lie inside them.
                start = None if snapshot is None else _rows(snapshot, rows)
                logits, v, _ = policy(x[rows], start, reset[rows])
                chosen = torch.distributions.Categorical(logits=logits)
                ratio = (chosen.log_prob(action[rows]) - log_prob[rows]).exp()
                a = advantage[rows]
                objective = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a).mean()
                loss = -objective + 0.5 * F.mse_loss(v, target[rows]) - entropy_weight * chosen.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()

        total, success = np.mean(list(finished) or [(np.nan, np.nan)], axis=0)
        done_steps = step + shape[0] * shape[1]
        speed = done_steps / (time.time() - began)
        print(f"step {done_steps}  return {total:.2f}  success {success:.2f}  {speed:,.0f} steps/s")


def _rows(state: Any, rows: Tensor) -> Any:
    """The memories of some environments: a state is a dataclass of tensors with the batch in front, or a tensor."""
    if isinstance(state, Tensor):
        return state[rows]
    if hasattr(state, "select"):
        return state.select(rows)
    if is_dataclass(state) and not isinstance(state, type):
        return replace(state, **{field.name: _rows(getattr(state, field.name), rows) for field in fields(state)})
    return state


if __name__ == "__main__":
    main()
