"""Passive and active T-Maze: remember one cue while walking down a corridor (Ni et al. 2023)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete

from ._checks import check_count, check_flag
from ._pictures import AGENT, CUE, FLOOR, GOAL, WALL, WRONG, blank
from ._sampling import Floats, Ints
from .base import Bools, Level, MemoryTask, Observation, Picture, Rows
from .scalar import MemoryEnv
from .vector import MemoryVectorEnv

RIGHT, UP, LEFT, DOWN = range(4)


def passive_random_return(length: int) -> float:
    """Mean return of uniform actions: every move has to be RIGHT to keep up, and the last one UP or DOWN rightly."""
    on_time = sum(0.25**t for t in range(1, length + 1))
    return -(length - on_time) / length + 0.25 ** (length + 1)


def varied_random_return(length: int) -> float:
    """The same where the corridor's length is drawn: at most k cells with probability sqrt(k / length)."""
    lengths = range(1, length + 1)
    total = sum((math.sqrt(k) - math.sqrt(k - 1)) * passive_random_return(k) for k in lengths)
    return total / math.sqrt(length)


class PassiveTMaze(MemoryTask):
    """
    ## Description
    A corridor with an arm at either side of its far end. The cue, seen at the first step only, tells which arm holds
    the reward. The agent has time for the direct way and no more, so only memory is tested, not exploration.

    ## Action Space
    `Discrete(4)`: 0 right (towards the arms), 1 up, 2 left, 3 down. A move into a wall does nothing.

    ## Observation Space
    `Box(-1, 1, (2,), float32)`: 1 at the junction and in the arms, else 0; and a sign: in the arms 1 for the upper, -1
    for the lower; at the first step the same of the arm that holds the reward; else 0. The place in the corridor is not
    told.

    ## Rewards
    At the last step 1 in the right arm, 0 elsewhere; -1 / `length` after every step t before it that leaves the agent
    short of t cells. Oracle: 1. The best player without memory: 0.5. Uniform actions: about -1.

    ## Starting State
    At the cue, `length` cells from the junction; the cue is up or down with equal chance.

    ## Episode End
    Terminated after `length` + 1 steps, wherever the agent is.

    ## Arguments
    `length=50`: cells from the start to the junction, at least 1. `vary_length=False`: draw them for each episode,
    at most k of them with probability sqrt(k / `length`), so that short corridors teach what to do at the end of a long
    one; `length` in the rewards and at the end is then the one drawn.

    ## References
    Ni et al. 2023, When Do Transformers Shine in RL? (arXiv 2307.03864), section 5.1, and the code released with it;
    Bakker 2001.

    ## Version History
    v0: first version.
    """

    summary = "a cue at the start of a corridor tells which arm to take at its end"
    action_names = ("right", "up", "left", "down")
    detour: ClassVar[int] = 0
    levels = tuple(
        Level(f"length{n}", {"length": n}, 1.0, passive_random_return(n), 0.5)
        for n in (10, 50, 100, 250, 500, 1000, 1500)
    ) + (Level("upto250", {"length": 250, "vary_length": True}, 1.0, varied_random_return(250), 0.5),)

    def __init__(self, num_envs: int, *, length: int = 50, vary_length: bool = False) -> None:
        check_count("length", length, 1)
        check_flag("vary_length", vary_length)
        self.max_length, self.vary_length = length, vary_length
        self.length = np.full(num_envs, length, dtype=np.int64)
        self.observation_space = Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = Discrete(4)
        self.num_draws = 1 + vary_length
        self.max_episode_steps = length + 1 + 2 * self.detour
        self.x = np.zeros(num_envs, dtype=np.int64)
        self.y = np.zeros(num_envs, dtype=np.int64)
        self.goal = np.ones(num_envs, dtype=np.int64)
        self.seen = np.zeros(num_envs, dtype=np.bool_)
        self.cue_now = np.zeros(num_envs, dtype=np.bool_)
        super().__init__(num_envs)

    def start(self, which: Ints, uniform: Floats) -> None:
        self.x[which] = self.y[which] = 0
        self.goal[which] = np.where(uniform[:, 0] < 0.5, 1, -1)
        if self.vary_length:
            self.length[which] = 1 + np.floor(self.max_length * uniform[:, 1] ** 2)
        self.seen[which] = self.cue_now[which] = self.detour == 0

    def advance(self, actions: Ints) -> tuple[Floats, Bools, Bools]:
        junction, corridor = self.x == self.length, self.y == 0
        step = (actions == RIGHT).astype(np.int64) - (actions == LEFT)
        self.x = np.clip(self.x + step * corridor, -self.detour, self.length)
        turn = (actions == UP).astype(np.int64) - (actions == DOWN)
        self.y = np.clip(self.y + turn * junction, -1, 1)
        self.cue_now = (self.x == -self.detour) & ~self.seen
        self.seen |= self.cue_now
        ended = self.t >= self.length + 1 + 2 * self.detour
        success = ended & (self.y == self.goal)
        late = self.x < self.t - 2 * self.detour
        reward = np.where(ended, success.astype(np.float64), np.where(late, -1.0 / self.length, 0.0))
        return reward, ended, success

    def observe(self, rows: Rows) -> Observation:
        place = self.x[rows] == self.length[rows]
        sign = self.y[rows] + self.goal[rows] * self.cue_now[rows]
        return np.stack([place, sign], axis=1).astype(np.float32)

    def expert(self) -> Ints:
        turn = np.where(self.goal == 1, UP, DOWN)
        return np.where(self.seen, np.where(self.x == self.length, turn, RIGHT), LEFT)

    def cells(self, index: int) -> Picture:
        end = 1 + self.detour + int(self.length[index])
        picture = blank(5, self.max_length + self.detour + 3)
        picture[:] = WALL
        picture[2, 1 : end + 1] = FLOOR
        picture[1, end], picture[3, end] = (GOAL, WRONG) if self.goal[index] == 1 else (WRONG, GOAL)
        picture[2, 1] = CUE
        picture[2 - self.y[index], 1 + self.detour + self.x[index]] = AGENT
        return picture

    def text(self, index: int) -> str:
        arms = ("goal", "empty") if self.goal[index] == 1 else ("empty", "goal")
        cue = {1: "up", -1: "down", 0: "-"}[int(self.goal[index] * self.cue_now[index])]
        side = {1: "upper arm", -1: "lower arm", 0: "corridor"}[int(self.y[index])]
        place = f"{side}, cell {self.x[index]} of {self.length[index]}"
        return f"step {self.t[index]}: {place}; cue {cue}; up {arms[0]}, down {arms[1]}"

    def view(self, index: int) -> str:
        place = "junction" if self.x[index] == self.length[index] else "corridor"
        place = {1: "upper arm", -1: "lower arm", 0: place}[int(self.y[index])]
        cue = {1: "up", -1: "down", 0: "-"}[int(self.goal[index] * self.cue_now[index])]
        return f"step {self.t[index]}: {place}; cue {cue}"


class TMaze(PassiveTMaze):
    """
    ## Description
    The active T-Maze: the cue is one cell behind the start, away from the arms. The agent has to learn to fetch the
    information first, then to remember it down the corridor.

    ## Action Space
    `Discrete(4)`: 0 right (towards the arms), 1 up, 2 left, 3 down. A move into a wall does nothing.

    ## Observation Space
    `Box(-1, 1, (2,), float32)`: 1 at the junction and in the arms, else 0; and a sign: in the arms 1 for the upper, -1
    for the lower; at the first visit of the cue's cell the same of the arm that holds the reward; else 0.

    ## Rewards
    At the last step 1 in the right arm, 0 elsewhere; -1 / `length` after every step t before it that leaves the agent
    short of cell t - 2, so that the way to the cue costs nothing. Oracle: 1. The best player that does not fetch or not
    remember the cue: 0.5. Uniform actions: about -1 + 7 / (27 `length`).

    ## Starting State
    At cell 0, `length` cells from the junction; the cue is up or down with equal chance.

    ## Episode End
    Terminated after `length` + 3 steps, wherever the agent is.

    ## Arguments
    `length=50`: cells from the start to the junction, at least 1. `vary_length=False`: draw them for each episode,
    at most k of them with probability sqrt(k / `length`), so that short corridors teach what to do at the end of a long
    one; `length` in the rewards and at the end is then the one drawn.

    ## References
    Ni et al. 2023, When Do Transformers Shine in RL? (arXiv 2307.03864), section 5.1, and the code released with it;
    Bakker 2001.

    ## Version History
    v0: first version.
    """

    summary = "fetch the cue from behind the start, then remember it down the corridor"
    detour = 1
    levels = tuple(Level(f"length{n}", {"length": n}, 1.0, -1 + 7 / 27 / n, 0.5) for n in (10, 50, 100, 250, 500))


class PassiveTMazeEnv(MemoryEnv):
    task_class = PassiveTMaze


class PassiveTMazeVectorEnv(MemoryVectorEnv):
    task_class = PassiveTMaze


class TMazeEnv(MemoryEnv):
    task_class = TMaze


class TMazeVectorEnv(MemoryVectorEnv):
    task_class = TMaze
