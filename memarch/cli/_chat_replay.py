"""`memarch chat --replay FILE [--ask FILE]`: tell a recorded dialogue to a memory, then ask and show what it knows.

FILE#NAME chooses a conversation of a LoCoMo file. Without --ask a LoCoMo file's own questions are asked. The file of
--ask is described in `memarch.dialogue.questions`.
"""

from __future__ import annotations

import json as json_format
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _memory_show as show
from .errors import FAILED, INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

    from memarch.dialogue.generators.base import Generator
    from memarch.dialogue.memory import DialogueMemory
    from memarch.dialogue.questions import Question
    from memarch.dialogue.replay import Evidence, Fed, Found, Replay

INDENT = "    "
_QUOTE_CHARS = 120
Emit = Callable[[str], None]


@dataclass(frozen=True)
class Answered:
    """A question with its answer; agrees: see `memarch.dialogue.questions.agrees`."""

    found: Found
    answer: str
    agrees: bool | None


def replay(
    memory: DialogueMemory,
    generator: Generator,
    file: Path,
    ask: Path | None,
    *,
    console: Console,
    system: str = "",
    budget_tokens: int = 3500,
    json: bool = False,
    plot: Path | None = None,
) -> int:
    """Replay `file` into `memory` and answer the questions; the exit code.

    console: what draws progress belongs to. json: an object a line instead of text. plot: a PNG of recall by age and
    prompt tokens by turn. An answer that fails ends it with code 1, Ctrl-C with 130; totals of what came are shown.
    Raises: OSError, ValueError for files that cannot be read; ImportError for `plot` without matplotlib.
    """
    from memarch.dialogue.errors import GeneratorError
    from memarch.dialogue.questions import read_questions
    from memarch.dialogue.replay import Replay, read_recording

    if plot is not None:
        from ._replay_figure import check

        check()
    path, conversation = _split(file)
    recording = read_recording(path, conversation=conversation)
    questions = recording.questions if ask is None else tuple(read_questions(ask, conversation=conversation))
    replaying = Replay(memory, generator, system=system, budget_tokens=budget_tokens)
    with show.bar(f"replay {show.one_line(path.name)}") as progress:
        fed = replaying.feed(recording.turns, progress=progress)
    lines = JsonLines() if json else TextLines()
    lines.fed(path, fed, memory)
    answered: list[Answered] = []
    code = 0
    try:
        if questions:
            with show.bar(f"load {generator.name}") as progress:
                generator.load(lambda what, done, total: progress(done, total))
        for number, question in enumerate(questions, 1):
            answered.append(answer_one(replaying, question))
            lines.answer(number, len(questions), answered[-1])
    except GeneratorError as error:
        show.say(f"error: {error}")
        code = FAILED
    except KeyboardInterrupt:
        show.say(f"interrupted after {len(answered)} of {len(questions)} questions; what was stored stays")
        code = INTERRUPTED
    lines.totals(answered, fed, budget_tokens)
    if plot is not None:
        from ._replay_figure import draw

        draw(plot, [each.found for each in answered], fed, budget_tokens=budget_tokens, title=path.name)
        lines.drawn(plot)
    return code


def answer_one(replaying: Replay, question: Question) -> Answered:
    """Search, compose, answer, compare. Raises: GeneratorError."""
    from memarch.dialogue.questions import agrees

    found = replaying.find(question)
    answer = "".join(replaying.answer(found)).strip()
    return Answered(found, answer, agrees(answer, question))


class TextLines:
    """For people. emit: takes a line."""

    def __init__(self, emit: Emit = show.emit) -> None:
        self._emit = emit

    def fed(self, path: Path, fed: Fed, memory: DialogueMemory) -> None:
        """What was stored."""
        stats = memory.stats()
        known = f" ({fed.num_known:,} were there or had been erased)" if fed.num_known else ""
        self._emit(
            f"{show.one_line(path.name)}: {show.count_of(fed.num_added, 'turn')} stored{known}; the memory has "
            f"{show.count_of(stats.num_turns, 'turn')} in {show.count_of(stats.num_sessions, 'session')}."
        )

    def answer(self, number: int, count: int, answered: Answered) -> None:
        """One question."""
        found, question = answered.found, answered.found.question
        self._emit(f"\n{number}/{count}  {show.one_line(question.question)}")
        for line in answered.answer.split("\n") or [""]:
            self._emit(INDENT + show.one_line(line))
        verdict = {True: "said", False: "not said", None: ""}[answered.agrees]
        if verdict:
            expected = question.answer or f"none ({question.kind})"
            self._emit(f"{INDENT}expected: {show.one_line(expected)}: {verdict}")
        for piece in found.evidence:
            self._emit(f"{INDENT}evidence: {_where(piece)}")

    def totals(self, answered: Sequence[Answered], fed: Fed, budget_tokens: int) -> None:
        """Recall and prompt sizes."""
        totals = totals_of(answered, fed, budget_tokens)
        self._emit("")
        if totals["evidence"]:
            by_age = ", ".join(f"{_ages(low, high)} turns {n} of {m}" for low, high, n, m in totals["by_age"])
            self._emit(
                f"evidence in the prompts: {totals['evidence_found']} of {totals['evidence']}, recall "
                f"{100 * totals['recall']:.0f} % over questions; by age: {by_age}"
            )
        if totals["comparable"]:
            self._emit(f"expected answers: {totals['agreeing']} of {totals['comparable']} said")
        if fed.prompt_tokens:
            self._emit(
                f"prompts on the way: {totals['prompt_tokens_mean']:,.0f} tokens on average, at most "
                f"{totals['prompt_tokens_most']:,} of {budget_tokens:,}, while the dialogue grew to "
                f"{fed.prompt_tokens[-1][2]:,}"
            )

    def drawn(self, path: Path) -> None:
        """A figure."""
        self._emit(f"figure: {path}")


class JsonLines:
    """For programs: an object a line with its "event", as in a chat."""

    def fed(self, path: Path, fed: Fed, memory: DialogueMemory) -> None:
        """ "replayed"."""
        stats = memory.stats()
        names = ("num_turns", "num_sessions", "location", "user")
        about = {name: getattr(stats, name) for name in names} | {"location": _location(stats.location)}
        self._put("replayed", file=str(path), num_added=fed.num_added, num_known=fed.num_known, **about)

    def answer(self, number: int, count: int, answered: Answered) -> None:
        """ "answer"."""
        found = answered.found
        self._put(
            "answer", number=number, count=count, question=found.question.question, text=answered.answer,
            expected=found.question.answer or None, kind=found.question.kind or None, agrees=answered.agrees,
            evidence=found.evidence, recall=found.recall, prompt_tokens=found.prompt.report.used_tokens,
            retrieval_ms=round(found.retrieval_ms, 1),
        )  # fmt: skip

    def totals(self, answered: Sequence[Answered], fed: Fed, budget_tokens: int) -> None:
        """ "totals"; prompt_tokens: [turn, tokens of its prompt, tokens of the dialogue before it]."""
        self._put("totals", **totals_of(answered, fed, budget_tokens), prompt_tokens=fed.prompt_tokens)

    def drawn(self, path: Path) -> None:
        """ "figure"."""
        self._put("figure", file=str(path))

    @staticmethod
    def _put(event: str, **fields: Any) -> None:
        show.emit(json_format.dumps(show.plain({"event": event, **fields})))


def totals_of(answered: Sequence[Answered], fed: Fed, budget_tokens: int) -> dict[str, Any]:
    """Figures over all questions; by_age: [from, below, found, pieces]."""
    from memarch.dialogue.replay import recall, recall_by_age

    found = [each.found for each in answered]
    pieces = [piece for each in found for piece in each.evidence]
    there = [piece for piece in pieces if piece.turn is not None]
    compared = [each.agrees for each in answered if each.agrees is not None]
    tokens = [tokens for _, tokens, _ in fed.prompt_tokens]
    return {
        "questions": len(answered),
        "recall": recall(found),
        "evidence": len(there),
        "evidence_found": sum(piece.part is not None for piece in there),
        "evidence_unknown": len(pieces) - len(there),
        "by_age": recall_by_age(found),
        "comparable": len(compared),
        "agreeing": sum(compared),
        "budget_tokens": budget_tokens,
        "prompt_tokens_mean": sum(tokens) / len(tokens) if tokens else None,
        "prompt_tokens_most": max(tokens, default=None),
    }


def _where(piece: Evidence) -> str:
    name = show.one_line(piece.source_id)
    if piece.age_turns is None:
        return f"{name}: the memory has no turn of this name"
    if piece.part is None:
        where = "not found" if piece.rank is None else f"found as number {piece.rank}, but trimmed"
    else:
        where = "among the last turns" if piece.part == "recent" else f"found as number {piece.rank}"
    text = show.one_line(piece.text or "")
    quoted = text if len(text) <= _QUOTE_CHARS else f"{text[:_QUOTE_CHARS]} \u2026"
    return f"{name}, {show.count_of(piece.age_turns, 'turn')} ago, {where}: \u201c{quoted}\u201d"


def _ages(low: int, high: int | None) -> str:
    return f"{low:,}+" if high is None else f"{low:,} to {high - 1:,}"


def _split(file: Path) -> tuple[Path, str | None]:
    """A file and the conversation named after "#", unless a file has that name."""
    name, mark, conversation = str(file).rpartition("#")
    return (file, None) if not mark or file.exists() else (Path(name), conversation)


def _location(location: str) -> str:
    from ._memory_open import shown

    return shown(location)
