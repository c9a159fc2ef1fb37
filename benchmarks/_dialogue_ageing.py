"""How a memory ages over generated dialogues: recall by age and kind, forgetting, prompt tokens, evidence in prompts.

The first speaker's turns are searched for before they are stored, as a chat does, so forgetting sees what is used.
Questions are asked once, at the end. An age is that of a piece of evidence, in turns, at the end. Intervals are 95 % by
Student's t over seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks._dialogue_arms import VECTOR_ARMS, WORD_ARMS, Rankings
from benchmarks._dialogue_generated import generated
from benchmarks._dialogue_lives import Life, Remembering, asker, found_at, live, rankings, vectors_of
from benchmarks._dialogue_locomo import Conversation
from benchmarks._dialogue_prompts import BUDGET, TokenCurve, coverage
from benchmarks._harness import Row, settings_text, t_interval, table
from memarch.data.dialogues import KINDS
from memarch.dialogue.embedders import open_embedder
from memarch.dialogue.salience import DEFAULT_POLICY, ForgettingPolicy
from memarch.dialogue.tokens import estimate_tokens

NUM_TURNS = 1500
SEEDS = (0, 1, 2, 3, 4)
SPEAKERS = ("Maya", "Daniel")
CUTOFFS = (5, 10)
AGES = (100, 250, 500, 750, 1000, 1250)
CURVE_STEP = 50
OURS = "ours"
POLICIES: Mapping[str, ForgettingPolicy] = {
    OURS: DEFAULT_POLICY,
    "ours, forgets from the start": ForgettingPolicy(min_chunks=0),
    "ours, forgets as published": ForgettingPolicy(min_chunks=0, as_published=True),
    "ours, forgets 20 times as much": ForgettingPolicy(min_chunks=0, fraction=20 * DEFAULT_POLICY.fraction),
}
"""The default forgets by itself in large memories only, so at this size it is also the row without forgetting."""
Values = dict[tuple[str, str, str], list[float]]
"""By (arm, metric, of what): one value a seed."""


def run(options: argparse.Namespace, *, num_turns: int = NUM_TURNS, seeds: Sequence[int] = SEEDS) -> list[Row]:
    """Print the tables and return their rows; of short dialogues if `options.quick`."""
    if options.quick:
        num_turns, seeds = 200, SEEDS[:2]
    inner = open_embedder(options.embedder)
    embedder = None if inner is None else Remembering(inner)
    values: Values = {}
    curves: list[dict[int, int]] = []
    whole: list[dict[int, int]] = []
    for seed in seeds:
        conversation = generated(num_turns, seed, SPEAKERS)
        found = {"BM25": WORD_ARMS["BM25"](conversation)}
        if embedder is not None:
            found["MiniLM"] = VECTOR_ARMS["MiniLM"](conversation, vectors_of(conversation, embedder))
        for arm, policy in POLICIES.items():
            curve = TokenCurve(conversation, role=SPEAKERS[0]) if arm == OURS else None
            with tempfile.TemporaryDirectory(prefix="memarch-ageing-") as folder:
                life = live(
                    conversation,
                    Path(folder),
                    embedder,
                    policy,
                    before_turn=curve or asker(conversation, role=SPEAKERS[0]),
                )
                with life.memory:
                    _retention(values, arm, life, conversation)
                    if curve is not None:
                        for way, shares in coverage(life, conversation).items():
                            _by_kind(values, way, "evidence in the prompt", conversation, shares)
                        curves.append(curve.tokens)
                    found[arm] = rankings(life, conversation, max(CUTOFFS))
        whole.append(_whole(conversation))
        for arm, ranking in found.items():
            _recall(values, arm, conversation, ranking)
        print(f"seed {seed}: {len(conversation.questions)} questions asked", flush=True)
    settings = {
        "part": "ageing",
        "num_turns": num_turns,
        "speakers": SPEAKERS,
        "seeds": list(seeds),
        "embedder": None if embedder is None else embedder.name,
    }
    rows = [_row(key, each, settings) for key, each in values.items()]
    rows += _curve_rows(curves, whole, settings)
    print(show(rows))
    return rows


def _retention(values: Values, arm: str, life: Life, conversation: Conversation) -> None:
    evidence = {place for question in conversation.questions for place in question.evidence}
    archived = len(evidence & life.archived) / max(1, len(evidence))
    for metric, value in (
        ("turns archived", float(len(life.archived))),
        ("evidence archived", 100 * archived),
    ):
        values.setdefault((arm, metric, "all"), []).append(value)


def _recall(values: Values, arm: str, conversation: Conversation, ranking: Rankings) -> None:
    """Recall by kind, averaged over questions, and by age, averaged over pieces of evidence."""
    ages = len(conversation.chunks) - np.array([p for q in conversation.questions for p in q.evidence])
    bins = np.searchsorted(AGES, ages, side="right")
    for k in CUTOFFS:
        pairs = zip(ranking, conversation.questions, strict=True)
        found = [found_at(each, question.evidence, k) for each, question in pairs]
        _by_kind(values, arm, f"R@{k}", conversation, [float(each.mean()) for each in found])
        pieces = np.concatenate(found)
        for number, name in enumerate(age_names(len(conversation.chunks))):
            if (bins == number).any():
                values.setdefault((arm, f"R@{k}", name), []).append(100 * float(pieces[bins == number].mean()))


def age_names(num_turns: int) -> list[str]:
    """The bins that a dialogue of this length can have."""
    edges = [0, *(age for age in AGES if age < num_turns), num_turns]
    return [f"age {low}..{high - 1}" for low, high in zip(edges, edges[1:], strict=False)]


def _by_kind(values: Values, arm: str, metric: str, conversation: Conversation, shares: Sequence[float]) -> None:
    kinds = [KINDS[question.category - 1] for question in conversation.questions]
    for kind in ("all", *KINDS):
        chosen = [share for share, own in zip(shares, kinds, strict=True) if kind in ("all", own)]
        if chosen:
            values.setdefault((arm, metric, kind), []).append(100 * sum(chosen) / len(chosen))


def _whole(conversation: Conversation) -> dict[int, int]:
    """Tokens of the whole dialogue before each turn."""
    total, tokens = 0, {}
    for place, chunk in enumerate(conversation.chunks):
        tokens[place] = total
        total += estimate_tokens(f"{chunk.role}: {chunk.text}\n")
    return tokens


def _row(key: tuple[str, str, str], each: Sequence[float], settings: Mapping[str, object]) -> Row:
    arm, metric, subject = key
    mean, low, high = t_interval(each)
    return Row(
        benchmark="dialogue", arm=arm, metric=metric, unit="turns" if metric == "turns archived" else "%",
        value=mean, low=low, high=high, samples=len(each), statistic="mean over seeds", spread="95% t interval",
        settings=settings_text({**settings, "of": subject}),
    )  # fmt: skip


def _curve_rows(
    curves: Sequence[Mapping[int, int]], whole: Sequence[Mapping[int, int]], settings: Mapping[str, object]
) -> list[Row]:
    """Mean tokens of every stretch of the dialogue, least and greatest of any turn, and the greatest of all."""
    rows = []
    for arm, each in ((OURS, curves), ("whole dialogue", whole)):
        last = max(place for curve in each for place in curve)
        spans = [("all", 0, last + 1), *((str(s), s, s + CURVE_STEP) for s in range(0, last + 1, CURVE_STEP))]
        for name, start, end in spans:
            tokens = [n for curve in each for place, n in curve.items() if start <= place < end]
            if tokens:
                rows.append(
                    Row(
                        benchmark="dialogue", arm=arm, metric="prompt tokens", unit="tokens",
                        value=float(np.mean(tokens)), low=float(min(tokens)), high=float(max(tokens)),
                        samples=len(tokens), statistic="mean", spread="min..max",
                        settings=settings_text({**settings, "of": name, "budget": BUDGET, "step": CURVE_STEP}),
                    )
                )  # fmt: skip
    return rows


def show(rows: Sequence[Row]) -> str:
    """Recall by kind and age, archived turns, evidence in prompts, tokens."""
    cells: dict[tuple[str, str, str], Row] = {(r.arm, r.metric, json.loads(r.settings)["of"]): r for r in rows}
    texts = []
    for metric in (*(f"R@{k}" for k in CUTOFFS), "evidence in the prompt"):
        arms = list(dict.fromkeys(arm for arm, own, _ in cells if own == metric))
        subjects = list(dict.fromkeys(of for _, own, of in cells if own == metric))
        subjects.sort(key=lambda of: (of.startswith("age"), int(of[4:].split("..")[0]) if of.startswith("age") else 0))
        lines = [[arm, *(_cell(cells.get((arm, metric, of))) for of in subjects)] for arm in arms]
        texts.append(table([f"{metric}, percent", *subjects], lines))
    archived = [arm for arm, metric, _ in cells if metric == "turns archived"]
    lines = [[arm, *(_cell(cells[arm, m, "all"]) for m in ("turns archived", "evidence archived"))] for arm in archived]
    texts.append(table(["", "turns archived", "evidence archived, percent"], lines))
    tokens = cells[OURS, "prompt tokens", "all"]
    texts.append(
        f"prompt tokens per turn: mean {tokens.value:.0f}, least {tokens.low:.0f}, greatest {tokens.high:.0f} "
        f"of a budget of {BUDGET}"
    )
    return "\n" + "\n\n".join(texts)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.value:.1f}" + (f" +-{row.high - row.value:.1f}" if np.isfinite(row.high) else "")
