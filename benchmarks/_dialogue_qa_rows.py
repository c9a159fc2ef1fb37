"""From answers to figures: rows with intervals, and the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks._dialogue_metrics import bootstrap
from benchmarks._dialogue_qa_prompts import Asked
from benchmarks._dialogue_qa_scores import ADVERSARIAL, f1, refused, told
from benchmarks._dialogue_retrieval import CATEGORIES
from benchmarks._harness import Row, settings_text, table


@dataclass(frozen=True)
class Answered:
    """One answer and what it is worth, all from 0 to 1; `f1` and `told` are None for adversarial questions."""

    category: int
    tokens: int
    evidence: float
    f1: float | None
    told: float | None
    refused: float
    text: str


def judge(asked: Asked, answer: str) -> Answered:
    """Score an answer."""
    question = asked.question
    answerable = question.category != ADVERSARIAL
    return Answered(
        question.category,
        asked.prompt.report.used_tokens,
        asked.evidence,
        f1(answer, question.answer, question.category) if answerable else None,
        told(answer, question.answer, question.category) if answerable else None,
        float(refused(answer)),
        answer,
    )


Found = Mapping[str, Sequence[Answered]]
"""Answers by arm, the same questions in the same order."""
SUBJECTS: Mapping[int, str] = {0: "answerable", **CATEGORIES}


def rows_of(found: Found, settings: Mapping[str, object], *, baseline: str) -> list[Row]:
    """Every figure of one model, budget and split; gains are over `baseline`, question by question."""
    rows = []
    for arm, answers in found.items():
        for category, subject in SUBJECTS.items():
            chosen = _of(answers, category)
            if not chosen or category == ADVERSARIAL:
                continue
            for metric in ("F1", "told"):
                rows.append(_row(arm, metric, _values(chosen, metric), {**settings, "of": subject}))
            if arm != baseline and baseline in found and category == 0:
                gain = _values(chosen, "F1") - _values(_of(found[baseline], category), "F1")
                rows.append(_row(arm, "F1 gain", gain, {**settings, "of": subject, "over": baseline}, baseline))
            if category == 0:
                rows.append(_row(arm, "refused", _values(chosen, "refused"), {**settings, "of": subject}))
        adversarial = _of(answers, ADVERSARIAL)
        if adversarial:
            rows.append(_row(arm, "refused", _values(adversarial, "refused"), {**settings, "of": "adversarial"}))
        every = {**settings, "of": "all"}
        rows.append(_row(arm, "evidence in the prompt", _values(answers, "evidence"), every))
        tokens = np.array([answer.tokens for answer in answers])
        rows.append(
            Row(
                benchmark="dialogue_qa", arm=arm, metric="prompt tokens", unit="tokens", value=float(tokens.mean()),
                low=float(tokens.min()), high=float(tokens.max()), samples=len(tokens), statistic="mean",
                spread="min..max", settings=settings_text(every),
            )
        )  # fmt: skip
    return rows


def show(rows: Sequence[Row]) -> str:
    """One line an arm, from the rows of one model, budget and split."""
    cells = {(row.arm, row.metric, _subject(row)): row for row in rows}
    header = ["percent", "F1, 95 %", "F1 gain, 95 %", "told", "refused wrongly", "refused rightly"]
    header += ["evidence in the prompt, 95 %", "prompt tokens, mean (most)"]
    lines = []
    for arm in dict.fromkeys(row.arm for row in rows):
        tokens = cells[arm, "prompt tokens", "all"]
        lines.append(
            [
                arm,
                _interval(cells.get((arm, "F1", "answerable"))),
                _interval(cells.get((arm, "F1 gain", "answerable"))),
                _mean(cells.get((arm, "told", "answerable"))),
                _mean(cells.get((arm, "refused", "answerable"))),
                _mean(cells.get((arm, "refused", "adversarial"))),
                _interval(cells[arm, "evidence in the prompt", "all"]),
                f"{tokens.value:,.0f} ({tokens.high:,.0f})",
            ]
        )
    subjects = [subject for subject in CATEGORIES.values() if any(_subject(row) == subject for row in rows)]
    by_category = [
        [arm, *(_mean(cells.get((arm, "F1", subject))) for subject in subjects)]
        for arm in dict.fromkeys(row.arm for row in rows)
    ]
    sizes = {_subject(row): row.samples for row in rows if row.metric == "F1"}
    names = [f"{subject} ({sizes[subject]})" for subject in subjects if subject in sizes]
    return (
        table(header, lines)
        + "\n\n"
        + table(["F1 by category", *names], [line[: len(names) + 1] for line in by_category])
    )


def _of(answers: Sequence[Answered], category: int) -> list[Answered]:
    """Those of a category, 0 for all that have an answer."""
    if category == 0:
        return [answer for answer in answers if answer.category != ADVERSARIAL]
    return [answer for answer in answers if answer.category == category]


def _values(answers: Sequence[Answered], metric: str) -> NDArray[np.float64]:
    return 100 * np.array([getattr(answer, metric.lower()) for answer in answers], np.float64)


def _row(arm: str, metric: str, values: NDArray[np.float64], settings: Mapping[str, object], baseline: str = "") -> Row:
    low, high = bootstrap(values[:, None])[:, 0]
    return Row(
        benchmark="dialogue_qa", arm=arm, metric=metric, unit="%", value=float(values.mean()), low=float(low),
        high=float(high), samples=len(values), statistic="mean over questions", spread="95% bootstrap",
        baseline=baseline, settings=settings_text(settings),
    )  # fmt: skip


def _subject(row: Row) -> str:
    return str(json.loads(row.settings)["of"])


def _mean(row: Row | None) -> str:
    return "" if row is None else f"{row.value:.1f}"


def _interval(row: Row | None) -> str:
    return "" if row is None else f"{row.value:.1f} ({row.low:.1f} to {row.high:.1f})"
