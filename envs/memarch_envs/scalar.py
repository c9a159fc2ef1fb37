"""The scalar form: a `gymnasium.Env` that is a batch of one."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import Env

from ._checks import check_actions, check_choice, check_options
from ._episodes import Episodes
from .base import ALL, MemoryTask, Observation

RENDER_MODES = ("rgb_array", "ansi")
FIRST = np.array([0])


def one_of(observation: Observation, index: int) -> Any:
    """The observation of one copy out of a batch, sharing no memory with it."""
    if isinstance(observation, dict):
        return {key: one_of(value, index) for key, value in observation.items()}
    return observation[index].copy()


class MemoryEnv(Env[Any, Any]):
    """A task as a `gymnasium.Env`. Subclasses name the task; the keyword arguments are the task's.

    Raises: TypeError for an option that the task does not have; ValueError for a bad value or action;
    `gymnasium.error.ResetNeeded` for a step before `reset` or after the end.
    """

    task_class: ClassVar[type[MemoryTask]]
    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 5}

    def __init_subclass__(cls) -> None:
        cls.__doc__ = cls.task_class.__doc__

    # gymnasium.make hands every option over by keyword; check_options turns a typo into an error.
    def __init__(self, *, render_mode: str | None = None, max_episode_steps: int | None = None, **options: Any) -> None:
        check_choice("render_mode", render_mode, (None, *RENDER_MODES))
        check_options(self.task_class, options)
        self.task = self.task_class(1, **options)
        self.render_mode = render_mode
        self.observation_space = self.task.observation_space
        self.action_space = self.task.action_space
        self._episodes = Episodes(self.task, max_episode_steps)

    @property
    def max_episode_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self._episodes.max_episode_steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. Without a seed the generator goes on; `options` must be empty."""
        if options:
            raise ValueError(f"reset takes no options, got {options!r}; pass them to gymnasium.make")
        super().reset(seed=seed)
        if seed is not None or self._episodes.generator(0) is not self.np_random:
            self._episodes.use(0, self.np_random)
        self._episodes.begin(FIRST)
        return one_of(self.task.observe(ALL), 0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated, info; `info["success"]` at the end only."""
        self._episodes.require_running()
        actions = check_actions([action], 1, int(self.task.action_space.n))
        reward, terminated, truncated, success = self._episodes.step(actions)
        info = {"success": bool(success[0])} if self._episodes.over[0] else {}
        observation = one_of(self.task.observe(ALL), 0)
        return observation, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Any:
        """The current state in `render_mode`."""
        return self._episodes.render(0, self.render_mode)
