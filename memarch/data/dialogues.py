"""Long dialogues made up by rule, with questions whose evidence is known: to test memories without anybody's data.

Two speakers talk for months, in sessions of a dozen to thirty turns. Between small talk they state facts about
themselves and the people around them, some of which change later, and things that happened. Distractors use the words
of the facts without stating any. Everything follows from the seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from . import _dialogue_templates as words

KINDS = ("single", "multi-hop", "temporal", "updated", "never-said")
NEVER_SAID = "never said"
# strftime would name months in the machine's language.
_MONTHS = "January February March April May June July August September October November December".split()


@dataclass(frozen=True)
class DialogueTurn:
    """One message; source_id is "S<session>:<turn of it>"."""

    role: str
    text: str
    session: str
    time: datetime
    source_id: str


@dataclass(frozen=True)
class DialogueQuestion:
    """A question about the whole dialogue.

    evidence: source_ids of the turns that one must know to answer; none for "never-said". kind: one of KINDS. For
    "updated" the last statement counts; "temporal" asks for a date or for what was true before.
    """

    question: str
    answer: str
    evidence: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class GeneratedDialogue:
    """Turns in the order of time, and questions."""

    turns: tuple[DialogueTurn, ...]
    questions: tuple[DialogueQuestion, ...]


@dataclass
class _Fact:
    """Something to be said: where in the dialogue (0..1), by whom, how; asked for after it was said."""

    place: float
    speaker: int
    kind: str
    key: str
    value: str
    prompt: str
    text: str
    detail: str = ""
    earlier: _Fact | None = None
    said_at: DialogueTurn | None = None


def generate_dialogue(
    num_turns: int = 1500,
    *,
    seed: int,
    speakers: tuple[str, str] = ("Maya", "Daniel"),
    start: datetime = datetime(2025, 1, 6, 18, 30, tzinfo=UTC),
) -> GeneratedDialogue:
    """`num_turns` turns and the questions that they answer, the same for the same arguments.

    About one turn in ten states a fact, until there are no new ones to tell (beyond about 3,000 turns). speakers: their
    roles; one may be "assistant", who then states none; "user" is "the user" in questions.
    Raises: ValueError for fewer than 1 turn, speakers that are equal or empty, or a start without a time zone.
    """
    if num_turns < 1:
        raise ValueError(f"num_turns must be at least 1; got {num_turns}")
    if not all(speakers) or speakers[0] == speakers[1]:
        raise ValueError(f"speakers must be two different names; got {speakers!r}")
    if start.tzinfo is None:
        raise ValueError(f"start needs a time zone, such as tzinfo=UTC; got {start!r}")
    rng = random.Random(f"memarch dialogue 1 {seed}")
    facts, never = _plan(rng, num_turns, speakers)
    turns = _Talk(rng, num_turns, speakers, start).tell(facts)
    return GeneratedDialogue(tuple(turns), tuple(_questions(rng, facts, never, speakers)))


def _plan(
    rng: random.Random, num_turns: int, speakers: tuple[str, str]
) -> tuple[list[_Fact], list[tuple[int, str, str]]]:
    """Facts in the order of saying, and (speaker, question, its value) on what will never be said."""
    talkers = [i for i in (0, 1) if speakers[i] != "assistant"]
    groups: list[list[_Fact]] = []
    never = []
    names = rng.sample(words.PEOPLE, len(words.PEOPLE))
    for i in talkers:
        keys = rng.sample(sorted(words.TRAITS), len(words.TRAITS))
        never += [(i, key) for key in keys[:2]]
        groups += [_trait(rng, i, key) for key in keys[2:]]
        groups += [_relative(rng, i, relation, names.pop()) for relation in rng.sample(words.RELATIONS, 5)]
    rng.shuffle(groups)
    wanted = max(1, num_turns // 10)
    facts: list[_Fact] = []
    for group in groups:
        if len(facts) + len(group) <= wanted:
            facts += group
    events = [(i, key, value) for i in talkers for key, event in words.EVENTS.items() for value in event.values]
    rng.shuffle(events)
    room = wanted - len(facts)
    facts += [_event(rng, *event) for event in events[:room]]
    asked = [(i, rng.choice(words.TRAITS[key].questions), "") for i, key in never]
    for i, key, value in events[room : room + wanted // 15]:
        asked.append((i, rng.choice(words.EVENTS[key].questions), value))
    return sorted(facts, key=lambda fact: fact.place), asked


def _trait(rng: random.Random, speaker: int, key: str) -> list[_Fact]:
    trait = words.TRAITS[key]
    value, newer = rng.sample(trait.values, 2)
    prompt, text = rng.choice([("", say) for say in trait.says] + list(trait.asked))
    changes = bool(trait.updates) and rng.random() < 0.7
    first = _Fact(rng.uniform(0, 0.5 if changes else 1), speaker, "trait", key, value, prompt, text.format(v=value))
    if not changes:
        return [first]
    update = rng.choice(trait.updates).format(v=newer, old=value)
    return [first, _Fact(rng.uniform(first.place + 0.1, 1), speaker, "trait", key, newer, "", update, earlier=first)]


def _relative(rng: random.Random, speaker: int, relation: str, name: str) -> list[_Fact]:
    text = rng.choice(words.INTRODUCTIONS).format(rel=relation, name=name)
    intro = _Fact(rng.uniform(0, 0.6), speaker, "intro", relation, name, "", text)
    facts = [intro]
    for key in rng.sample(sorted(words.RELATIVES), 2):
        values, says, _ = words.RELATIVES[key]
        value = rng.choice(values)
        said = rng.choice(says).format(name=name, v=value)
        facts.append(
            _Fact(rng.uniform(intro.place + 0.02, 1), speaker, "relative", key, value, "", said, earlier=intro)
        )
    return facts


def _event(rng: random.Random, speaker: int, key: str, value: str) -> _Fact:
    event = words.EVENTS[key]
    detail = rng.choice(event.details)
    said = rng.choice(event.says).format(v=value, w=detail)
    return _Fact(rng.random(), speaker, "event", key, value, "", said[0].upper() + said[1:], detail)


class _Talk:
    """Turns one after the other; sessions start new days."""

    def __init__(self, rng: random.Random, num_turns: int, speakers: tuple[str, str], start: datetime) -> None:
        self._rng, self._num_turns, self._speakers = rng, num_turns, speakers
        self._day = self._time = start
        self._session, self._left = 0, 0
        self._next = 0
        self._turns: list[DialogueTurn] = []

    def tell(self, facts: Sequence[_Fact]) -> list[DialogueTurn]:
        waiting = list(facts)[::-1]
        while len(self._turns) < self._num_turns:
            if self._left <= 0:
                self._new_session()
            elif waiting and waiting[-1].place * self._num_turns <= len(self._turns):
                self._state(waiting.pop())
            else:
                self._chat()
        return self._turns

    def _new_session(self) -> None:
        if self._session:
            self._day += timedelta(days=self._rng.randint(1, 6), minutes=self._rng.randint(-90, 90))
        self._session += 1
        self._time, self._left = self._day, self._rng.randint(12, 30)
        self._place = 0
        self._next = self._rng.randint(0, 1)
        self._say(self._next, self._rng.choice(words.OPENINGS).format(other=_address(self._speakers[1 - self._next])))

    def _state(self, fact: _Fact) -> None:
        other = 1 - fact.speaker
        if fact.prompt:
            if self._next != other:
                self._say(fact.speaker, self._distraction())
            self._say(other, fact.prompt)
        elif self._next != fact.speaker:
            self._say(other, self._distraction())
        if len(self._turns) < self._num_turns:
            fact.said_at = self._say(fact.speaker, fact.text)
        self._say(other, self._rng.choice(words.REACTIONS))

    def _chat(self) -> None:
        if self._rng.random() < 0.35:
            self._say(self._next, self._distraction())
            self._say(self._next, self._rng.choice(words.REACTIONS))
            return
        for line in self._rng.choice(words.SMALL_TALK):
            slots = {slot: self._rng.choice(values) for slot, values in words.SLOTS.items()}
            self._say(self._next, line.format(**slots))

    def _distraction(self) -> str:
        slots = {key: self._rng.choice(trait.values) for key, trait in words.TRAITS.items()}
        item, name = self._rng.choice(words.EVENTS["purchase"].values), self._rng.choice(words.PEOPLE)
        return self._rng.choice(words.DISTRACTORS).format(item=item, name=name, **slots)

    def _say(self, speaker: int, text: str) -> DialogueTurn | None:
        if len(self._turns) == self._num_turns:
            return None
        self._place += 1
        turn = DialogueTurn(
            self._speakers[speaker], text, str(self._session), self._time, f"S{self._session}:{self._place}"
        )
        self._turns.append(turn)
        self._time += timedelta(seconds=self._rng.randint(20, 90))
        self._left -= 1
        self._next = 1 - speaker
        return turn


def _questions(
    rng: random.Random, facts: list[_Fact], never: list[tuple[int, str, str]], speakers: tuple[str, str]
) -> Iterable[DialogueQuestion]:
    changed = {id(fact.earlier) for fact in facts if fact.kind == "trait" and fact.said_at and fact.earlier}
    for fact in facts:
        if fact.said_at is None:
            continue
        who, here = _called(speakers[fact.speaker]), fact.said_at.source_id
        before = fact.earlier.said_at if fact.earlier else None
        if fact.kind == "trait" and id(fact) not in changed:
            trait = words.TRAITS[fact.key]
            kind = "updated" if before else "single"
            yield DialogueQuestion(rng.choice(trait.questions).format(who=who), fact.value, (here,), kind)
            if before and fact.earlier and trait.before:
                asked = rng.choice(trait.before).format(who=who, v=fact.value)
                yield DialogueQuestion(asked, fact.earlier.value, (before.source_id,), "temporal")
        elif fact.kind == "relative" and before and fact.earlier:
            asked = rng.choice(words.RELATIVES[fact.key][2]).format(who=who, rel=fact.earlier.key)
            yield DialogueQuestion(asked, fact.value, (before.source_id, here), "multi-hop")
        elif fact.kind == "event":
            event = words.EVENTS[fact.key]
            if rng.random() < 0.3:
                asked, date = rng.choice(event.when).format(who=who, v=fact.value), fact.said_at.time
                yield DialogueQuestion(asked, f"{date.day} {_MONTHS[date.month - 1]} {date.year}", (here,), "temporal")
            else:
                asked = rng.choice(event.questions).format(who=who, v=fact.value)
                yield DialogueQuestion(asked, fact.detail, (here,), "single")
    for speaker, asked, value in never:
        question = asked.format(who=_called(speakers[speaker]), v=value)
        yield DialogueQuestion(question, NEVER_SAID, (), "never-said")


def _called(role: str) -> str:
    return "the user" if role == "user" else role


def _address(role: str) -> str:
    return "friend" if role in ("user", "assistant") else role


def write_jsonl(path: str | Path, items: Iterable[DialogueTurn] | Iterable[DialogueQuestion]) -> None:
    """One item a line as JSON with its fields, UTF-8; times as ISO 8601."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for item in items:
            fields = asdict(item)
            if isinstance(item, DialogueTurn):
                fields["time"] = item.time.isoformat()
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")


def read_turns(path: str | Path) -> list[DialogueTurn]:
    """What `write_jsonl` wrote of turns. Raises: ValueError with the line's number for anything else."""
    return [DialogueTurn(**line) for line in _lines(path, ("role", "text", "session", "time", "source_id"))]


def read_questions(path: str | Path) -> list[DialogueQuestion]:
    """What `write_jsonl` wrote of questions. Raises: ValueError with the line's number for anything else."""
    names = ("question", "answer", "evidence", "kind")
    return [DialogueQuestion(**{**line, "evidence": tuple(line["evidence"])}) for line in _lines(path, names)]


def _lines(path: str | Path, names: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    with Path(path).open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: expected JSON; {error.msg}") from error
            if not isinstance(fields, dict) or sorted(fields) != sorted(names):
                got = sorted(fields) if isinstance(fields, dict) else fields
                raise ValueError(f"{path}, line {number}: expected the fields {', '.join(names)}; got {got}")
            for name in names:
                kind = list if name == "evidence" else str
                if not isinstance(fields[name], kind):
                    raise ValueError(f"{path}, line {number}: {name} should be a {kind.__name__}; got {fields[name]!r}")
            if "time" in names:
                fields["time"] = _time(fields["time"], f"{path}, line {number}")
            yield fields


def _time(text: str, where: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{where}: time should be like 2025-01-06T18:30:00+00:00; got {text!r}") from error
    if time.tzinfo is None:
        raise ValueError(f"{where}: time needs its zone, like 2025-01-06T18:30:00+00:00; got {text!r}")
    return time
