"""PPO with a memory: learn, predict, evaluate, save, load, resume."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from gymnasium.vector import VectorEnv
from torch import nn

from ._world import World
from .agent import Agent, build_policy, check_json, choose_device
from .callbacks import AgentCallback, AgentReport
from .checkpoint import (
    AgentConfig,
    load_checkpoint,
    load_weights,
    read_config,
    read_progress,
    resolve,
    save_checkpoint,
    write_run_file,
)
from .collector import Collector
from .environments import Env, EnvironmentFailedError, EnvironmentSource, count_envs
from .observations import space_to_json
from .rollout import Episode
from .settings import PolicySettings, PPOSettings
from .update import Updater

RECENT_EPISODES = 100


@dataclass(frozen=True)
class AgentResult:
    """How `learn` ended.

    Attributes:
        step: steps of all environments done.
        stopped: whether a stop was requested before the goal.
        report: the last one.
        checkpoint: the last one written, None without an output directory.
    """

    step: int
    stopped: bool
    report: AgentReport | None
    checkpoint: Path | None


class PPO(Agent):
    """An agent that learns with any of the memories.

        agent = PPO("memarch/TMaze-v0", memory="hcam", env_options={"length": 50})
        agent.learn(200_000)
        action, state = agent.predict(observation, state, episode_start=first)

    Args:
        env: an id, a factory of `gymnasium.Env`, one `gymnasium.Env`, or a `VectorEnv` (any autoreset mode).
        memory: "hcam", "gtrxl", "gru", "lstm", "trace", "yaad", "moneta", "memora", "none", or a module of your own
            (see `build_memory`).
        num_envs: environments side by side; 16 where `env` is an id or a factory.
        policy: sizes of the network.
        settings: how to learn.
        env_options: keyword arguments for an id.
        asynchronous: each environment in a process of its own.
        device: "auto", "cpu", "cuda", ...
        out_dir: where checkpoints go; None writes nothing.

    Under torchrun every process makes its share of the `num_envs` environments, and all learn as one.

    Raises:
        ValueError: an unknown environment or memory, an unsupported space, settings that do not fit.
    """

    def __init__(
        self,
        env: Env,
        *,
        memory: str | nn.Module = "hcam",
        num_envs: int | None = None,
        policy: PolicySettings | None = None,
        settings: PPOSettings | None = None,
        env_options: Mapping[str, Any] | None = None,
        asynchronous: bool = False,
        device: str | torch.device = "auto",
        out_dir: str | Path | None = None,
    ) -> None:
        self.settings, sizes = settings or PPOSettings(), policy or PolicySettings()
        self.source = EnvironmentSource(env, dict(env_options or {}), asynchronous)
        check_json("env_options", self.source.options)
        self.num_envs = count_envs(env, num_envs)
        self.world = World()
        first, mine = self.world.share(self.num_envs)
        self.device = choose_device(device)
        if self.settings.num_minibatches > self.num_envs * self.settings.num_windows:
            raise ValueError(
                f"num_minibatches must be at most num_envs x windows = {self.num_envs * self.settings.num_windows}; "
                f"got {self.settings.num_minibatches}: minibatches are made of whole windows"
            )
        if self.settings.mixed_precision and self.device.type != "cuda":
            raise ValueError(f"mixed_precision needs a GPU; got device {self.device}: leave it off")
        self.env = self.source.make(mine, first=first)
        self.config = AgentConfig(
            memory=memory if isinstance(memory, str) else type(memory).__name__,
            own_memory=not isinstance(memory, str),
            policy=sizes,
            reconstruct=self.settings.reconstruction_weight > 0,
            observation_space=self.env.single_observation_space,
            action_space=self.env.single_action_space,
            environment=env if isinstance(env, str) else None,
            env_options=self.source.options,
            num_envs=self.num_envs,
        )
        self.policy = build_policy(self.config, memory, seed=self.settings.seed, device=self.device)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.settings.learning_rate, eps=1e-5)
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        self.collector = Collector(
            self.env, self.policy, self.settings, first=first, num_total=self.num_envs, generator=self.generator
        )
        self.updater = Updater(
            self.policy,
            self.optimizer,
            self.settings,
            generator=self.generator,
            world=self.world,
            first=first,
            num_total=self.num_envs,
        )
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.step, self.goal, self.num_episodes, self.train_seconds = 0, 0, 0, 0.0
        self.recent: deque[Episode] = deque(maxlen=RECENT_EPISODES)
        self.report: AgentReport | None = None
        self.callbacks: list[AgentCallback] = []
        self._checkpoint: Path | None = None
        self._stop = self._finish = False

    def learn(self, num_steps: int | None = None, *, callbacks: Sequence[AgentCallback] = ()) -> AgentResult:
        """Train for about `num_steps` more steps of all environments: whole rollouts, the last may go over.

        Args:
            num_steps: None goes on to the goal of the `learn` that was interrupted.
            callbacks: listeners.

        Raises:
            ValueError: `num_steps` below 1, or None with nothing to go on with.
            EnvironmentFailedError: an environment raised, died or gave numbers that are not finite; the last
                checkpoint is intact.
            DivergedError: the training diverged.
            OSError: a checkpoint cannot be saved; the last good one is intact.
        """
        if num_steps is None and self.step >= self.goal:
            raise ValueError(f"there is nothing to go on with after {self.step} steps: say learn(num_steps)")
        if num_steps is not None:
            if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
                raise ValueError(f"num_steps must be an integer of at least 1; got {num_steps!r}")
            self.goal = self.step + num_steps
        self.callbacks, self._stop, self._finish = list(callbacks), False, False
        if self.out_dir is not None and self.world.rank == 0:
            write_run_file(self.out_dir, self.config, asdict(self.settings))
        self.tell("on_start")
        try:
            while self.step < self.goal and not self._agreed_to_stop():
                self.report = self._iterate()
                self.tell("on_update", self.report)
            self.checkpoint()
        except EnvironmentFailedError as error:
            raise EnvironmentFailedError(f"{error}; {self._how_to_go_on()}") from error
        finally:
            self.tell("on_end")
        return AgentResult(self.step, self.step < self.goal, self.report, self._checkpoint)

    def request_stop(self) -> None:
        """End `learn` after the current rollout and update, with a checkpoint; safe to call from a signal handler."""
        self._stop = True

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        env: Env | None = None,
        env_options: Mapping[str, Any] | None = None,
        memory: nn.Module | None = None,
        device: str | torch.device = "auto",
    ) -> Self:
        """The agent saved in `path`, or at the latest checkpoint of the run `path`; its training is left behind.

        Args:
            path: directory of `save`, of a checkpoint, or of a run.
            env: where it was no id that the agent learned in; else another environment with the same spaces.
            env_options: other options for the id, added to those the agent learned under: a longer maze, say.
            memory: where it was a module of your own, the same again.
            device: to run on.

        Raises:
            OSError: no agent there.
            ValueError: a corrupt file, or another environment or memory than the agent's.
        """
        directory = resolve(path)
        config = read_config(directory)
        if env_options:
            config = replace(config, env_options={**config.env_options, **env_options})
        settings = PPOSettings(num_minibatches=1, reconstruction_weight=float(config.reconstruct))
        agent = cls._from_config(config, settings, env=env, memory=memory, device=device, out_dir=None)
        load_weights(directory, agent.policy)
        return agent

    @classmethod
    def resume(
        cls,
        run_dir: str | Path,
        *,
        env: Env | None = None,
        memory: nn.Module | None = None,
        asynchronous: bool = False,
        device: str | torch.device = "auto",
    ) -> Self:
        """The training as it was at the latest checkpoint of `run_dir`; `learn()` goes on to its goal, bit for bit.

        Args:
            run_dir: the `out_dir` of the training.
            env, memory: see `load`.
            asynchronous: see the class.
            device: to go on with.

        Raises:
            OSError: no checkpoint.
            ValueError: a corrupt file, another environment, memory or number of processes.
        """
        directory = resolve(run_dir)
        config = read_config(directory)
        progress = read_progress(directory)
        settings = PPOSettings.from_json(progress["settings"], source=str(directory))
        agent = cls._from_config(
            config, settings, env=env, memory=memory, device=device, out_dir=run_dir, asynchronous=asynchronous
        )
        own = load_checkpoint(directory, agent.policy, agent.optimizer)
        counts = progress["collectors"]
        if len(counts) != agent.world.size:
            raise ValueError(
                f"this training ran in {len(counts)} processes; got {agent.world.size}: start as many with torchrun"
            )
        prefix = f"trainer/{agent.world.rank}/"
        mine = {name.removeprefix(prefix): x for name, x in own.items() if name.startswith(prefix)}
        agent.collector.restore(mine, counts[agent.world.rank])
        agent.generator.set_state(own["trainer/generator"])
        for name in ("step", "goal", "num_episodes", "train_seconds"):
            setattr(agent, name, progress[name])
        agent.recent.extend(Episode(*values) for values in progress["recent"])
        agent._checkpoint = directory
        return agent

    def finish(self) -> None:
        """Call the goal reached: `learn` ends after the current update as if it had come to its last step."""
        self.goal, self._finish = self.step, True

    def checkpoint(self) -> Path | None:
        """Write a checkpoint to `out_dir` (None without one), and tell the listeners.

        Raises:
            OSError: see `learn`.
        """
        if self.out_dir is None:
            return None
        tensors, counts = self.collector.snapshot()
        parts = self.world.gather((tensors, counts))
        if self.world.rank == 0:
            own = {"trainer/generator": self.generator.get_state()}
            for rank, (part, _) in enumerate(parts):
                own.update({f"trainer/{rank}/{name}": x for name, x in part.items()})
            progress = {
                "settings": asdict(self.settings),
                "goal": self.goal,
                "num_episodes": self.num_episodes,
                "train_seconds": self.train_seconds,
                "recent": [list(vars(episode).values()) for episode in self.recent],
                "collectors": [part_counts for _, part_counts in parts],
            }
            self._checkpoint = save_checkpoint(
                self.out_dir,
                self.step,
                config=self.config,
                policy=self.policy,
                optimizer=self.optimizer,
                tensors=own,
                progress=progress,
            )
            self.tell("on_checkpoint", self._checkpoint)
        self.world.barrier()
        return self._checkpoint

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def tell(self, event: str, *details: Any) -> None:
        """Call `event` of every listener."""
        for callback in self.callbacks:
            getattr(callback, event)(self, *details)

    def _iterate(self) -> AgentReport:
        """One rollout and the update from it."""
        start = time.perf_counter()
        rollout = self.collector.collect()
        finished = [e for part in self.world.gather(self.collector.episodes) for e in part]
        self.collector.episodes = []
        learning_rate = self.settings.learning_rate_at(self.step / self.goal)
        update = self.updater.update(rollout, learning_rate)
        before = self.step
        self.step += int(self.world.sum(rollout.valid.sum()).item())
        self.num_episodes += len(finished)
        self.recent.extend(finished)
        seconds = time.perf_counter() - start
        self.train_seconds += seconds
        told = [e.success for e in self.recent if e.success is not None]
        return AgentReport(
            step=self.step,
            total_reward=_mean([e.total_reward for e in self.recent]),
            episode_steps=_mean([e.num_steps for e in self.recent]),
            success=_mean(told),
            num_episodes=self.num_episodes,
            steps_per_second=(self.step - before) / seconds,
            train_seconds=self.train_seconds,
            **asdict(update),
        )

    def _agreed_to_stop(self) -> bool:
        """Whether any process was asked to stop or to finish: all have to end after the same update."""
        asked = torch.tensor([self._stop, self._finish], dtype=torch.float32, device=self.device)
        stop, finish = (self.world.sum(asked) > 0).tolist()
        if finish:
            self.goal = self.step
        return stop or finish

    def _how_to_go_on(self) -> str:
        if self._checkpoint is None:
            return "nothing was saved yet (a Checkpoint callback saves on the way)"
        return f"the checkpoint {self._checkpoint} is intact: mend the environment, then resume"

    @classmethod
    def _from_config(
        cls,
        config: AgentConfig,
        settings: PPOSettings,
        *,
        env: Env | None,
        memory: nn.Module | None,
        device: str | torch.device,
        out_dir: str | Path | None,
        asynchronous: bool = False,
    ) -> Self:
        if config.own_memory and memory is None:
            raise ValueError(f"this agent's memory is a module of its user, {config.memory}: pass memory= again")
        if not config.own_memory and memory is not None:
            raise ValueError(
                f"this agent's memory is {config.memory!r}; got a {type(memory).__name__}: leave memory out"
            )
        if env is None and config.environment is None:
            raise ValueError("this agent learned in an environment without an id: pass env=, the same again")
        given = config.environment if env is None else env
        assert given is not None
        agent = cls(
            given,
            memory=config.memory if memory is None else memory,
            num_envs=given.num_envs if isinstance(given, VectorEnv) else config.num_envs,
            policy=config.policy,
            settings=settings,
            env_options=config.env_options if isinstance(given, str) and given == config.environment else None,
            asynchronous=asynchronous,
            device=device,
            out_dir=out_dir,
        )
        for name in ("observation_space", "action_space"):
            then, now = space_to_json(getattr(config, name)), space_to_json(getattr(agent.config, name))
            if then != now:
                agent.close()
                raise ValueError(f"this agent's {name} is {then}; the environment {agent.source.name} has {now}")
        return agent


def _mean(values: Sequence[float | bool]) -> float:
    return sum(values) / len(values) if values else math.nan
