"""Visual match: a colour is seen, apples are collected, then the door of that colour is to be chosen (Hung et al.)."""

from __future__ import annotations

import numpy as np

from ._rooms import FIRST_OWN, FLOOR, WALL, Kind, ThreeRooms, board_of, cells_of, toward
from ._sampling import Floats, Ints, integers, permutations
from .base import Bools, Level
from .scalar import MemoryEnv
from .vector import MemoryVectorEnv

COLOURS = (Kind("red", "r", (255, 0, 0)), Kind("green", "g", (0, 255, 0)), Kind("blue", "b", (0, 0, 255)))
CELL = ("           ", "    ppp    ", "    p+p    ", "    ppp    ", *["           "] * 3)
DOORS = (
    "###########",
    "# d  d  d #",
    "#         #",
    "#         #",
    "####   ####",
    "   # + #   ",
    "   #####   ",
)
# Mean returns of the oracle and of uniform actions, by steps among the apples: 40,000 episodes each.
RETURNS = {
    30: (16.354, 3.104),
    60: (27.407, 5.702),
    100: (41.963, 9.169),
    250: (96.418, 22.183),
    500: (187.242, 43.827),
}


class VisualMatch(ThreeRooms):
    """
    ## Description
    Three rooms, one after another. In the first the agent is shut in with one coloured cell beside it, for 15 steps. In
    the second it may collect apples for `distractor_steps` steps; an apple comes back 21 steps after it was taken. The
    third has three coloured doors: choose the one of the first room's colour, within 15 steps.

    ## Action Space
    `Discrete(4)`: 0 north, 1 south, 2 west, 3 east. Moves into walls, and all moves in the first room, do nothing.

    ## Observation Space
    What is in the 5 by 5 cells around the agent, row by row. `Box(0, 1, (125,), float32)`: for each cell wall, apple,
    red, green, blue, one-hot, 0 for floor. With `pixels=True`: `Box(0, 255, (40, 40, 3), uint8)`, 8 by 8 pixels a cell,
    the agent in the middle.

    ## Rewards
    `apple_reward` for an apple, 5 for the right door, 0 for another one, after which all doors are gone. With 10 apples
    of reward 1 and 60 steps a greedy oracle reaches 27.4, uniform actions 5.7. Success is the right door; without
    memory 1/3.

    ## Starting State
    Colour, its cell, places of the apples and order of the doors are uniform.

    ## Episode End
    Terminated after 30 + `distractor_steps` steps, whatever was chosen.

    ## Arguments
    `distractor_steps=30`: steps among the apples, at least 0. `num_apples=10`: 0 to 22. `apple_reward=1.0`: at least 0.
    `pixels=False`: observe pixels.

    ## References
    Hung et al. 2018, Optimizing agent behavior over long time scales by transporting value (arXiv 1810.06721), passive
    visual match; rewards and lengths as in Ni et al. 2023 (arXiv 2307.03864). In their code the doors' colours keep
    their places for all episodes, so that the place could be remembered as well; here they change. Their images have
    one pixel a cell.

    ## Version History
    v0: first version.
    """

    summary = "a colour is seen, apples are collected, then the door of that colour is to be chosen"
    last_steps = 15
    levels = tuple(
        Level(f"distractor{n}", {"distractor_steps": n}, oracle, uniform, 1 / 3)
        for n, (oracle, uniform) in RETURNS.items()
    )

    def __init__(
        self,
        num_envs: int,
        *,
        distractor_steps: int = 30,
        num_apples: int = 10,
        apple_reward: float = 1.0,
        pixels: bool = False,
    ) -> None:
        super().__init__(
            num_envs,
            COLOURS,
            2 + len(COLOURS),
            distractor_steps=distractor_steps,
            num_apples=num_apples,
            apple_reward=apple_reward,
            pixels=pixels,
        )
        self.first_room, self.last_room = board_of(CELL).copy(), board_of(DOORS)
        self.frame, self.doors = cells_of(CELL, "p"), cells_of(DOORS, "d")
        self.first_room[self.frame] = WALL
        self.colour: Ints = np.zeros(num_envs, dtype=np.int64)
        self.order: Ints = np.zeros((num_envs, len(COLOURS)), dtype=np.int64)

    def enter_first(self, which: Ints, uniform: Floats) -> None:
        self.colour[which] = integers(uniform[:, 0], len(COLOURS))
        self.order[which] = permutations(uniform[:, 2:])
        self.board[which] = self.first_room
        self.board[which, self.frame[integers(uniform[:, 1], self.frame.size)]] = FIRST_OWN + self.colour[which]
        self.place[which] = cells_of(CELL, "+")[0]

    def enter_last(self, which: Ints) -> None:
        self.board[which] = self.last_room
        self.board[which[:, None], self.doors] = FIRST_OWN + self.order[which]
        self.place[which] = cells_of(DOORS, "+")[0]

    def stopped(self, kind: Ints) -> Bools:
        return super().stopped(kind) | (self.t <= self.first_steps)

    def touch(self, kind: Ints) -> Floats:
        right = kind == FIRST_OWN + self.colour
        self.won |= right
        chosen = np.flatnonzero(kind >= FIRST_OWN)
        self.board[chosen[:, None], self.doors] = FLOOR
        return self.goal_reward * right

    def goal(self) -> Ints:
        door = self.doors[(self.order == self.colour[:, None]).argmax(axis=1)]
        return toward(DOORS)[door, self.place]


class VisualMatchEnv(MemoryEnv):
    task_class = VisualMatch


class VisualMatchVectorEnv(MemoryVectorEnv):
    task_class = VisualMatch
