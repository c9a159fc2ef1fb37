"""Proof of memory: a smoke test that a memory agent learns in seconds (after Pleines et al.)."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete

from ._checks import check_count
from ._pictures import AGENT, CUE, FLOOR, GOAL, WALL, WRONG, blank
from ._sampling import Floats, Ints, integers
from .base import Bools, Level, MemoryTask, Observation, Picture, Rows
from .scalar import MemoryEnv
from .vector import MemoryVectorEnv

END = 5
FARTHEST_START = 2
STEP_COST, END_REWARD = 0.1, 1.6


class ProofOfMemory(MemoryTask):
    """
    ## Description
    A line with a goal at one end and a trap at the other. For `show_steps` steps both are seen and the agent cannot
    move; then they are hidden and it walks. With memory it walks to the goal, without it must guess.

    ## Action Space
    `Discrete(2)`: 0 left, 1 right, by 0.2. Ignored in the first `show_steps` steps.

    ## Observation Space
    `Box(-1, 1, (3,), float32)`: left end (1 goal, -1 trap, 0 hidden), position in [-1, 1], right end. The ends are
    hidden before the agent chooses its first step that moves it.

    ## Rewards
    1.6 at the goal, -1.6 at the trap, -0.1 for every other step that moves the agent. Oracle: 1.2 on the mean over
    starts. Walking straight to a random end: -0.4. Uniform actions: -1.708.

    ## Starting State
    Position uniform in -0.4, -0.2, 0, 0.2, 0.4; the goal left or right with equal chance.

    ## Episode End
    Terminated at either end, truncated after 30 + `show_steps` steps.

    ## Arguments
    `show_steps=2`: steps in which the agent cannot move, at least 1.

    ## References
    Pleines et al. 2023, Memory Gym (arXiv 2309.17207): the environment of this name in the authors' training code, with
    the agent frozen while the goal is shown, truncated after 32 steps. CleanRL's copy of it ends after 16. There the
    goal is still seen when the first step that moves is chosen: position then tells enough for 0.7 without memory.

    ## Version History
    v0: first version.
    """

    summary = "a smoke test that trains in seconds: a goal is shown, then hidden; walk to it"
    action_names = ("left", "right")
    levels = tuple(Level(f"show{n}", {"show_steps": n}, 1.2, -1.708, 0.5) for n in (1, 2, 4))

    def __init__(self, num_envs: int, *, show_steps: int = 2) -> None:
        check_count("show_steps", show_steps, 1)
        self.show_steps = show_steps
        self.observation_space = Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = Discrete(2)
        self.num_draws = 2
        self.max_episode_steps = 30 + show_steps
        self.position = np.zeros(num_envs, dtype=np.int64)
        self.goal = np.ones(num_envs, dtype=np.int64)
        super().__init__(num_envs)

    def start(self, which: Ints, uniform: Floats) -> None:
        self.position[which] = integers(uniform[:, 0], 2 * FARTHEST_START + 1) - FARTHEST_START
        self.goal[which] = np.where(uniform[:, 1] < 0.5, 1, -1)

    def advance(self, actions: Ints) -> tuple[Floats, Bools, Bools]:
        free = self.t > self.show_steps
        self.position = np.clip(self.position + free * (2 * actions - 1), -END, END)
        ended = np.abs(self.position) == END
        success = self.position == END * self.goal
        reward = np.where(ended, np.where(success, END_REWARD, -END_REWARD), -STEP_COST * free)
        return reward, ended, success

    def observe(self, rows: Rows) -> Observation:
        shown = (self.t[rows] < self.show_steps) * self.goal[rows]
        return np.stack([-shown, self.position[rows] / END, shown], axis=1).astype(np.float32)

    def expert(self) -> Ints:
        return (self.goal == 1).astype(np.int64)

    def cells(self, index: int) -> Picture:
        picture = blank(3, 2 * END + 3)
        picture[:] = WALL
        picture[1, 1:-1] = FLOOR
        picture[1, 1], picture[1, -2] = (WRONG, GOAL) if self.goal[index] == 1 else (GOAL, WRONG)
        if self.t[index] < self.show_steps:
            picture[0, 1] = picture[0, -2] = CUE
        picture[1, 1 + END + self.position[index]] = AGENT
        return picture

    def text(self, index: int) -> str:
        line = ["."] * (2 * END + 1)
        line[0], line[-1] = ("x", "G") if self.goal[index] == 1 else ("G", "x")
        line[END + self.position[index]] = "A"
        return f"{''.join(line)}  step {self.t[index]}, {'shown' if self.t[index] < self.show_steps else 'hidden'}"

    def view(self, index: int) -> str:
        line = self.text(index)
        return line if self.t[index] < self.show_steps else line.replace("G", "?").replace("x", "?")


class ProofOfMemoryEnv(MemoryEnv):
    task_class = ProofOfMemory


class ProofOfMemoryVectorEnv(MemoryVectorEnv):
    task_class = ProofOfMemory
