"""The retrieval table: how often a question's evidence is among the first turns that each way of ranking returns."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks._dialogue_arms import VECTOR_ARMS, WORD_ARMS, embed
from benchmarks._dialogue_locomo import Conversation, counts, load
from benchmarks._dialogue_metrics import METRICS, RECALLS, bootstrap, score_all
from benchmarks._harness import Row, settings_text, table
from memarch.dialogue.embedders import open_embedder

NUM_TUNED = 3
"""Our weights were tuned on the first so many conversations."""
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
ORDER = ("BM25", "MiniLM", "MiniLM + 0.4 neighbours", "RRF of both", "recipe", "ours", "ours, words only")


@dataclass(frozen=True)
class Scored:
    """Scores of one way of ranking in one conversation, `[questions, METRICS]`, and the questions' categories."""

    scores: NDArray[np.float64]
    categories: NDArray[np.int64]


def run(options: argparse.Namespace) -> list[Row]:
    """Print the tables and return their rows."""
    conversations = load(options.data)
    print(counts(conversations), flush=True)
    embedder = open_embedder(options.embedder)
    found: dict[str, list[Scored]] = {}
    for conversation in conversations:
        start = time.perf_counter()
        rankings = {arm: rank(conversation) for arm, rank in WORD_ARMS.items()}
        if embedder is not None:
            vectors = embed(conversation, embedder, options.cache)
            rankings |= {arm: rank(conversation, vectors) for arm, rank in VECTOR_ARMS.items()}
        categories = np.array([question.category for question in conversation.questions])
        for arm in ORDER:
            if arm in rankings:
                found.setdefault(arm, []).append(Scored(score_all(conversation, rankings[arm]), categories))
        print(f"{conversation.name}: {time.perf_counter() - start:.0f} s", flush=True)
    rows: list[Row] = []
    for split, part in splits(conversations).items():
        rows += rows_of(found, split, part, conversations, None if embedder is None else embedder.name)
        print("\n" + show(found, split, part))
    return rows


def splits(conversations: Sequence[Conversation]) -> dict[str, slice]:
    """Conversations that weights were tuned on, the others, and all; only all if there are no others."""
    whole = {"all": slice(None)}
    if len(conversations) <= NUM_TUNED:
        return whole
    return {"tuned on": slice(None, NUM_TUNED), "report": slice(NUM_TUNED, None)} | whole


def rows_of(
    found: Mapping[str, Sequence[Scored]],
    split: str,
    part: slice,
    conversations: Sequence[Conversation],
    embedder: str | None,
) -> list[Row]:
    """Every metric of every arm, and recall by category."""
    rows = []
    for arm, scored in found.items():
        for category in (0, *CATEGORIES):
            values = _values(scored[part], category)
            if not len(values):
                continue
            low, high = bootstrap(values)
            settings = {
                "part": "retrieval",
                "data": "LoCoMo",
                "split": split,
                "conversations": [c.name for c in conversations[part]],
                "category": category or "all",
                "embedder": embedder,
            }
            for i, metric in enumerate(METRICS if category == 0 else RECALLS):
                rows.append(
                    Row(
                        benchmark="dialogue", arm=arm, metric=metric, unit="%", value=float(values[:, i].mean()),
                        low=float(low[i]), high=float(high[i]), samples=len(values), statistic="mean over questions",
                        spread="95% bootstrap", settings=settings_text(settings),
                    )
                )  # fmt: skip
    return rows


def show(found: Mapping[str, Sequence[Scored]], split: str, part: slice) -> str:
    """Three tables: all metrics, recall by category, and the worst and best conversation."""
    overall, by_category, spread = [], [], []
    for arm, scored in found.items():
        values = _values(scored[part], 0)
        low, high = bootstrap(values)
        overall.append([arm, *(f"{x:.1f}" for x in values.mean(0)), f"{low[1]:.1f}..{high[1]:.1f}"])
        cells = [_values(scored[part], category)[:, : len(RECALLS)] for category in CATEGORIES]
        by_category.append([arm, *(" ".join(f"{x:.1f}" for x in cell.mean(0)) if len(cell) else "" for cell in cells)])
        means = np.array([each.scores.mean(0)[: len(RECALLS)] for each in scored[part]])
        spread.append([arm, *(f"{a:.1f}..{b:.1f}" for a, b in zip(means.min(0), means.max(0), strict=True))])
    sizes = {c: len(_values(next(iter(found.values()))[part], c)) for c in CATEGORIES}
    header = [f"{c} {name} ({sizes[c]})" for c, name in CATEGORIES.items()]
    return "\n\n".join(
        [
            f"{split}: {len(means)} conversations, {len(values)} questions, percent",
            table(["turns", *METRICS, "R@10, 95%"], overall),
            table([f"{' '.join(RECALLS)} by category", *header], by_category),
            table(["worst and best conversation", *RECALLS], spread),
        ]
    )


def _values(scored: Sequence[Scored], category: int) -> NDArray[np.float64]:
    """Scores of all questions of a category, 0 for all."""
    return np.concatenate([each.scores[(each.categories == category) | (category == 0)] for each in scored])
