"""Replay: tell a recorded dialogue to a memory, turn by turn as it was said, and ask what it remembers.

recording = read_recording("talk.jsonl")
replay = Replay(memory, generator)
replay.feed(recording.turns)
for question in recording.questions:
    found = replay.find(question)      # the prompt, and where each piece of evidence stands
    text = "".join(replay.answer(found))

Questions and their answers are never stored, and asking does not change what forgetting sees as used.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ._transfer_lines import parse
from .budget import Budget
from .formats import Entry, guess_format, locomo_samples, parse_lines, parse_locomo
from .generators.base import Generator, StopSignal
from .memory import DialogueMemory
from .prompt import Prompt, compose
from .questions import Question, parse_questions
from .records import Hit, Turn

__all__ = ["Evidence", "Fed", "Found", "Recording", "Replay", "read_recording", "recall", "recall_by_age"]

Progress = Callable[[int, int], None]
"""Called with how many turns are there and how many there are to be."""
AGES = (30, 100, 300, 1_000, 3_000)
_BATCH = 64
_ANSWER_TOKENS = 256
"""Left free in a small context."""


@dataclass(frozen=True)
class Recording:
    """A dialogue to replay and the questions that came with it. turns: each with its source_id."""

    turns: tuple[Entry, ...]
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Fed:
    """What a replay did.

    num_added, num_known: turns stored, and those that were there already or had been erased. prompt_tokens: (turns
    before it, tokens of the prompt that answers it, tokens of the whole dialogue before it) of the turns looked at.
    """

    num_added: int
    num_known: int
    prompt_tokens: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Where a piece of evidence is.

    turn, age_turns, text: None if the memory has no turn of this name. rank: among the memories found, from 1; None if
    it is not. part: of the prompt in which it stands, "retrieved" or "recent"; None if in neither (a summary may tell
    of it).
    """

    source_id: str
    turn: int | None
    age_turns: int | None
    rank: int | None
    part: str | None
    text: str | None = None


@dataclass(frozen=True)
class Found:
    """A question, the prompt that would answer it, its evidence, and what search and composing took."""

    question: Question
    prompt: Prompt
    evidence: tuple[Evidence, ...]
    retrieval_ms: float

    @property
    def recall(self) -> float | None:
        """Share of the evidence that stands in the prompt; None if there is none to look for."""
        there = [piece for piece in self.evidence if piece.turn is not None]
        return sum(piece.part is not None for piece in there) / len(there) if there else None


class Replay:
    """Tells recorded turns to `memory` and asks it.

    generator: answers, and counts the tokens of prompts. system, budget_tokens: of every prompt.
    """

    num_retrieved, num_recent = 20, 8

    def __init__(
        self, memory: DialogueMemory, generator: Generator, *, system: str = "", budget_tokens: int = 3500
    ) -> None:
        self.memory, self.generator = memory, generator
        self._system, self._budget = system, Budget(budget_tokens)

    def feed(self, turns: Sequence[Entry], *, max_prompts: int = 200, progress: Progress | None = None) -> Fed:
        """Store the turns in their order; what is there already is passed over, so a replay can go on where it stopped.

        Before a turn is stored, its prompt is composed, as in a chat: for turns of the "user", or of whoever speaks
        first, at most `max_prompts` of them, evenly spread. Turns that were erased from this memory stay erased.
        Raises: ValueError if a source_id stands for another text there: nothing is stored.
        """
        new = self._new(turns)
        asked = self._asked(turns, new, max_prompts)
        points, whole, start = [], 0, 0
        for number, (role, text, *_) in enumerate(turns):
            if number in asked:
                self._store(turns, new, range(start, number))
                start = number
                with contextlib.suppress(ValueError):  # a message longer than the budget has no prompt
                    points.append((number, self._compose(text, note_use=True)[0].report.used_tokens, whole))
            if number in new and number - start >= _BATCH:
                self._store(turns, new, range(start, number))
                start = number
            whole += self.generator.count_tokens(f"{role}: {text}\n")
            if progress is not None:
                progress(number + 1, len(turns))
        self._store(turns, new, range(start, len(turns)))
        return Fed(len(new), len(turns) - len(new), tuple(points))

    def find(self, question: Question) -> Found:
        """Search and compose for a question.

        Raises: ValueError if question and system prompt alone are over the budget.
        """
        started = time.perf_counter()
        prompt, hits = self._compose(question.question, note_use=False)
        elapsed = 1000 * (time.perf_counter() - started)
        ranks: dict[str, int] = {}
        for hit in hits:
            ranks.setdefault(hit.source_id, len(ranks) + 1)
        parts = {name: part for part in ("recent", "retrieved") for name in prompt.report.part(part).kept}
        last = self.memory.store.last_turn()
        pieces = []
        for name in question.evidence:
            turn = self._turn(name)
            if turn is None:
                pieces.append(Evidence(name, None, None, None, None))
            else:
                place = (turn.turn, last - turn.turn, ranks.get(name), parts.get(name))
                pieces.append(Evidence(name, *place, turn.text))
        return Found(question, prompt, tuple(pieces), elapsed)

    def answer(self, found: Found, *, max_tokens: int = 128, stop: StopSignal | None = None) -> Iterator[str]:
        """The model's answer in pieces, the likeliest. Raises: GeneratorError, see `Generator.stream`."""
        return self.generator.stream(
            found.prompt.messages, hits=found.prompt.hits, max_tokens=max_tokens, temperature=0.0, stop=stop
        )

    def _new(self, turns: Sequence[Entry]) -> dict[int, Entry]:
        """Turns to store, by their place in the recording."""
        known = {turn.source_id: turn.text for turn in self.memory.turns()}
        erased = {name for receipt in self.memory.store.receipts() for name in receipt.source_ids}
        new = {}
        for number, entry in enumerate(turns):
            name, text = entry[4], entry[1]
            if name is not None and name in known:
                if known[name] != text:
                    raise ValueError(
                        f"turn {name!r} of the recording has another text in this memory: replay into another one, "
                        "or rename it in the file"
                    )
            elif name not in erased:
                new[number] = entry
        return new

    @staticmethod
    def _asked(turns: Sequence[Entry], new: dict[int, Entry], max_prompts: int) -> set[int]:
        roles = {turn[0] for turn in turns}
        asker = "user" if "user" in roles else turns[0][0] if turns else ""
        places = [number for number in new if number and turns[number][0] == asker and turns[number][1].strip()]
        count = min(max_prompts, len(places))
        return {places[(i + 1) * len(places) // count - 1] for i in range(count)}

    def _store(self, turns: Sequence[Entry], new: dict[int, Entry], places: range) -> None:
        if entries := [turns[place] for place in places if place in new]:
            self.memory.add_all(entries)

    def _compose(self, text: str, *, note_use: bool) -> tuple[Prompt, list[Hit]]:
        """What `DialogueMemory.compose` does, and what was found."""
        hits = self.memory.search(text, self.num_retrieved, note_use=note_use)
        latest = self.memory.turns(last=1)
        room = self.generator.context_tokens - _ANSWER_TOKENS
        prompt = compose(
            text,
            system=self._system,
            compact=self.memory.summary(),
            hits=hits,
            recent=self.memory.turns(session=latest[0].session, last=self.num_recent) if latest else (),
            budget=replace(self._budget, tokens=max(1, min(self._budget.tokens, room))),
            count_tokens=self.generator.count_tokens,
            count_prompt=self.generator.count_prompt,
        )
        return prompt, hits

    def _turn(self, source_id: str) -> Turn | None:
        found = self.memory.store.find_turns(source_id=source_id)
        return next(iter(self.memory.store.turns(numbers=found[:1])), None) if found else None


def read_recording(path: str | Path, *, conversation: str | None = None) -> Recording:
    """A file of a dialogue: JSON lines as `memarch memory export` or `memarch.data.dialogues` write them, LoCoMo's JSON
    with its questions, or lines like "Ada: hello".

    conversation: of a LoCoMo file with several, which. A turn without a name gets one of the file's name and its place,
    so that a second replay knows it again.
    Raises: OSError; ValueError with the place and what is wrong there, or if a conversation must be chosen.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} should be UTF-8; byte {error.start} is not: convert it first") from error
    kind = guess_format(text)
    if conversation is not None and kind != "locomo":
        raise ValueError(f"{path} is no LoCoMo file: it has no conversation {conversation!r}")
    if kind == "jsonl":
        with path.open("rb") as file:
            parsed = parse(file, name=str(path), stem=path.stem)
        said = [entry.new for _, entry in parsed.turns]
        return Recording(tuple((new.role, new.text, new.session, new.time, new.source_id) for new in said))
    try:
        if kind == "locomo":
            names = [name for name, _, _ in locomo_samples(text, conversation)]
            if len(names) > 1:
                raise ValueError(
                    f"choose one of its {len(names)} conversations ({', '.join(names)}); on the command line as "
                    f"{path.name}#{names[0]}"
                )
            turns, questions = (
                parse_locomo(text, conversation=conversation),
                parse_questions(text, conversation=names[0]),
            )
        else:
            turns, questions = parse_lines(text, session=path.stem), []
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    named = [(*turn[:4], turn[4] or f"{path.stem}:{place}") for place, turn in enumerate(turns, 1)]
    return Recording(tuple(named), tuple(questions))


def recall(found: Sequence[Found]) -> float | None:
    """Mean over the questions that have evidence; None if none has."""
    values = [each.recall for each in found if each.recall is not None]
    return sum(values) / len(values) if values else None


def recall_by_age(found: Sequence[Found], *, ages: Sequence[int] = AGES) -> list[tuple[int, int | None, int, int]]:
    """(from, below, pieces of evidence in their prompts, pieces) by age in turns; ages without a piece are left out."""
    pieces = [piece for each in found for piece in each.evidence if piece.age_turns is not None]
    rows = []
    for low, high in zip((0, *ages), (*ages, None), strict=True):
        here = [
            p for p in pieces if p.age_turns is not None and low <= p.age_turns and (high is None or p.age_turns < high)
        ]
        if here:
            rows.append((low, high, sum(piece.part is not None for piece in here), len(here)))
    return rows
