"""Acting in a vector of environments, one rollout after another, and going on exactly where a checkpoint was.

T steps, N environments.
"""

from __future__ import annotations

import warnings
import zlib
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from . import _states
from .advantages import generalised_advantages
from .environments import EnvironmentFailedError, autoreset_mode, check_finite, why_it_failed
from .policy import MemoryPolicy
from .rollout import Episode, Rollout
from .settings import PPOSettings

Array = np.ndarray[Any, Any]
LARGEST_TRAINING_SEED = 2**30


def training_seed(seed: int, round_: int) -> int:
    """Where the environments of a training begin the `round_`-th time; below 2^30, which evaluations stay above."""
    return int(np.random.SeedSequence((seed, round_)).generate_state(1)[0]) % (LARGEST_TRAINING_SEED - 2**20)


class _Trace:
    """What one rollout leaves behind, step by step: `[T, N, ...]`, or T of `[N, ...]`."""

    def __init__(self, policy: MemoryPolicy, steps: int, num_envs: int) -> None:
        self.policy = policy
        self.observation = {
            leaf.name: torch.zeros((steps, num_envs, *leaf.shape), dtype=leaf.dtype, device=policy.device)
            for leaf in policy.reader.leaves
        }
        self.actions: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.values: list[Tensor] = []
        self.states: list[Any] = []
        self.reward = np.zeros((steps, num_envs), dtype=np.float64)
        self.reset, self.valid, self.terminated, self.done = (
            np.zeros((steps, num_envs), dtype=np.bool_) for _ in range(4)
        )
        # Step, environments, and the values of the last observations of episodes that were cut there.
        self.final_values: list[tuple[int, Array, Tensor]] = []

    def check(self, steps_before: int) -> None:
        """Raise EnvironmentFailedError for numbers that are not finite."""
        check_finite("reward", self.reward, steps_before=steps_before)
        for name, x in self.observation.items():
            if x.is_floating_point():
                check_finite(f"observation {name}", x.cpu().numpy(), steps_before=steps_before)

    def rollout(self, following: Tensor, settings: PPOSettings) -> Rollout:
        """With advantages; `following` `[N]` are the values of what comes after."""
        device = self.policy.device
        value = torch.stack(self.values)
        next_value = torch.cat([value[1:], following[None]])
        for t, rows, final in self.final_values:
            next_value[t, torch.from_numpy(rows).to(device)] = final
        reward, terminated, done, reset, valid = (
            torch.from_numpy(x).to(device)
            for x in (self.reward.astype(np.float32), self.terminated, self.done, self.reset, self.valid)
        )
        advantage = generalised_advantages(
            reward,
            value,
            next_value,
            terminated,
            done,
            discount=settings.discount,
            gae_lambda=settings.gae_lambda,
        )
        action = torch.stack(self.actions)
        log_prob = self.policy.action.log_prob(torch.stack(self.outputs), action)
        return Rollout(self.observation, action, log_prob, advantage, advantage + value, reset, valid, self.states)


class Collector:
    """Runs `policy` in `env`, and knows all that has to be kept to go on.

    Args:
        env: N environments, in any autoreset mode.
        policy: the agent's network.
        settings: see `PPOSettings`.
        first, num_total: this process's environments are `first` to first + N - 1 of `num_total`.
        generator: of the actions' noise, the same in every process.
    """

    def __init__(
        self,
        env: VectorEnv,
        policy: MemoryPolicy,
        settings: PPOSettings,
        *,
        first: int,
        num_total: int,
        generator: torch.Generator,
    ) -> None:
        self.env, self.policy, self.settings, self.generator = env, policy, settings, generator
        self.first, self.num_total, self.num_envs = first, num_total, env.num_envs
        self.mode = autoreset_mode(env)
        self.device = policy.device
        self.state: Any = policy.empty_state(self.num_envs)
        self.round, self.rollouts_in_round, self.steps_each = 0, 0, 0
        # Actions since the environments were last seeded: replaying them brings the environments back to this point.
        self.actions: list[Array] = []
        self.begins = np.ones(self.num_envs, dtype=np.bool_)
        self.over = np.zeros(self.num_envs, dtype=np.bool_)
        self.total_reward = np.zeros(self.num_envs)
        self.episode_steps = np.zeros(self.num_envs, dtype=np.int64)
        self.episodes: list[Episode] = []
        self._observation: Any = None

    @torch.no_grad()
    def collect(self) -> Rollout:
        """The next rollout. Finished episodes are appended to `episodes`.

        Raises:
            EnvironmentFailedError: an environment raised, died or gave numbers that are not finite.
        """
        if self._observation is None:
            self._observation = self._call(lambda: self.env.reset(seed=self._seed()))[0]
        elif self.settings.reseed_every and self.rollouts_in_round >= self.settings.reseed_every:
            self._reseed()
        trace = _Trace(self.policy, self.settings.rollout_steps, self.num_envs)
        noise = self.policy.action.noise((self.settings.rollout_steps, self.num_total), self.generator)
        noise = noise[:, self.first : self.first + self.num_envs].to(self.device)
        window = self.settings.rollout_steps // self.settings.num_windows
        for t in range(self.settings.rollout_steps):
            if t % window == 0:
                trace.states.append(self.state)
            self._step(t, noise[t], trace)
        trace.check(self.steps_each)
        self.rollouts_in_round += 1
        self.steps_each += self.settings.rollout_steps
        return trace.rollout(self._bootstrap(), self.settings)

    def _step(self, t: int, noise: Tensor, trace: _Trace) -> None:
        """Act once in every environment."""
        head, next_step = self.policy.action, self.mode is AutoresetMode.NEXT_STEP
        for name, x in self.policy.reader.read(self._observation).items():
            trace.observation[name][t].copy_(x)
        trace.reset[t], trace.valid[t] = self.begins, ~self.over
        seen = {name: x[t].unsqueeze(1) for name, x in trace.observation.items()}
        out, self.state = self.policy(seen, self.state, reset=self._reset_mask())
        action = head.sample(out.outputs[:, 0], noise)
        trace.actions.append(action)
        trace.outputs.append(out.outputs[:, 0])
        trace.values.append(out.value[:, 0])
        taken = head.to_env(action)
        self.actions.append(taken)
        self._observation, reward, terminated, truncated, infos = self._call(lambda: self.env.step(taken))
        if next_step:
            # The step after an episode's end only begins the next one; its action was ignored.
            reward, terminated, truncated = (np.where(self.over, 0, x) for x in (reward, terminated, truncated))
        done = np.logical_or(terminated, truncated)
        trace.reward[t], trace.terminated[t], trace.done[t] = reward, terminated, done
        self._count(trace.reward[t], trace.valid[t], done, infos)
        if next_step:
            self.begins, self.over = self.over, done
            return
        self.begins = done
        if done.any():
            cut = np.flatnonzero(np.logical_and(truncated, np.logical_not(terminated)))
            last = self._last_observations(cut, done, infos)
            if cut.size:
                trace.final_values.append((t, cut, self._value_after(cut, last)))

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON from which `restore` goes on."""
        tensors = {f"memory/{i:04d}": x for i, x in enumerate(_states.tensors(self.state))}
        if self.actions:
            tensors["actions"] = _smallest(torch.from_numpy(np.stack(self.actions)))
        tensors.update(
            {
                f"rollout/{name}": torch.from_numpy(getattr(self, name).copy())
                for name in ("begins", "over", "total_reward", "episode_steps")
            }
        )
        counts = {name: getattr(self, name) for name in ("round", "rollouts_in_round", "steps_each")}
        return tensors, {**counts, "num_envs": self.num_envs, "seen": self._checksum()}

    def restore(self, tensors: dict[str, Tensor], counts: dict[str, Any]) -> None:
        """Go on from a `snapshot`: environments are seeded as they were, and the actions since then replayed.

        An environment that does not repeat itself begins anew instead, with a warning.

        Raises:
            EnvironmentFailedError: an environment raised.
        """
        for name in ("round", "rollouts_in_round", "steps_each"):
            setattr(self, name, counts[name])
        memory = [x for name, x in sorted(tensors.items()) if name.startswith("memory/")]
        self.state = _states.rebuild(self.state, memory)
        for name in ("begins", "over", "total_reward", "episode_steps"):
            setattr(self, name, tensors[f"rollout/{name}"].numpy().copy())
        if "actions" not in tensors:
            return
        self._observation = self._call(lambda: self.env.reset(seed=self._seed()))[0]
        dtype = self.env.single_action_space.dtype
        self.actions = list(tensors["actions"].numpy().astype(dtype, copy=False))
        for action in self.actions:
            self._observation, _, terminated, truncated, infos = self._call(lambda a=action: self.env.step(a))
            done = terminated | truncated
            if self.mode is AutoresetMode.DISABLED and done.any():
                self._last_observations(np.flatnonzero(done), done, infos)
        if self._checksum() != counts["seen"]:
            warnings.warn(
                "the environments did not repeat themselves under their seeds and actions, so this resumed training "
                "goes on with new episodes and will differ from an uninterrupted one",
                stacklevel=2,
            )
            self._reseed()

    def _reseed(self) -> None:
        """Begin everywhere anew under the next seeds; unfinished episodes are dropped from the statistics."""
        self.round, self.rollouts_in_round = self.round + 1, 0
        self.actions = []
        self._observation = self._call(lambda: self.env.reset(seed=self._seed()))[0]
        self.begins[:], self.over[:] = True, False
        self.total_reward[:], self.episode_steps[:] = 0, 0

    def _checksum(self) -> int:
        """Of what the agent sees now."""
        if self._observation is None:
            return 0
        seen = self.policy.reader.read(self._observation)
        return zlib.crc32(b"".join(x.contiguous().numpy().tobytes() for x in seen.values()))

    def _seed(self) -> int:
        return training_seed(self.settings.seed, self.round) + self.first

    def _reset_mask(self) -> Tensor | None:
        """`[N, 1]`, or None where no episode begins: cheaper, and the same."""
        return torch.from_numpy(self.begins)[:, None].to(self.device) if self.begins.any() else None

    def _bootstrap(self) -> Tensor:
        """`[N]` value of the observation that the next rollout begins with."""
        seen = {name: x[:, None].to(self.device) for name, x in self.policy.reader.read(self._observation).items()}
        return self.policy(seen, self.state, reset=self._reset_mask())[0].value[:, 0]

    def _value_after(self, rows: Array, last: list[Any]) -> Tensor:
        """`[n]` values of the last observations of episodes that were cut."""
        seen = {name: x[:, None].to(self.device) for name, x in self.policy.reader.read_single(last).items()}
        for name, x in seen.items():
            if x.is_floating_point() and not bool(x.isfinite().all()):
                bad = rows[int((~x.isfinite()).flatten(1).any(1).nonzero()[0])]
                raise EnvironmentFailedError(
                    f"environment {bad} gave a last observation {name} that is not finite: look at what it computes"
                )
        state = _states.select(self.state, torch.from_numpy(rows))
        return self.policy(seen, state)[0].value[:, 0]

    def _last_observations(self, cut: Array, done: Array, infos: dict[str, Any]) -> list[Any]:
        """Of environments `cut`; begins new episodes where `done`, if the environments do not do so themselves."""
        if self.mode is AutoresetMode.SAME_STEP:
            return [infos["final_obs"][row] for row in cut]
        last = [_one(self._observation, int(row)) for row in cut]
        self._observation = self._call(lambda: self.env.reset(options={"reset_mask": done.copy()}))[0]
        return last

    def _count(self, reward: Array, valid: Array, done: Array, infos: dict[str, Any]) -> None:
        self.total_reward += reward
        self.episode_steps += valid
        for row in np.flatnonzero(done):
            success = success_of(infos, int(row))
            self.episodes.append(Episode(float(self.total_reward[row]), int(self.episode_steps[row]), success))
            self.total_reward[row], self.episode_steps[row] = 0, 0

    def _call(self, what: Any) -> Any:
        try:
            return what()
        except Exception as error:
            raise EnvironmentFailedError(why_it_failed(self.env, error)) from error


def success_of(infos: dict[str, Any], row: int) -> bool | None:
    """What the info of a finished episode says of success ("success" or "is_success"); None if nothing."""
    infos = infos.get("final_info", infos)
    for key in ("success", "is_success"):
        if key in infos and infos.get(f"_{key}", np.ones(row + 1))[row]:
            return bool(infos[key][row])
    return None


def _one(batch: Any, row: int) -> Any:
    """The observation of one environment, copied."""
    if isinstance(batch, dict):
        return {key: _one(part, row) for key, part in batch.items()}
    if isinstance(batch, tuple) and not isinstance(batch[0], str):
        return tuple(_one(part, row) for part in batch)
    return batch[row] if isinstance(batch, tuple) else np.array(batch[row])


def _smallest(x: Tensor) -> Tensor:
    """Integers in the smallest type that holds them."""
    if x.is_floating_point() or not x.numel():
        return x
    for dtype in (torch.uint8, torch.int16, torch.int32):
        limits = torch.iinfo(dtype)
        if limits.min <= int(x.min()) and int(x.max()) <= limits.max:
            return x.to(dtype)
    return x
