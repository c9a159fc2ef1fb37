"""Scores of a few runs as one number with an interval: interquartile mean and bootstrap (arXiv 2108.13264).

The definitions are those of that paper's package rliable, in a few lines: scores `[R, M]` of R runs on M tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


class Interval(NamedTuple):
    """A number, and between what it lies with the confidence asked for."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Scores | Sequence[float]) -> float:
    """Mean of the middle half of all scores: the lowest and the highest quarter (rounded down) are left out."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if not ordered.size:
        raise ValueError("the interquartile mean needs at least one score; got none")
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def bootstrap_interval(
    scores: Scores | Sequence[float],
    *,
    statistic: Callable[[Scores], float] = interquartile_mean,
    num_samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `statistic`, from runs drawn with replacement, for each task on its own (stratified).

    Args:
        scores: `[R, M]`, or `[R]` for one task.
        statistic: of scores of that shape.
        num_samples: bootstrap samples.
        confidence: of the interval.
        seed: of the drawing.

    Raises:
        ValueError: no scores.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if not matrix.size:
        raise ValueError("an interval needs at least one score; got none")
    generator = np.random.default_rng(seed)
    samples = np.empty(num_samples)
    for index in range(num_samples):
        rows = generator.integers(len(matrix), size=matrix.shape)
        samples[index] = statistic(np.take_along_axis(matrix, rows, axis=0))
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(statistic(matrix), float(low), float(high))
