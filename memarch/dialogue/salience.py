"""Semantic forgetting (arXiv 2504.16754, section 3): how much each chunk matters now, and which ones to put away."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memarch.dialogue.records import ForgetReport, Marks


@dataclass(frozen=True)
class ForgettingPolicy:
    """When to forget, and how much; the numbers are the paper's but for the two marked [ours].

    Salience of chunk i at turn t: lambda_ e^{-gamma (t - i)} + beta delta_i, delta_i = 1 if a search returned the chunk
    within the last `window_turns` turns. As printed, the paper gives the bonus to the chunks that were *not* retrieved,
    beta (1 - delta_i), which forgets what is used; `as_published=True` does that.

    every_turns: how often. fraction: of the chunks alive, the lowest so many are put away. min_age_turns: chunks that
    are younger stay [ours]. min_chunks: below so many chunks alive nothing is forgotten by itself [ours]: it would save
    no time worth having, and cost recall (LoCoMo's conv-30: 1 point of R@10 for 2 turns of 369).
    Raises: ValueError naming the field that is out of range.
    """

    lambda_: float = 1.0
    gamma: float = 0.002
    beta: float = 0.5
    window_turns: int = 100
    every_turns: int = 100
    fraction: float = 0.005
    min_age_turns: int = 100
    min_chunks: int = 10_000
    as_published: bool = False

    def __post_init__(self) -> None:
        for name in ("lambda_", "gamma", "beta"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number >= 0; got {value}")
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction must be between 0 and 1; got {self.fraction}")
        for name, least in (("window_turns", 0), ("every_turns", 1), ("min_age_turns", 0), ("min_chunks", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")

    def is_due(self, turn: int, last_looked: int) -> bool:
        """Whether to look at `turn` for something to forget: last done at turn `last_looked` (0: never)."""
        return turn - last_looked >= self.every_turns


DEFAULT_POLICY = ForgettingPolicy()


def salience(
    turns: NDArray[np.int64],
    retrieved_at: NDArray[np.int64],
    now: int,
    policy: ForgettingPolicy = DEFAULT_POLICY,
) -> NDArray[np.float64]:
    """Salience `[n]` at turn `now` of chunks said at `turns` `[n]`, last retrieved at `retrieved_at` `[n]` (0: never).

    Between 0 and lambda_ + beta. A turn later than `now` counts as said now.
    """
    said, used = np.asarray(turns, dtype=np.int64), np.asarray(retrieved_at, dtype=np.int64)
    if said.shape != used.shape or said.ndim != 1:
        raise ValueError(f"turns and retrieved_at must both be [n]; got shapes {said.shape} and {used.shape}")
    age = np.maximum(now - said, 0)
    recently = (used > 0) & (now - used <= policy.window_turns)
    bonus = ~recently if policy.as_published else recently
    return policy.lambda_ * np.exp(-policy.gamma * age) + policy.beta * bonus


def choose(marks: Marks, now: int, policy: ForgettingPolicy = DEFAULT_POLICY, *, dry_run: bool = False) -> ForgetReport:
    """Which of the chunks alive to put away at turn `now`; nothing is changed here, the caller archives them.

    floor(fraction x chunks alive) of them, of the lowest salience among those neither pinned nor younger than
    `min_age_turns`; of equal ones the older. Archived chunks in `marks` are passed over.

    Returns: chunk numbers from the least salient on, their salience, and how many were considered, pinned, young.
    """
    alive = marks.where(~marks.archived)
    young = ~alive.pinned & (now - alive.turns < policy.min_age_turns)
    free = alive.where(~alive.pinned & ~young)
    values = salience(free.turns, free.retrieved_at, now, policy)
    # The small term keeps 0.29 x 100 = 28.999999999999996 at 29.
    count = min(len(free), math.floor(policy.fraction * len(alive) + 1e-9))
    order = np.lexsort((free.chunks, values))[:count]
    return ForgetReport(
        chunks=tuple(free.chunks[order].tolist()),
        salience=tuple(values[order].tolist()),
        num_considered=len(alive),
        num_pinned=int(alive.pinned.sum()),
        num_young=int(young.sum()),
        dry_run=dry_run,
    )
