"""Interquartile mean and bootstrap: by hand, and against scipy."""

import numpy as np
import pytest
from scipy.stats import trim_mean

from memarch.agents import bootstrap_interval, interquartile_mean


def test_interquartile_mean() -> None:
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 100]) == 3.5
    assert interquartile_mean([7.0]) == 7 and interquartile_mean([1, 2, 6]) == 3
    for size in (3, 8, 13, 50):
        scores = np.random.default_rng(size).normal(size=(size, 3))
        assert interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25, axis=None))
    with pytest.raises(ValueError, match="at least one score; got none"):
        interquartile_mean([])


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for index in range(200):
        interval = bootstrap_interval(
            generator.normal(3.0, 1.0, size=30), statistic=np.mean, num_samples=300, seed=index
        )
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= 3 <= interval.high
    assert 0.88 <= covered / 200 <= 0.98


def test_tasks_are_resampled_on_their_own() -> None:
    # Stratified: every sample holds each task's constant once for each run, so nothing varies.
    scores = np.tile([1.0, 5.0], (4, 1))
    assert bootstrap_interval(scores) == (3.0, 3.0, 3.0)
    assert bootstrap_interval([1.0, 5.0, 2.0]).low < bootstrap_interval([1.0, 5.0, 2.0]).high
    assert bootstrap_interval([1.0, 5.0], seed=3) == bootstrap_interval([1.0, 5.0], seed=3)
