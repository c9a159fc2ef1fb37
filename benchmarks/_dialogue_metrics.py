"""Scores of a ranking against a question's evidence, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks._dialogue_locomo import Conversation

CUTOFFS = (5, 10, 25, 50)
DEPTH = max(CUTOFFS)
RECALLS = tuple(f"R@{k}" for k in CUTOFFS)
METRICS = (*RECALLS, "all@5", "all@10", "any@5", "any@10", "NDCG@10", "session R@5", "session R@10")


def score(ranking: NDArray[np.intp], evidence: Sequence[int], sessions: Sequence[str]) -> list[float]:
    """`METRICS` of one question.

    ranking: places of turns, best first, at most `DEPTH`. R@k: share of the evidence among the first k; all, any:
    whether all, or one of it is. Session level: sessions in the order in which the ranking first names them.
    """
    hits = np.isin(ranking, evidence)
    recall = [float(hits[:k].sum()) / len(evidence) for k in CUTOFFS]
    at = {k: recall[CUTOFFS.index(k)] for k in (5, 10)}
    gain = sum(1 / math.log2(place + 2) for place in np.flatnonzero(hits[:10]))
    ideal = sum(1 / math.log2(place + 2) for place in range(min(10, len(evidence))))
    named = list(dict.fromkeys(sessions[place] for place in ranking))
    wanted = {sessions[place] for place in evidence}
    by_session = [len(wanted & set(named[:k])) / len(wanted) for k in (5, 10)]
    return [
        *recall, float(at[5] == 1), float(at[10] == 1), float(at[5] > 0), float(at[10] > 0), gain / ideal, *by_session,
    ]  # fmt: skip


def score_all(conversation: Conversation, rankings: Sequence[NDArray[np.intp]]) -> NDArray[np.float64]:
    """`[questions, METRICS]` of one conversation, in percent."""
    sessions = [chunk.session for chunk in conversation.chunks]
    pairs = zip(rankings, conversation.questions, strict=True)
    return 100 * np.array([score(ranking, question.evidence, sessions) for ranking, question in pairs])


def bootstrap(values: NDArray[np.float64], *, resamples: int = 1000) -> NDArray[np.float64]:
    """Ends of the 95 % intervals of the columns' means, `[2, columns]`, questions drawn with replacement (seed 0)."""
    draw = np.random.default_rng(0)
    means = np.array([values[draw.integers(len(values), size=len(values))].mean(0) for _ in range(resamples)])
    return np.percentile(means, [2.5, 97.5], axis=0)
