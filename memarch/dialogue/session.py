"""A conversation with a model that has a memory: store, retrieve, compose, answer, store. No terminal in here."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from types import GeneratorType

from ._chat_events import MARKS, Answer, Composed, Event, Piece, Status, Stored, is_partial
from .budget import Budget, PromptReport
from .errors import ContextExceeded
from .generators.base import Generator
from .memory import DialogueMemory
from .prompt import Message, Prompt, compose
from .records import Hit, Receipt, Turn, utc_now

__all__ = [
    "NOTES_SESSION",
    "Answer",
    "ChatSession",
    "Composed",
    "Event",
    "Piece",
    "Stored",
    "is_partial",
    "latest_session",
    "new_session",
]

NOTES_SESSION = "notes"
UNDO_WINDOW = 20
"""How many exchanges that were taken back can be brought back, as long as the process lives."""


class ChatSession:
    """One conversation. What is said is stored before it is answered; what is retrieved is never stored again.

    memory: whose owner speaks. generator, system, budget_tokens, max_tokens, temperature: may be changed between
    answers. session: its name, to go on with one; None begins a new one (`new_session`). budget: how the parts of the
    prompt share its tokens. The prompt also leaves room for an answer in the model's context.

    Answers come one at a time. `cancel` may be called from a signal handler or another thread.
    """

    def __init__(
        self,
        memory: DialogueMemory,
        generator: Generator,
        *,
        system: str = "",
        budget_tokens: int = 3500,
        session: str | None = None,
        max_tokens: int = 512,
        temperature: float = 0.3,
        budget: Budget | None = None,
    ) -> None:
        self.memory, self.generator, self.system = memory, generator, system
        self.budget_tokens, self.max_tokens, self.temperature = budget_tokens, max_tokens, temperature
        self.session = session or new_session(memory)
        self.num_retrieved, self.num_recent = 20, 8
        self.last_answer: Answer | None = None
        self._shares = budget or Budget()
        self._prompt: Prompt | None = None
        self._stop = threading.Event()
        self._undone: deque[tuple[Turn, ...]] = deque(maxlen=UNDO_WINDOW)
        self._unstored: list[Turn] = []
        self._incognito = False

    # Speaking.

    def say(self, text: str) -> Iterator[Event]:
        """Store what the user says, at once, and answer it: Stored, Composed, Piece ..., Answer.

        Closing the iterator, KeyboardInterrupt and `cancel` end the answer; what came so far is stored with a mark.
        Raises: ValueError for an empty text, StoreUnavailable and the like: nothing is stored; while iterating
        GeneratorError: the user's turn stays, and so does, marked, what came of the answer. `retry` asks again.
        """
        _check(text)
        turn = self._keep("user", text)
        self._undone.clear()
        return self._respond(turn, replacing=(), is_new=True)

    def retry(self) -> Iterator[Event]:
        """Answer the user's last turn again. The earlier answer is erased as soon as another is there.

        Raises: ValueError if there is nothing to answer.
        """
        exchange = self._last_exchange()
        if not exchange:
            raise ValueError("there is no message in this session to answer again")
        return self._respond(exchange[0], replacing=exchange[1:], is_new=False)

    def edit(self, text: str) -> Iterator[Event]:
        """Take the last exchange back for good, and say this instead."""
        _check(text)
        if not self.undo():
            raise ValueError("there is no message in this session to edit")
        return self.say(text)

    def cancel(self) -> None:
        """End the answer that is coming."""
        self._stop.set()

    def pending(self) -> Turn | None:
        """The user's last turn if nothing answered it: the process died, the model failed or said nothing."""
        exchange = self._last_exchange()
        return exchange[0] if len(exchange) == 1 else None

    # Looking into the last answer.

    def why(self) -> list[Hit]:
        """The memories in the last prompt, best first, each with its score's parts, age, session and source."""
        return list(self._prompt.hits) if self._prompt else []

    def prompt(self) -> list[Message]:
        """The exact messages that the model got last."""
        return [dict(message) for message in self._prompt.messages] if self._prompt else []

    def budget(self) -> PromptReport | None:
        """What each part of the last prompt was allowed, used and lost."""
        return self._prompt.report if self._prompt else None

    # Changing what was said.

    def undo(self) -> tuple[Turn, ...]:
        """Take back the last message and its answers: erased from the memory, kept in this process for `redo`."""
        exchange = self._last_exchange()
        self._drop(exchange)
        if exchange:
            self._undone.append(exchange)
            self._prompt = None
        return exchange

    def redo(self) -> tuple[Turn, ...]:
        """Say again what was taken back last, as new turns of the same times; () if there is nothing."""
        if not self._undone:
            return ()
        exchange = self._undone.pop()
        return tuple(self._keep(turn.role, turn.text, when=turn.time) for turn in exchange)

    def erase(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
    ) -> Receipt:
        """`DialogueMemory.erase`, and nothing of it stays in this process: neither last prompt nor what `redo` has."""
        receipt = self.memory.erase(source_id=source_id, turn=turn, session=session, before=before)
        self._undone.clear()
        self._prompt = self.last_answer = None
        return receipt

    def remember(self, text: str) -> Turn:
        """Keep a note that forgetting never takes, in the session `NOTES_SESSION`. ValueError in incognito."""
        _check(text)
        if self._incognito:
            raise ValueError("nothing is stored in incognito: leave it first, then remember")
        turn = self.memory.add("user", text, session=NOTES_SESSION)
        self.memory.pin(turn=turn.turn)
        return turn

    @property
    def incognito(self) -> bool:
        """While on, memory is read, but nothing is stored; what was said meanwhile is forgotten when it goes off."""
        return self._incognito

    @incognito.setter
    def incognito(self, on: bool) -> None:
        if on != self._incognito:
            self._unstored.clear()
            self._undone.clear()
            self._prompt = self.last_answer = None
        self._incognito = on

    # One answer.

    def _respond(self, asked: Turn, *, replacing: Sequence[Turn], is_new: bool) -> Iterator[Event]:
        self._stop.clear()
        if is_new and not self._incognito:
            yield Stored(asked)
        self._prompt = None
        started = time.perf_counter()
        prompt, shown = self._compose(asked, replacing)
        self._prompt = prompt
        yield Composed(prompt, 1000 * (time.perf_counter() - started))
        pieces: list[str] = []
        started, first = time.perf_counter(), None
        status: Status = "failed"
        stream = self.generator.stream(
            prompt.messages,
            hits=shown,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=self._stop,
        )
        try:
            for piece in stream:
                first = time.perf_counter() - started if first is None else first
                pieces.append(piece)
                yield Piece(piece)
            status = "stopped" if self._stop.is_set() else "done"
        except (GeneratorExit, KeyboardInterrupt):
            status = "stopped"
            raise
        finally:
            if isinstance(stream, GeneratorType):
                stream.close()
            seconds = time.perf_counter() - started
            self.last_answer = self._finish("".join(pieces), status, replacing, seconds, first)
        yield self.last_answer

    def _compose(self, asked: Turn, replacing: Sequence[Turn]) -> tuple[Prompt, tuple[Hit, ...]]:
        """The prompt, and the hits that stand in it, as memories or among the last turns: all can be quoted."""
        hidden = {asked.turn, *(turn.turn for turn in replacing)}
        hits = self.memory.search(asked.text, self.num_retrieved + len(hidden), note_use=not self._incognito)
        recent = self.memory.turns(session=self.session, last=self.num_recent + len(hidden))
        recent = [turn for turn in [*recent, *self._unstored] if turn.turn not in hidden][-self.num_recent :]
        context = self.generator.context_tokens
        room = context - min(self.max_tokens, context // 4)
        try:
            prompt = compose(
                asked.text,
                system=self.system,
                # Where the last turns are all there is, a summary says nothing new.
                compact="" if len(recent) + len(hidden) >= self.memory.store.last_turn() else self.memory.summary(),
                hits=[hit for hit in hits if hit.turn not in hidden][: self.num_retrieved],
                recent=recent,
                budget=replace(self._shares, tokens=max(1, min(self.budget_tokens, room))),
                count_tokens=self.generator.count_tokens,
                count_prompt=self.generator.count_prompt,
            )
        except ValueError as error:
            raise ContextExceeded(str(error)) from error
        there = {*prompt.report.part("retrieved").kept, *prompt.report.part("recent").kept}
        return prompt, tuple(hit for hit in hits if hit.turn not in hidden and hit.source_id in there)

    def _finish(
        self,
        text: str,
        status: Status,
        replacing: Sequence[Turn],
        seconds: float,
        first_seconds: float | None,
    ) -> Answer:
        """Store the answer, or what came of it with a mark, in place of the earlier ones."""
        turn = None
        kept = self.generator.to_store(text).strip()
        if kept:
            turn = self._keep("assistant", kept + MARKS[status])
            self._drop(replacing)
        num_tokens = self.generator.count_tokens(text) if text else 0
        return Answer(text, status, None if self._incognito else turn, num_tokens, seconds, first_seconds)

    def _keep(self, role: str, text: str, *, when: datetime | None = None) -> Turn:
        """Store a turn, in incognito only for as long as it is on."""
        if not self._incognito:
            return self.memory.add(role, text, session=self.session, time=when)
        # Numbered after all stored ones, so that it sorts as the latest.
        number = max(self.memory.store.last_turn(), *(turn.turn for turn in self._unstored), 0) + 1
        turn = Turn(number, self.session, role, text, when or utc_now(), f"incognito-{number}", "")
        self._unstored.append(turn)
        return turn

    def _drop(self, turns: Sequence[Turn]) -> None:
        """Erase these, answers before what they answer: a crash leaves a question, never an answer without one."""
        for turn in reversed(turns):
            if self._incognito:
                self._unstored.remove(turn)
            else:
                self.memory.erase(turn=turn.turn)

    def _last_exchange(self) -> tuple[Turn, ...]:
        """The user's last turn and the answers to it; () if there is none, or if others speak in this session."""
        turns = self._unstored if self._incognito else self.memory.turns(session=self.session, last=8)
        for position in range(len(turns) - 1, -1, -1):
            if turns[position].role == "user":
                return tuple(turns[position:])
            if turns[position].role != "assistant":
                break
        return ()


def new_session(memory: DialogueMemory) -> str:
    """A name for another session: the time of day, with a number if it is taken."""
    taken = {session.session for session in memory.sessions()}
    name = first = f"{datetime.now():%Y-%m-%d %H:%M}"
    number = 1
    while name in taken:
        number += 1
        name = f"{first} ({number})"
    return name


def latest_session(memory: DialogueMemory) -> str | None:
    """The session that was spoken in last, notes aside; None in an empty memory."""
    spoken = [session for session in memory.sessions() if session.session != NOTES_SESSION]
    return max(spoken, key=lambda session: session.last_turn).session if spoken else None


def _check(text: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"expected a text to say; got {text!r}")
