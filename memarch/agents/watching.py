"""One episode to look at: its pictures, what was done, and what the memory read at each decision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from memarch.layers import ChunkReads

from .agent import Agent
from .collector import success_of
from .environments import EnvironmentSource, autoreset_mode
from .evaluation import evaluation_seed


@dataclass
class WatchedEpisode:
    """An episode of T steps.

    Attributes:
        pictures: T + 1 uint8 [height, width, 3]; none where the environment draws none.
        actions: T, as the environment takes them.
        rewards: T.
        success: None where the environment does not tell.
        reads: for each layer that says what it reads, T times what its k chunks are, `[k]` each.
    """

    pictures: list[NDArray[np.uint8]] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    success: bool | None = None
    reads: dict[str, list[ChunkReads]] = field(default_factory=dict)

    def read_weights(self, layer: str) -> NDArray[np.float64]:
        """`[T, T]`: how much the decision at a step (row) read of each step before it (column); a chunk's weight is
        spread evenly over its steps."""
        steps = len(self.actions)
        weights = np.zeros((steps, steps))
        for now, read in enumerate(self.reads[layer]):
            for first, last, weight in zip(read.first.tolist(), read.last.tolist(), read.weight.tolist(), strict=True):
                if weight > 0:
                    begin, end = max(now - first, 0), now - last
                    weights[now, begin : end + 1] += weight / (first - last + 1)
        return weights


@torch.no_grad()
def watch(agent: Agent, *, seed: int = 0, deterministic: bool = True, pictures: bool = True) -> WatchedEpisode:
    """Play one episode, on a seed that no training uses.

    Args:
        agent: on any device.
        seed: of the episode.
        deterministic: the most likely action, else one drawn.
        pictures: whether the environment shall draw them, which may need packages of its own.

    Raises:
        ValueError: the agent was given a `VectorEnv` or an environment, of which no more can be made.
    """
    if not agent.source.can_repeat:
        raise ValueError(
            f"watching needs an environment of its own, and {agent.source.name} cannot be made again: give an id or a "
            "factory"
        )
    env, policy = _one(agent.source, pictures), agent.policy
    generator, episode = torch.Generator().manual_seed(seed), WatchedEpisode()
    observation, _ = env.reset(seed=evaluation_seed(seed))
    state = policy.empty_state(1)
    reset: torch.Tensor | None = torch.ones(1, 1, dtype=torch.bool, device=agent.device)
    _draw(env, episode)
    done = False
    try:
        with _recording(policy, episode):
            while not done:
                seen = {name: x[:, None].to(agent.device) for name, x in policy.reader.read(observation).items()}
                out, state = policy(seen, state, reset=reset)
                reset, outputs, head = None, out.outputs[:, 0], policy.action
                action = head.mode(outputs)
                if not deterministic:
                    action = head.sample(outputs, head.noise((1,), generator).to(agent.device))
                taken = head.to_env(action)
                observation, reward, terminated, truncated, infos = env.step(taken)
                episode.actions.append(taken[0])
                episode.rewards.append(float(reward[0]))
                done = bool(terminated[0] or truncated[0])
                # An environment that begins the next episode at once would show that one.
                if not (done and autoreset_mode(env) is AutoresetMode.SAME_STEP):
                    _draw(env, episode)
        episode.success = success_of(infos, 0)
    finally:
        env.close()
    return episode


def _one(source: EnvironmentSource, pictures: bool) -> VectorEnv:
    """One environment that stays at an episode's end until the next step, and draws if it can."""
    plain = replace(source, asynchronous=False)
    if isinstance(source.env, str) and pictures:
        try:
            return replace(plain, options={"render_mode": "rgb_array", **source.options}).make(1, stay=True)
        except ValueError:
            # It has no such mode; whatever else is wrong is said by making it without.
            return plain.make(1, stay=True)
    return plain.make(1, stay=True)


def _draw(env: VectorEnv, episode: WatchedEpisode) -> None:
    pictures = env.render() if env.render_mode == "rgb_array" else None
    if pictures is not None and isinstance(pictures[0], np.ndarray):
        episode.pictures.append(pictures[0])


@contextmanager
def _recording(policy: torch.nn.Module, episode: WatchedEpisode) -> Iterator[None]:
    """While inside, every layer that can say what it reads is asked at every step."""

    def ask(name: str) -> Any:
        episode.reads[name] = []

        def hook(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            read = layer.reads(*args, **kwargs)
            episode.reads[name].append(ChunkReads(*(x[0, 0].cpu() for x in read)))

        return hook

    named = [(name, layer) for name, layer in policy.named_modules() if hasattr(layer, "reads")]
    handles = [layer.register_forward_pre_hook(ask(name), with_kwargs=True) for name, layer in named]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
