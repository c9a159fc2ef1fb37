"""The vector form: a native numpy `gymnasium.vector.VectorEnv`, equal to `SyncVectorEnv` over the scalar form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ._checks import check_actions, check_choice, check_count, check_options
from ._episodes import Episodes
from ._sampling import Ints
from .base import ALL, Bools, MemoryTask
from .scalar import RENDER_MODES


class MemoryVectorEnv(VectorEnv[Any, Any, Any]):
    """A task as a `gymnasium.vector.VectorEnv`. Subclasses name the task; further keyword arguments are the task's.

    `autoreset_mode` is gymnasium's: NEXT_STEP (the step after the end begins an episode, its action is ignored),
    SAME_STEP (the step that ends an episode begins the next, the last observation is in `info["final_obs"]`), or
    DISABLED (`reset(options={"reset_mask": mask})` begins those that are over). A string such as "SameStep" works too.
    Copy i is seeded with `seed + i`, and then follows the trajectory of the scalar form under that seed.

    Raises: as `MemoryEnv`.
    """

    task_class: ClassVar[type[MemoryTask]]

    def __init_subclass__(cls) -> None:
        cls.__doc__ = cls.task_class.__doc__

    # gymnasium.make_vec hands every option over by keyword; check_options turns a typo into an error.
    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        check_count("num_envs", num_envs, 1)
        check_choice("render_mode", render_mode, (None, *RENDER_MODES))
        check_options(self.task_class, options)
        if isinstance(autoreset_mode, str):
            check_choice("autoreset_mode", autoreset_mode, [mode.value for mode in AutoresetMode])
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": list(RENDER_MODES), "render_fps": 5, "autoreset_mode": self.autoreset_mode}
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.task = self.task_class(num_envs, **options)
        self.single_observation_space = self.task.observation_space
        self.single_action_space = self.task.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._episodes = Episodes(self.task, max_episode_steps)

    @property
    def max_episode_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self._episodes.max_episode_steps

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes: everywhere, or where `options["reset_mask"]` (bool [num_envs]) says so."""
        which = self._which(options)
        super().reset(seed=seed if isinstance(seed, int) else None)
        seeds: Sequence[int | None]
        if seed is None or isinstance(seed, int):
            seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
        else:
            seeds = seed
        if len(seeds) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds, one for each environment, got {len(seeds)}")
        for index in which:
            if seeds[index] is not None or self._episodes.generator(index) is None:
                self._episodes.use(index, seeding.np_random(seeds[index])[0])
        self._episodes.begin(which)
        return self.task.observe(ALL), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Observations, rewards float64, terminations, truncations bool, infos; success is told at the end only."""
        if self.autoreset_mode is AutoresetMode.DISABLED:
            self._episodes.require_running()
        else:
            self._episodes.require_begun()
        actions = check_actions(actions, self.num_envs, int(self.single_action_space.n))  # type: ignore[attr-defined]
        next_step = self.autoreset_mode is AutoresetMode.NEXT_STEP
        begin = np.flatnonzero(self._episodes.over) if next_step else None
        reward, terminated, truncated, success = self._episodes.step(actions)
        if begin is not None and begin.size:
            reward[begin], terminated[begin], truncated[begin] = 0.0, False, False
            self._episodes.begin(begin)
        over = self._episodes.over
        ended = np.flatnonzero(over)
        infos: dict[str, Any] = {}
        if ended.size:
            infos = {"success": success & over, "_success": over.copy()}
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                infos = self._final(ended, over.copy(), infos)
                self._episodes.begin(ended)
        return self.task.observe(ALL), reward, terminated, truncated, infos

    def render(self) -> Any:
        """A tuple with each environment in `render_mode`; None without one."""
        if self.render_mode is None:
            return None
        return tuple(self._episodes.render(index, self.render_mode) for index in range(self.num_envs))

    def _final(self, ended: Ints, over: Bools, last_info: dict[str, Any]) -> dict[str, Any]:
        """What SAME_STEP tells of the episodes that just ended, before they begin anew."""
        last = self.task.observe(ended)
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row, index in enumerate(ended):
            final_obs[index] = {key: part[row] for key, part in last.items()} if isinstance(last, dict) else last[row]
        return {"final_obs": final_obs, "_final_obs": over, "final_info": last_info, "_final_info": over.copy()}

    def _which(self, options: dict[str, Any] | None) -> Ints:
        options = options or {}
        if set(options) - {"reset_mask"}:
            raise ValueError(f"reset knows the option 'reset_mask' only, got {sorted(options)}")
        mask = options.get("reset_mask")
        if mask is None:
            return self.task.all_rows
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(f"reset_mask must be a bool array of shape ({self.num_envs},), got {mask!r}")
        if not mask.any():
            raise ValueError("reset_mask selects no environment; leave it out to reset all")
        return np.flatnonzero(mask)
