"""Key to door: take a key, collect apples, then open the door that the key fits (Hung et al.)."""

from __future__ import annotations

import numpy as np

from ._checks import check_choice
from ._rooms import FIRST_OWN, FLOOR, Kind, ThreeRooms, board_of, cells_of, toward
from ._sampling import Floats, Ints, integers, permutations
from .base import Bools, Level
from .scalar import MemoryEnv
from .vector import MemoryVectorEnv

ONE_KEY, ONE_DOOR = (Kind("key", "k", (160, 82, 45)),), (Kind("door", "D", (135, 206, 235)),)
KEYS = tuple(
    Kind(f"{name} key", name[0], colour)
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255)))
)
DOORS = tuple(
    Kind(f"{name} door", name[0].upper(), colour)
    for name, colour in (("red", (150, 60, 60)), ("green", (60, 150, 60)), ("blue", (60, 60, 150)))
)
KEY_ROOM = (
    "  #######  ",
    "  #kkkkk#  ",
    "  #kkkkk#  ",
    "  ##   ##  ",
    "  #+++++#  ",
    "  #+++++#  ",
    "  #######  ",
)
DOOR_ROOMS = {
    1: (
        "           ",
        "   ##d##   ",
        "   #   #   ",
        "   # + #   ",
        "   #   #   ",
        "   #####   ",
        "           ",
    ),
    3: (
        "           ",
        "   #ddd#   ",
        "   #   #   ",
        "   # + #   ",
        "   #   #   ",
        "   #####   ",
        "           ",
    ),
}
# Mean returns of the oracle and of uniform actions, by doors and steps among the apples: 40,000 episodes each.
RETURNS = {
    (3, 60): (27.393, 5.522),
    (3, 120): (49.069, 10.695),
    (3, 250): (96.359, 21.977),
    (3, 500): (187.125, 43.625),
    (1, 60): (27.392, 5.551),
    (1, 120): (49.065, 10.733),
    (1, 250): (96.354, 21.964),
    (1, 500): (187.109, 43.662),
}


class KeyToDoor(ThreeRooms):
    """
    ## Description
    Three rooms, one after another. In the first lies a key, to be taken within 15 steps by walking onto it. In the
    second the agent may collect apples for `distractor_steps` steps; an apple comes back 21 steps after it was taken.
    In the third, for 10 steps, the key opens a door. With three doors the key has a colour, and fits the door of that
    colour only: whether and which key was taken has to be remembered. With one door a key that was taken opens it, as
    in the paper: this asks for credit over a long time, but hardly for memory.

    ## Action Space
    `Discrete(4)`: 0 north, 1 south, 2 west, 3 east. Moves into walls, and into doors without a key, do nothing.

    ## Observation Space
    What is in the 5 by 5 cells around the agent, row by row; whether it has the key is not told.
    `Box(0, 1, (25 * (2 + 2 * num_doors),), float32)`: for each cell wall, apple, key or red, green, blue key, door or
    red, green, blue door, one-hot, 0 for floor. With `pixels=True`: `Box(0, 255, (40, 40, 3), uint8)`, 8 by 8 pixels a
    cell, the agent in the middle.

    ## Rewards
    `apple_reward` for an apple, 5 for the right door, 0 for another one, which breaks the key. With 10 apples of reward
    1 and 60 steps a greedy oracle reaches 27.4, uniform actions 5.5. Success is the right door; without memory
    1 / `num_doors`.

    ## Starting State
    Places of key, agent and apples, colour of the key and order of the doors are uniform.

    ## Episode End
    Terminated after 25 + `distractor_steps` steps, whatever was opened.

    ## Arguments
    `num_doors=3`: 1 or 3. `distractor_steps=60`: steps among the apples, at least 0. `num_apples=10`: 0 to 22.
    `apple_reward=1.0`: at least 0. `pixels=False`: observe pixels.

    ## References
    Hung et al. 2018, Optimizing agent behavior over long time scales by transporting value (arXiv 1810.06721), key to
    door; rewards and lengths as in Ni et al. 2023 (arXiv 2307.03864). Three doors are ours. Their images have one pixel
    a cell, and show for one frame that the key was taken.

    ## Version History
    v0: first version.
    """

    summary = "take a key, collect apples, then open the door that the key fits"
    last_steps = 10
    levels = tuple(
        Level(f"doors{doors}_distractor{n}", {"num_doors": doors, "distractor_steps": n}, oracle, uniform, 1 / doors)
        for (doors, n), (oracle, uniform) in RETURNS.items()
    )

    def __init__(
        self,
        num_envs: int,
        *,
        num_doors: int = 3,
        distractor_steps: int = 60,
        num_apples: int = 10,
        apple_reward: float = 1.0,
        pixels: bool = False,
    ) -> None:
        check_choice("num_doors", num_doors, tuple(DOOR_ROOMS))
        super().__init__(
            num_envs,
            (*ONE_KEY, *ONE_DOOR) if num_doors == 1 else (*KEYS, *DOORS),
            3 + num_doors,
            distractor_steps=distractor_steps,
            num_apples=num_apples,
            apple_reward=apple_reward,
            pixels=pixels,
        )
        self.num_doors, self.first_door = num_doors, FIRST_OWN + num_doors
        self.doors = cells_of(DOOR_ROOMS[num_doors], "d")
        self.key_cell: Ints = np.zeros(num_envs, dtype=np.int64)
        self.colour: Ints = np.zeros(num_envs, dtype=np.int64)
        self.order: Ints = np.zeros((num_envs, num_doors), dtype=np.int64)
        # `taken` stays true; a key that was `used` opens no other door.
        self.taken = np.zeros(num_envs, dtype=np.bool_)
        self.used = np.zeros(num_envs, dtype=np.bool_)

    def enter_first(self, which: Ints, uniform: Floats) -> None:
        shelf, floor = cells_of(KEY_ROOM, "k"), cells_of(KEY_ROOM, "+")
        self.key_cell[which] = shelf[integers(uniform[:, 0], shelf.size)]
        self.place[which] = floor[integers(uniform[:, 1], floor.size)]
        self.colour[which] = integers(uniform[:, 2], self.num_doors)
        self.order[which] = permutations(uniform[:, 3:])
        self.board[which] = board_of(KEY_ROOM)
        self.board[which, self.key_cell[which]] = FIRST_OWN + self.colour[which]
        self.taken[which] = self.used[which] = False

    def enter_last(self, which: Ints) -> None:
        self.board[which] = board_of(DOOR_ROOMS[self.num_doors])
        self.board[which[:, None], self.doors] = self.first_door + self.order[which]
        self.place[which] = cells_of(DOOR_ROOMS[self.num_doors], "+")[0]

    def stopped(self, kind: Ints) -> Bools:
        return super().stopped(kind) | ((kind >= self.first_door) & ~self.taken)

    def touch(self, kind: Ints) -> Floats:
        found = np.flatnonzero((kind >= FIRST_OWN) & (kind < self.first_door))
        self.board[found, self.place[found]] = FLOOR
        self.taken[found] = True
        opened = (kind >= self.first_door) & ~self.used
        self.used |= opened
        right = opened & (kind - self.first_door == self.colour)
        self.won |= right
        return self.goal_reward * right

    def goal(self) -> Ints:
        door = self.doors[(self.order == self.colour[:, None]).argmax(axis=1)]
        to_key, to_door = toward(KEY_ROOM), toward(DOOR_ROOMS[self.num_doors])
        first = self.t < self.orchard_begins
        return np.where(first, to_key[self.key_cell, self.place], to_door[door, self.place])


class KeyToDoorEnv(MemoryEnv):
    task_class = KeyToDoor


class KeyToDoorVectorEnv(MemoryVectorEnv):
    task_class = KeyToDoor
