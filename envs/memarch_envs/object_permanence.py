"""Object permanence: objects are put into boxes one after another; later, one is asked for (hide-and-seek)."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete

from ._checks import check_count
from ._pictures import CUE, HUES, WALL, blank
from ._sampling import Floats, Ints, integers, permutations
from .base import Bools, Level, MemoryTask, Observation, Picture, Rows
from .scalar import MemoryEnv
from .vector import MemoryVectorEnv

SHOW_STEPS, GAP_STEPS = 2, 1


class ObjectPermanence(MemoryTask):
    """
    ## Description
    A row of closed boxes. One object after another is seen for two steps in its box, then covered for one step. After a
    delay, in which pairs of boxes may change places in plain view, an object is named: open the box that holds it.

    ## Action Space
    `Discrete(num_boxes)`: the place to open. Ignored until an object is named.

    ## Observation Space
    `Box(0, 1, (num_boxes * num_objects + num_boxes + num_objects,), float32)`: for each place, the object seen there,
    one-hot; for each place, 1 if its box changes places now; the object named, one-hot (0 before the question).

    ## Rewards
    1 for the right box, 0 for another. Oracle: 1. Uniform actions, and every player without memory: 1 / `num_boxes`.

    ## Starting State
    Objects in distinct boxes, swaps and the object to be named are uniform.

    ## Episode End
    Terminated by the answer, after 3 `num_objects` + `delay` + 1 steps.

    ## Arguments
    `num_boxes=4`: 2 to 8. `num_objects=2`: 1 to `num_boxes`. `delay=10`: steps from the last object to the question.
    `num_swaps=0`: pairs of boxes that change places, spread over the delay; at most `delay`.

    ## References
    Our own, after the object permanence tasks of Lampinen et al. 2021 (arXiv 2105.14039), which are in 3D.

    ## Version History
    v0: first version.
    """

    summary = "objects are put into boxes, boxes may change places; where is this one?"
    levels = (
        *(Level(f"delay{d}", {"delay": d}, 1.0, 0.25, 0.25) for d in (0, 10, 30, 100)),
        *(Level(f"boxes{b}", {"num_boxes": b, "num_objects": b}, 1.0, 1 / b, 1 / b) for b in (2, 4, 8)),
        *(Level(f"swaps{s}", {"num_swaps": s}, 1.0, 0.25, 0.25) for s in (1, 2, 4)),
    )

    def __init__(
        self, num_envs: int, *, num_boxes: int = 4, num_objects: int = 2, delay: int = 10, num_swaps: int = 0
    ) -> None:
        check_count("num_boxes", num_boxes, 2, 8)
        check_count("num_objects", num_objects, 1, num_boxes)
        check_count("delay", delay, 0)
        check_count("num_swaps", num_swaps, 0, delay)
        self.num_boxes, self.num_objects, self.num_swaps = num_boxes, num_objects, num_swaps
        hiding = num_objects * (SHOW_STEPS + GAP_STEPS)
        self.question = hiding + delay
        self.max_episode_steps = self.question + 1
        self.observation_space = Box(0.0, 1.0, (num_boxes * num_objects + num_boxes + num_objects,), np.float32)
        self.action_space = Discrete(num_boxes)
        self.num_draws = num_boxes + 2 * num_swaps + 1
        # What each step of the schedule shows: an object, a swap, or -1.
        self.object_at: Ints = np.full(self.question + 2, -1, dtype=np.int64)
        self.swap_at: Ints = np.full(self.question + 2, -1, dtype=np.int64)
        for k in range(num_objects):
            begin = k * (SHOW_STEPS + GAP_STEPS)
            self.object_at[begin : begin + SHOW_STEPS] = k
        for k in range(num_swaps):
            self.swap_at[hiding + (2 * k + 1) * delay // (2 * num_swaps)] = k
        self.place: Ints = np.zeros((num_envs, num_objects), dtype=np.int64)
        self.swaps: Ints = np.zeros((num_envs, num_swaps, 2), dtype=np.int64)
        self.asked: Ints = np.zeros(num_envs, dtype=np.int64)
        self.answer: Ints = np.zeros(num_envs, dtype=np.int64)
        super().__init__(num_envs)

    def start(self, which: Ints, uniform: Floats) -> None:
        boxes, pairs, last = np.split(uniform, [self.num_boxes, self.num_boxes + 2 * self.num_swaps], axis=1)
        self.place[which] = permutations(boxes)[:, : self.num_objects]
        one = integers(pairs[:, ::2], self.num_boxes)
        other = (one + 1 + integers(pairs[:, 1::2], self.num_boxes - 1)) % self.num_boxes
        self.swaps[which] = np.stack([one, other], axis=2)
        self.asked[which] = integers(last[:, 0], self.num_objects)
        where = self.place[which, self.asked[which]]
        for a, b in zip(one.T, other.T, strict=True):
            where = np.where(where == a, b, np.where(where == b, a, where))
        self.answer[which] = where

    def advance(self, actions: Ints) -> tuple[Floats, Bools, Bools]:
        ended = self.t > self.question
        success = actions == self.answer
        return (ended & success).astype(np.float64), ended, success

    def observe(self, rows: Rows) -> Observation:
        copies, t = self.all_rows[rows], np.minimum(self.t[rows], self.question + 1)
        out = np.zeros((t.size, *self.observation_space.shape), dtype=np.float32)  # type: ignore[misc]
        flags = self.num_boxes * self.num_objects
        shown = self.object_at[t]
        some = np.flatnonzero(shown >= 0)
        out[some, self.place[copies[some], shown[some]] * self.num_objects + shown[some]] = 1
        swap = self.swap_at[t]
        some = np.flatnonzero(swap >= 0)
        for side in range(2):
            out[some, flags + self.swaps[copies[some], swap[some], side]] = 1
        some = np.flatnonzero(t == self.question)
        out[some, flags + self.num_boxes + self.asked[copies[some]]] = 1
        return out

    def expert(self) -> Ints:
        return self.answer.copy()

    def cells(self, index: int) -> Picture:
        picture = blank(3, 2 * self.num_boxes + 1)
        picture[1, 1::2] = WALL
        t = min(int(self.t[index]), self.question + 1)
        if self.object_at[t] >= 0:
            picture[1, 1 + 2 * self.place[index, self.object_at[t]]] = HUES[self.object_at[t]]
        if self.swap_at[t] >= 0:
            picture[2, 1 + 2 * self.swaps[index, self.swap_at[t]]] = CUE
        if t >= self.question:
            picture[0, 1:-1] = HUES[self.asked[index]]
        return picture

    def text(self, index: int) -> str:
        t = min(int(self.t[index]), self.question + 1)
        boxes = ["[ ]"] * self.num_boxes
        if self.object_at[t] >= 0:
            boxes[self.place[index, self.object_at[t]]] = f"[{self.object_at[t]}]"
        news = ""
        if self.swap_at[t] >= 0:
            news = "boxes {} and {} change places".format(*self.swaps[index, self.swap_at[t]])
        elif t >= self.question:
            news = f"where is object {self.asked[index]}?"
        return f"{' '.join(boxes)}  step {t}  {news}".rstrip()


class ObjectPermanenceEnv(MemoryEnv):
    task_class = ObjectPermanence


class ObjectPermanenceVectorEnv(MemoryVectorEnv):
    task_class = ObjectPermanence
