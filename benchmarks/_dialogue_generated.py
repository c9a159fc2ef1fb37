"""The same ways of ranking on dialogues from our generator, on which nothing was tuned: do the weights carry over?

Two speakers by name, and a user with an assistant. Categories are the generator's kinds of question; those about what
was never said have no evidence and are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks._dialogue_arms import VECTOR_ARMS, WORD_ARMS, embed, ours
from benchmarks._dialogue_locomo import Conversation, Question
from benchmarks._dialogue_metrics import RECALLS, bootstrap, score_all
from benchmarks._harness import Row, settings_text, table
from memarch.data.dialogues import KINDS, generate_dialogue
from memarch.dialogue.embedders import open_embedder
from memarch.dialogue.ranking import RankingWeights
from memarch.dialogue.records import Chunk

SPEAKERS = (("Maya", "Daniel"), ("user", "assistant"))
NO_CUES = replace(RankingWeights(), told=0.0, substance=0.0, speaker=0.0)
ORDER = ("BM25", "MiniLM", "MiniLM + 0.4 neighbours", "RRF of both", "recipe", "ours", "ours, no cues")


def generated(num_turns: int, seed: int, speakers: tuple[str, str]) -> Conversation:
    """A generated dialogue in the form in which LoCoMo's are scored."""
    dialogue = generate_dialogue(num_turns, seed=seed, speakers=speakers)
    chunks = tuple(
        Chunk(i, i, 0, turn.session, turn.role, turn.text, turn.time, turn.source_id)
        for i, turn in enumerate(dialogue.turns, 1)
    )
    places = {chunk.source_id: i for i, chunk in enumerate(chunks)}
    questions = tuple(
        Question(asked.question, KINDS.index(asked.kind) + 1, tuple(sorted(places[name] for name in asked.evidence)))
        for asked in dialogue.questions
        if asked.evidence
    )
    return Conversation(f"seed {seed}", chunks, questions, len(dialogue.questions) - len(questions), 0)


def run(options: argparse.Namespace, *, num_turns: int = 800, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """Print a table per pair of speakers and return the rows."""
    embedder = open_embedder(options.embedder)
    rows = []
    for speakers in SPEAKERS:
        found: dict[str, list[np.ndarray]] = {}
        for seed in seeds:
            conversation = generated(num_turns, seed, speakers)
            rankings = {arm: rank(conversation) for arm, rank in WORD_ARMS.items()}
            if embedder is not None:
                vectors = embed(conversation, embedder, options.cache)
                rankings |= {arm: rank(conversation, vectors) for arm, rank in VECTOR_ARMS.items()}
                rankings["ours, no cues"] = ours(conversation, vectors, NO_CUES)
            for arm in (*ORDER, "ours, words only"):
                if arm in rankings:
                    found.setdefault(arm, []).append(score_all(conversation, rankings[arm])[:, : len(RECALLS)])
        settings = {
            "part": "generated",
            "speakers": speakers,
            "num_turns": num_turns,
            "seeds": list(seeds),
            "embedder": None if embedder is None else embedder.name,
        }
        lines = []
        for arm, parts in found.items():
            values = np.concatenate(parts)
            low, high = bootstrap(values)
            lines.append([arm, *(f"{x:.1f}" for x in values.mean(0))])
            rows += [
                Row(
                    benchmark="dialogue", arm=arm, metric=metric, unit="%", value=float(values[:, i].mean()),
                    low=float(low[i]), high=float(high[i]), samples=len(values), statistic="mean over questions",
                    spread="95% bootstrap", settings=settings_text(settings),
                )
                for i, metric in enumerate(RECALLS)
            ]  # fmt: skip
        print(f"\n{' and '.join(speakers)}: {len(seeds)} dialogues, {len(values)} questions, percent\n")
        print(table(["turns", *RECALLS], lines), flush=True)
    return rows
