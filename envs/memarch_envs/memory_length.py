"""Memory length: a few bits at the first step, one of them asked for at the last (after bsuite's memory_len)."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete

from ._checks import check_count
from ._pictures import CUE, WALL, blank, paint_vector
from ._sampling import Floats, Ints, integers
from .base import Bools, Level, MemoryTask, Observation, Picture, Rows
from .scalar import MemoryEnv
from .vector import MemoryVectorEnv


class MemoryLength(MemoryTask):
    """
    ## Description
    The first observation shows `num_bits` random bits. `length` steps later one of them is asked for. Nothing else
    happens, and no action but the last one matters.

    ## Action Space
    `Discrete(2)`: the value of the bit.

    ## Observation Space
    `Box(-1, 1, (2 + 2 * num_bits,), float32)`: share of the time left; 1 if this is the question; the bits as -1 or 1
    (0 after the first step); which bit is asked for, one-hot (0 before the question).

    ## Rewards
    At the end 1 for the right bit, -1 for the other; 0 before. Oracle: 1. Uniform actions, and every player without
    memory: 0.

    ## Starting State
    Bits and question are uniform.

    ## Episode End
    Terminated by the answer, after `length` + 1 steps.

    ## Arguments
    `length=20`: steps from the bits to the question, at least 1. `num_bits=1`: bits to remember, at least 1.

    ## References
    Osband et al. 2020, Behaviour Suite for Reinforcement Learning (arXiv 1908.03568), experiments memory_len and
    memory_size. Question, answer and end come at the same steps there. What differs: the bits are seen twice, after
    the reset and again after the first step, so that a length of 1 needs no memory; the clock is one step late, 1 /
    `length` at the question; and the question is a number in place of our flag and one-hot, 0 for the first bit.

    ## Version History
    v0: first version.
    """

    summary = "a few bits at the first step, one of them asked for at the last"
    levels = (
        *(Level(f"length{n}", {"length": n}, chance=0.5) for n in (1, 3, 10, 20, 30, 50, 100)),
        *(Level(f"bits{n}", {"length": 2, "num_bits": n}, chance=0.5) for n in (2, 5, 10, 20, 40)),
    )

    def __init__(self, num_envs: int, *, length: int = 20, num_bits: int = 1) -> None:
        check_count("length", length, 1)
        check_count("num_bits", num_bits, 1)
        self.length, self.num_bits = length, num_bits
        self.observation_space = Box(-1.0, 1.0, (2 + 2 * num_bits,), np.float32)
        self.action_space = Discrete(2)
        self.num_draws = num_bits + 1
        self.max_episode_steps = length + 1
        self.bits = np.zeros((num_envs, num_bits), dtype=np.int64)
        self.asked = np.zeros(num_envs, dtype=np.int64)
        super().__init__(num_envs)

    def start(self, which: Ints, uniform: Floats) -> None:
        self.bits[which] = integers(uniform[:, :-1], 2)
        self.asked[which] = integers(uniform[:, -1], self.num_bits)

    def advance(self, actions: Ints) -> tuple[Floats, Bools, Bools]:
        ended = self.t > self.length
        success = actions == self.expert()
        return np.where(ended, np.where(success, 1.0, -1.0), 0.0), ended, success

    def observe(self, rows: Rows) -> Observation:
        t = self.t[rows]
        out = np.zeros((t.size, 2 + 2 * self.num_bits), dtype=np.float32)
        out[:, 0] = np.maximum(1 - t / self.length, 0)
        first, question = np.flatnonzero(t == 0), np.flatnonzero(t == self.length)
        out[question, 1] = 1
        out[first, 2 : 2 + self.num_bits] = 2 * self.bits[rows][first] - 1
        out[question, 2 + self.num_bits + self.asked[rows][question]] = 1
        return out

    def expert(self) -> Ints:
        return self.bits[self.all_rows, self.asked]

    def cells(self, index: int) -> Picture:
        picture = blank(3, max(self.num_bits, 5))
        paint_vector(picture, 0, 0, 2.0 * self.bits[index] - 1)
        if self.t[index] > 0:
            picture[0] //= 3
        if self.t[index] >= self.length:
            picture[1, self.asked[index]] = CUE
        done = round(picture.shape[1] * min(self.t[index] / self.length, 1.0))
        picture[2, :done] = WALL
        return picture

    def text(self, index: int) -> str:
        bits = "".join(map(str, self.bits[index]))
        asked = f"bit {self.asked[index]}?" if self.t[index] >= self.length else "-"
        shown = "shown" if self.t[index] == 0 else "hidden"
        return f"step {self.t[index]} of {self.length}: bits {bits} ({shown}); {asked}"

    def view(self, index: int) -> str:
        bits = "".join(map(str, self.bits[index])) if self.t[index] == 0 else "-"
        asked = f"bit {self.asked[index]}?" if self.t[index] >= self.length else "-"
        return f"step {self.t[index]} of {self.length}: bits {bits}; {asked}"


class MemoryLengthEnv(MemoryEnv):
    task_class = MemoryLength


class MemoryLengthVectorEnv(MemoryVectorEnv):
    task_class = MemoryLength
