"""The life of N episodes: seeding, beginning, stepping, ending. Both forms of an environment are built on it."""

from __future__ import annotations

import numpy as np
from gymnasium.error import ResetNeeded

from ._checks import check_count
from ._sampling import Draws, Floats, Ints
from .base import Bools, MemoryTask, Picture

PICTURE_SIZE = 160


class Episodes:
    """Runs `task`; knows which copies are over. `max_episode_steps=None` takes the task's own limit."""

    def __init__(self, task: MemoryTask, max_episode_steps: int | None) -> None:
        if max_episode_steps is not None:
            check_count("max_episode_steps", max_episode_steps, 1)
        self.task = task
        self.max_episode_steps = task.max_episode_steps if max_episode_steps is None else max_episode_steps
        self.over: Bools = np.ones(task.num_envs, dtype=np.bool_)
        self.begun: Bools = np.zeros(task.num_envs, dtype=np.bool_)
        self._draws = Draws(task.num_envs, task.num_draws)

    def generator(self, index: int) -> np.random.Generator | None:
        return self._draws.generator(index)

    def use(self, index: int, generator: np.random.Generator) -> None:
        """Take the randomness of copy `index` from `generator`, and let it forget earlier episodes."""
        self._draws.use(index, generator)
        self.task.forget(np.array([index]))

    def begin(self, which: Ints) -> None:
        """Begin new episodes in copies `which` [n]."""
        self.task.start(which, self._draws.take(which))
        self.task.t[which] = 0
        self.over[which] = False
        self.begun[which] = True

    def step(self, actions: Ints) -> tuple[Floats, Bools, Bools, Bools]:
        """Step every copy: reward, terminated, truncated, success, each a new array [N]."""
        self.task.t += ~self.over
        reward, terminated, success = self.task.advance(actions)
        truncated = (self.task.t >= self.max_episode_steps) & ~terminated
        self.over = terminated | truncated
        return reward, terminated, truncated, success

    def require_begun(self) -> None:
        """Raise ResetNeeded if some copy was never reset."""
        if not self.begun.all():
            raise ResetNeeded(f"{type(self.task).__name__}: call reset() before step() or render()")

    def require_running(self) -> None:
        """Raise ResetNeeded if some copy was never reset or is over."""
        self.require_begun()
        if self.over.any():
            index = int(np.flatnonzero(self.over)[0])
            steps = int(self.task.t[index])
            raise ResetNeeded(
                f"{type(self.task).__name__}: the episode of environment {index} ended at step {steps}; "
                "call reset() before the next step()"
            )

    def render(self, index: int, mode: str | None) -> Picture | str | None:
        """Copy `index` in `mode`: a picture of about 160 pixels or more, text, or None."""
        self.require_begun()
        if mode is None:
            return None
        if mode == "ansi":
            return self.task.text(index)
        cells = self.task.cells(index)
        scale = max(1, PICTURE_SIZE // max(cells.shape[:2]))
        return cells.repeat(scale, axis=0).repeat(scale, axis=1)
