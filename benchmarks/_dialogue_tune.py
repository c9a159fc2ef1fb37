"""Tune the ranking's weights on the first three conversations, the others unseen.

Coordinate ascent over a coarse grid, from textbook BM25 with a little of the neighbours and no cues: each number in
turn takes the value that lifts the mean of R@5, R@10, R@25 and R@50 most, but only if it gains at least 0.1 points, so
that noise does not move it. Then the weights that speak for a turn whatever is asked are made as small as they can be
without losing 0.1 points in all: other people's dialogues may tell in other ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from benchmarks._dialogue_arms import Vectors, ask, embed
from benchmarks._dialogue_locomo import Conversation, counts, load
from benchmarks._dialogue_metrics import RECALLS, score_all
from benchmarks._dialogue_retrieval import NUM_TUNED
from benchmarks._harness import Row
from memarch.dialogue.embedders import open_embedder
from memarch.dialogue.lexical import LexicalWeights
from memarch.dialogue.ranking import Ranker, RankingWeights

LEAST_GAIN = 0.1
Change = Callable[[RankingWeights, float], RankingWeights]


def decaying(share: float, ratio: float, *, count: int = 4) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`after` and `before` of LexicalWeights: powers of `share`, those before times `ratio`."""
    after = [share**distance for distance in range(1, count + 1)]
    return tuple(round(x, 3) for x in after), tuple(round(ratio * x, 3) for x in after)


def _set(weights: Any, name: str, value: float) -> Any:
    return replace(weights, **{name: value})


def _lexical(name: str) -> Change:
    return lambda weights, value: replace(weights, lexical=_set(weights.lexical, name, value))


def _share(weights: RankingWeights, value: float) -> RankingWeights:
    old = weights.lexical
    after, before = decaying(value, old.before[0] / old.after[0])
    return replace(weights, lexical=replace(old, after=after, before=before))


def _ratio(weights: RankingWeights, value: float) -> RankingWeights:
    old = weights.lexical
    after, before = decaying(old.after[0], value)
    return replace(weights, lexical=replace(old, after=after, before=before))


def _plain(name: str) -> Change:
    return lambda weights, value: _set(weights, name, value)


GRID: dict[str, tuple[Change, tuple[float, ...]]] = {
    "meaning": (_plain("meaning"), (0.3, 0.45, 0.6, 0.8, 1.0)),
    "told": (_plain("told"), (0.0, 0.4, 0.6, 0.8, 1.0)),
    "substance": (_plain("substance"), (0.0, 0.15, 0.25, 0.4)),
    "speaker": (_plain("speaker"), (0.0, 0.3, 0.5, 0.7)),
    "share after": (_share, (0.4, 0.5, 0.6, 0.7)),
    "before over after": (_ratio, (0.3, 0.5, 0.7)),
    "k1": (_lexical("k1"), (0.7, 1.0, 1.2, 1.5)),
    "b": (_lexical("b"), (0.2, 0.4, 0.6, 0.75)),
    "cue": (_lexical("cue"), (0.5, 1.0, 2.0)),
}


SHRUNK = ("told", "substance", "speaker")
START = RankingWeights(
    lexical=LexicalWeights(k1=1.2, b=0.75, after=decaying(0.5, 0.5)[0], before=decaying(0.5, 0.5)[1]),
    told=0.0, substance=0.0, speaker=0.0,
)  # fmt: skip


def objective(
    conversations: Sequence[Conversation], vectors: Sequence[Vectors | None], weights: RankingWeights
) -> float:
    """Mean recall over cutoffs and questions, percent."""
    scores = []
    for conversation, known in zip(conversations, vectors, strict=True):
        ranker = Ranker(weights)
        for chunk in conversation.chunks:
            ranker.add(chunk)
        scores.append(score_all(conversation, ask(ranker, conversation, known))[:, : len(RECALLS)])
    return float(np.concatenate(scores).mean())


def tune(
    conversations: Sequence[Conversation],
    vectors: Sequence[Vectors | None],
    start: RankingWeights,
    *,
    grid: dict[str, tuple[Change, tuple[float, ...]]] = GRID,
    max_passes: int = 3,
) -> RankingWeights:
    """The best weights found from `start`; prints every step."""
    weights, best = start, objective(conversations, vectors, start)
    print(f"start: {best:.2f}", flush=True)
    for number in range(1, max_passes + 1):
        before = weights
        for name, (change, values) in grid.items():
            tried = {value: objective(conversations, vectors, change(weights, value)) for value in values}
            shown = "  ".join(f"{value:g}: {score:.2f}" for value, score in tried.items())
            value = max(tried, key=lambda v: tried[v])
            moved = tried[value] >= best + LEAST_GAIN
            if moved:
                weights, best = change(weights, value), tried[value]
            print(f"pass {number} {name}: {shown}" + (f"  -> {value:g}" if moved else ""), flush=True)
        if weights == before:
            break
    floor = best - LEAST_GAIN
    for name in SHRUNK:
        if name not in grid:
            continue
        change, values = grid[name]
        for value in sorted(values):
            score = objective(conversations, vectors, change(weights, value))
            if score >= floor:
                weights, best = change(weights, value), score
                print(f"shrunk {name} -> {value:g}: {score:.2f}", flush=True)
                break
    print(f"best: {best:.2f}")
    return weights


def run(options: argparse.Namespace) -> list[Row]:
    """Print the tuned weights beside the defaults; no rows."""
    conversations = load(options.data)[:NUM_TUNED]
    print(counts(conversations), flush=True)
    embedder = open_embedder(options.embedder)
    vectors = [None if embedder is None else embed(c, embedder, options.cache) for c in conversations]
    default = RankingWeights()
    tuned = tune(conversations, vectors, START)
    for kind, old, new in ((LexicalWeights, default.lexical, tuned.lexical), (RankingWeights, default, tuned)):
        for each in fields(kind):
            if each.name != "lexical":
                print(f"{kind.__name__}.{each.name} = {getattr(new, each.name)}  (default {getattr(old, each.name)})")
    return []
