"""HEMA's setting of 10,000 chunks: precision and recall, and what forgetting costs in recall and saves in latency.

Ten generated dialogues one after the other, each between two other people, so that names tell the questions apart. The
paper reports P@5 0.82 and R@50 0.74 on its own questions; a question here has one or two pieces of evidence, so P@5
cannot be above the ceiling that is shown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from benchmarks._dialogue_arms import VECTOR_ARMS, WORD_ARMS, Rankings
from benchmarks._dialogue_generated import generated
from benchmarks._dialogue_lives import Life, Remembering, asker, found_at, live, rankings, vectors_of
from benchmarks._dialogue_locomo import Conversation
from benchmarks._harness import Row, settings_text, t_interval, table
from memarch.dialogue.embedders import open_embedder
from memarch.dialogue.records import Chunk
from memarch.dialogue.salience import ForgettingPolicy

NAMES = (
    "Maya Daniel Alice Robert Sofia George Emma Henry Clara Victor "
    "Laura Simon Helen Martin Julia Oscar Diana Felix Nora Peter"
).split()
TURNS_PER_DIALOGUE = 1000
SEEDS = (0, 1, 2)
CUTOFFS = (5, 50)
BATCH = 50
ROUNDS = 3
NEVER, FORGETS = "ours", "ours, forgets from the start"
METRICS = ("P@5", "P@5 ceiling", "R@5", "R@50", "any@5")


def concatenated(seed: int, num_dialogues: int, num_turns: int) -> Conversation:
    """Dialogues of different people one after the other, their questions with them."""
    chunks: list[Chunk] = []
    questions = []
    for number in range(num_dialogues):
        speakers = (NAMES[2 * number], NAMES[2 * number + 1])
        part = generated(num_turns, 1000 * seed + number, speakers)
        shift = timedelta(0) if not chunks else chunks[-1].time + timedelta(days=1) - part.chunks[0].time
        base = len(chunks)
        chunks += [
            replace(
                chunk, chunk=base + chunk.chunk, turn=base + chunk.turn, time=chunk.time + shift,
                session=f"{number}.{chunk.session}", source_id=f"{number}.{chunk.source_id}",
            )
            for chunk in part.chunks
        ]  # fmt: skip
        questions += [replace(q, evidence=tuple(base + place for place in q.evidence)) for q in part.questions]
    return Conversation(f"seed {seed}", tuple(chunks), tuple(questions), 0, 0)


def run(
    options: argparse.Namespace,
    *,
    num_dialogues: int = len(NAMES) // 2,
    num_turns: int = TURNS_PER_DIALOGUE,
    seeds: Sequence[int] = SEEDS,
) -> list[Row]:
    """Print the tables and return their rows; of two short dialogues if `options.quick`."""
    if options.quick:
        num_dialogues, num_turns, seeds = 2, 300, SEEDS[:2]
    inner = open_embedder(options.embedder)
    embedder = None if inner is None else Remembering(inner)
    scores: dict[tuple[str, str], list[float]] = {}
    seconds: dict[str, list[float]] = {NEVER: [], FORGETS: []}
    ratios: list[float] = []
    for seed in seeds:
        conversation = concatenated(seed, num_dialogues, num_turns)
        found = {"BM25": WORD_ARMS["BM25"](conversation)}
        if embedder is not None:
            found["MiniLM"] = VECTOR_ARMS["MiniLM"](conversation, vectors_of(conversation, embedder))
        with tempfile.TemporaryDirectory(prefix="memarch-large-") as folder:
            lives: dict[str, Life] = {}
            for arm, policy in ((NEVER, None), (FORGETS, ForgettingPolicy(min_chunks=0))):
                lives[arm] = live(
                    conversation,
                    Path(folder) / str(len(lives)),
                    embedder,
                    policy,
                    batch=BATCH,
                    before_turn=asker(conversation),
                )
            for arm, life in lives.items():
                found[arm] = rankings(life, conversation, max(CUTOFFS))
                scores.setdefault((arm, "turns archived"), []).append(len(life.archived))
            ratios.append(_latency(lives, conversation, seconds))
            for life in lives.values():
                life.memory.close()
        for arm, ranking in found.items():
            for metric, value in _score(conversation, ranking).items():
                scores.setdefault((arm, metric), []).append(value)
        print(f"seed {seed}: {len(conversation.chunks)} chunks, {len(conversation.questions)} questions", flush=True)
    settings = {
        "part": "large",
        "num_chunks": num_dialogues * num_turns,
        "num_dialogues": num_dialogues,
        "seeds": list(seeds),
        "embedder": None if embedder is None else embedder.name,
        "searches_meanwhile": f"one every {BATCH} turns",
    }
    rows = [_row(*key, each, settings) for key, each in scores.items()]
    rows += _latency_rows(seconds, ratios, settings)
    print(show(rows))
    return rows


def _score(conversation: Conversation, ranking: Rankings) -> dict[str, float]:
    values = []
    for each, question in zip(ranking, conversation.questions, strict=True):
        at = {k: found_at(each, question.evidence, k) for k in CUTOFFS}
        hits, number = float(at[5].sum()), len(question.evidence)
        values.append([hits / 5, min(5, number) / 5, hits / number, float(at[50].mean()), float(hits > 0)])
    return dict(zip(METRICS, 100 * np.mean(values, axis=0), strict=True))


def _latency(lives: Mapping[str, Life], conversation: Conversation, seconds: dict[str, list[float]]) -> float:
    """Ask both memories the same questions by turns, vectors of the questions given; forgetting's share of the time."""
    here: dict[str, list[float]] = {arm: [] for arm in lives}
    for number in range(ROUNDS):
        for place, question in enumerate(conversation.questions):
            # Which one goes first changes: the second finds the processor's caches filled with the question's words.
            for arm in sorted(lives, reverse=(number + place) % 2 == 0):
                start = time.perf_counter()
                lives[arm].memory.search(question.text, 10)
                here[arm].append(time.perf_counter() - start)
    for arm, each in here.items():
        seconds[arm] += each
    return statistics.median(here[NEVER]) / statistics.median(here[FORGETS])


def _row(arm: str, metric: str, each: Sequence[float], settings: Mapping[str, object]) -> Row:
    mean, low, high = t_interval(each)
    return Row(
        benchmark="dialogue", arm=arm, metric=metric, unit="turns" if metric == "turns archived" else "%", value=mean,
        low=low, high=high, samples=len(each), statistic="mean over seeds", spread="95% t interval",
        settings=settings_text(settings),
    )  # fmt: skip


def _latency_rows(
    seconds: Mapping[str, Sequence[float]], ratios: Sequence[float], settings: Mapping[str, object]
) -> list[Row]:
    rows = []
    for arm, each in seconds.items():
        low, high = np.percentile(each, [5, 95])
        ratio = None if arm == NEVER else statistics.median(ratios)
        rows.append(
            Row(
                benchmark="dialogue", arm=arm, metric="search, query vector given", unit="s",
                value=statistics.median(each), low=float(low), high=float(high), samples=len(each), spread="5%..95%",
                baseline=NEVER, ratio=ratio, ratio_low=None if ratio is None else min(ratios),
                ratio_high=None if ratio is None else max(ratios), settings=settings_text(settings),
            )
        )  # fmt: skip
    return rows


def show(rows: Sequence[Row]) -> str:
    """Scores, archived turns and latency."""
    cells = {(row.arm, row.metric): row for row in rows}
    arms = list(dict.fromkeys(row.arm for row in rows))
    header = [*METRICS, "turns archived"]
    lines = []
    for arm in arms:
        each = [cells.get((arm, metric)) for metric in header]
        lines.append([arm, *("" if r is None else f"{r.value:.1f} ({r.low:.1f}..{r.high:.1f})" for r in each)])
    latency = []
    for arm in (NEVER, FORGETS):
        row = cells[arm, "search, query vector given"]
        text = f"{arm}: {1e3 * row.value:.2f} ms (5%..95%: {1e3 * row.low:.2f}..{1e3 * row.high:.2f})"
        if row.ratio is not None:
            text += f", {100 * (1 / row.ratio - 1):+.0f}% (seeds {100 * (1 / (row.ratio_high or 1) - 1):+.0f}% to "
            text += f"{100 * (1 / (row.ratio_low or 1) - 1):+.0f}%); the paper: -34%"
        latency.append(text)
    return "\n" + table(["percent", *header], lines) + "\n\nsearch\n" + "\n".join(latency)
