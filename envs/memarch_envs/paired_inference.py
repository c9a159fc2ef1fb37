"""Paired associative inference: pairs that overlap are shown; items never seen together must be linked."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete

from ._checks import check_count
from ._pictures import GOAL, blank, paint_vector
from ._sampling import Floats, Ints, integers, permutations, unit_vectors
from .base import Bools, Level, MemoryTask, Observation, Picture, Rows
from .scalar import MemoryEnv
from .vector import MemoryVectorEnv


class PairedInference(MemoryTask):
    """
    ## Description
    Items form hidden chains, such as A-B-C. Neighbours are shown as pairs, of all chains, in random order. Then
    come trials: a cue and two candidates, of which one belongs to the cue's chain, `distance` links away, and the lure
    has the same position in another chain. At distance 2 and more, cue and answer were never seen together.

    ## Action Space
    `Discrete(2)`: 0 the left candidate, 1 the right one. Ignored while pairs are shown.

    ## Observation Space
    `Box(-1, 1, (3 * item_dim + 1,), float32)`: cue, left item, right item (the cue is zero while pairs are shown), and
    1 in a trial.

    ## Rewards
    1 / `num_trials` for each right choice. Oracle: 1. Uniform actions, and every player without memory: 0.5.

    ## Starting State
    Items are random unit vectors; order and sides of the pairs, and the trials, are uniform.

    ## Episode End
    Terminated after the last trial: `num_chains` (`chain_length` - 1) + `num_trials` steps. Success: all trials right.

    ## Arguments
    `num_chains=3`: at least 2. `chain_length=3`: 2 to 8. `distance=2`: links from cue to answer, 1 to
    `chain_length` - 1. `num_trials=4`: at least 1. `item_dim=16`: at least 2.

    ## References
    Bunsey and Eichenbaum 1996; Banino et al. 2020, MEMO (arXiv 2001.10913), where items are pictures.

    ## Version History
    v0: first version.
    """

    summary = "pairs that overlap are shown; link items that were never seen together"
    action_names = ("left", "right")
    levels = tuple(
        Level(f"length{n}_distance{d}", {"chain_length": n, "distance": d}, 1.0, 0.5, 0.5**4)
        for n in (3, 4, 5)
        for d in range(1, n)
    )

    def __init__(
        self,
        num_envs: int,
        *,
        num_chains: int = 3,
        chain_length: int = 3,
        distance: int = 2,
        num_trials: int = 4,
        item_dim: int = 16,
    ) -> None:
        check_count("num_chains", num_chains, 2)
        check_count("chain_length", chain_length, 2, 8)
        check_count("distance", distance, 1, chain_length - 1)
        check_count("num_trials", num_trials, 1)
        check_count("item_dim", item_dim, 2)
        self.num_chains, self.chain_length, self.distance = num_chains, chain_length, distance
        self.num_trials, self.item_dim = num_trials, item_dim
        self.num_items = num_chains * chain_length
        self.num_pairs = num_chains * (chain_length - 1)
        self.num_steps = self.max_episode_steps = self.num_pairs + num_trials
        self.observation_space = Box(-1.0, 1.0, (3 * item_dim + 1,), np.float32)
        self.action_space = Discrete(2)
        self.num_draws = self.num_items * 2 * item_dim + 2 * self.num_pairs + 5 * num_trials
        # Items by number, chain after chain; the last, number num_items, is all zero: nothing to see.
        self.items = np.zeros((num_envs, self.num_items + 1, item_dim), dtype=np.float32)
        # Cue, left and right item at each step; one more step for what is seen after the end.
        self.schedule: Ints = np.full((num_envs, self.max_episode_steps + 2, 3), self.num_items, dtype=np.int64)
        self.answers: Ints = np.zeros((num_envs, self.max_episode_steps + 2), dtype=np.int64)
        self.num_right: Ints = np.zeros(num_envs, dtype=np.int64)
        super().__init__(num_envs)

    def start(self, which: Ints, uniform: Floats) -> None:
        ends = np.cumsum([self.num_items * 2 * self.item_dim, self.num_pairs, self.num_pairs])
        items, order, sides, trials = np.split(uniform, ends, axis=1)
        n, length, shown = which.size, self.chain_length, self.num_pairs
        self.items[which, :-1] = unit_vectors(items.reshape(n, self.num_items, 2 * self.item_dim))
        chain, link = np.divmod(permutations(order), length - 1)
        first, flip = chain * length + link, sides < 0.5
        self.schedule[which, :shown, 1] = first + flip
        self.schedule[which, :shown, 2] = first + ~flip
        u = trials.reshape(n, self.num_trials, 5)
        chain = integers(u[..., 0], self.num_chains)
        other = (chain + 1 + integers(u[..., 1], self.num_chains - 1)) % self.num_chains
        low = integers(u[..., 2], length - self.distance)
        backward = u[..., 3] < 0.5
        cue, answer = low + self.distance * backward, low + self.distance * ~backward
        right = (u[..., 4] < 0.5).astype(np.int64)
        last = slice(shown, shown + self.num_trials)
        self.schedule[which, last, 0] = chain * length + cue
        self.schedule[which, last, 1] = np.where(right == 0, chain, other) * length + answer
        self.schedule[which, last, 2] = np.where(right == 1, chain, other) * length + answer
        self.answers[which, last] = right
        self.num_right[which] = 0

    def advance(self, actions: Ints) -> tuple[Floats, Bools, Bools]:
        right = (self.t > self.num_pairs) & (actions == self.answers[self.all_rows, self.t - 1])
        self.num_right += right
        ended = self.t >= self.num_steps
        return right / self.num_trials, ended, self.num_right == self.num_trials

    def observe(self, rows: Rows) -> Observation:
        copies, t = self.all_rows[rows], self.t[rows]
        seen = self.items[copies[:, None], self.schedule[copies, t]].reshape(t.size, -1)
        trial = (t >= self.num_pairs) & (t < self.num_steps)
        return np.concatenate([seen, trial[:, None].astype(np.float32)], axis=1)

    def expert(self) -> Ints:
        return self.answers[self.all_rows, np.minimum(self.t, self.num_steps)]

    def cells(self, index: int) -> Picture:
        picture = blank(5, max(self.item_dim, 2) + 2)
        t = self.t[index]
        for row, item in zip((0, 2, 4), self.schedule[index, t], strict=True):
            paint_vector(picture, row, 1, self.items[index, item])
        if self.num_pairs <= t < self.num_steps:
            picture[2 + 2 * self.answers[index, t], 0] = GOAL
        return picture

    def text(self, index: int) -> str:
        t = int(self.t[index])
        if t >= self.num_steps:
            return f"step {t}: {self.num_right[index]} of {self.num_trials} right"
        cue, left, right = (
            f"{chr(65 + i % self.chain_length)}{i // self.chain_length}" for i in self.schedule[index, t]
        )
        if t < self.num_pairs:
            return f"step {t}: {left} - {right}"
        return f"step {t}: {cue}? {left} or {right}"

    def view(self, index: int) -> str:
        t = int(self.t[index])
        # Numbers in the order of the items' first coordinates: they tell items apart, and nothing of the chains.
        ranks = np.argsort(np.argsort(self.items[index, :-1, 0]))
        cue, left, right = (str(1 + ranks[i]) if i < self.num_items else "-" for i in self.schedule[index, t])
        if t < self.num_pairs:
            return f"step {t}: {left} and {right} belong together"
        if t >= self.num_steps:
            return self.text(index)
        return f"step {t}: {cue}? {left} or {right}"


class PairedInferenceEnv(MemoryEnv):
    task_class = PairedInference


class PairedInferenceVectorEnv(MemoryVectorEnv):
    task_class = PairedInference
