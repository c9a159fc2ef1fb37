"""Dialogues lived through turn by turn: what a memory holds, archives and puts into prompts after a long time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._dialogue_arms import Rankings, Vectors
from benchmarks._dialogue_locomo import Conversation
from memarch.dialogue.cues import embedding_text
from memarch.dialogue.embedders import Embedder, Floats
from memarch.dialogue.memory import DialogueMemory
from memarch.dialogue.salience import ForgettingPolicy

RETRIEVED = 20
"""Hits that each turn of the user's asks for, as `compose` does."""


class Remembering:
    """An embedder that embeds a text once: generated dialogues repeat themselves, and several arms embed the same."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder, self.name, self.dim = embedder, embedder.name, embedder.dim
        self._documents: dict[str, Floats] = {}
        self._queries: dict[str, Floats] = {}

    def embed_documents(self, texts: Sequence[str]) -> Floats:
        """`[n, dim]`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._documents]
        if new:
            self._documents.update(zip(new, self._embedder.embed_documents(new), strict=True))
        return np.stack([self._documents[text] for text in texts])

    def embed_query(self, text: str) -> Floats:
        """`[dim]`."""
        if text not in self._queries:
            self._queries[text] = self._embedder.embed_query(text)
        return self._queries[text]


@dataclass(frozen=True)
class Life:
    """A memory that has lived through a conversation, and the places of its archived turns."""

    memory: DialogueMemory
    archived: frozenset[int]


def vectors_of(conversation: Conversation, embedder: Embedder) -> Vectors:
    """Vectors of turns and questions; pairs of turns are not embedded."""
    turns = embedder.embed_documents([embedding_text(chunk.role, chunk.text) for chunk in conversation.chunks])
    questions = np.stack([embedder.embed_query(question.text) for question in conversation.questions])
    return Vectors(questions, turns, turns[:0])


def live(
    conversation: Conversation,
    folder: Path,
    embedder: Embedder | None,
    policy: ForgettingPolicy | None,
    *,
    batch: int = 1,
    before_turn: Callable[[DialogueMemory, int], None] | None = None,
) -> Life:
    """Say a conversation to a new memory, `batch` turns at once; before each, `before_turn(memory, place)`."""
    memory = DialogueMemory(folder, user="ada", embedder=embedder, policy=policy)
    chunks = conversation.chunks
    for start in range(0, len(chunks), batch):
        if before_turn is not None:
            before_turn(memory, start)
        memory.add_all([(c.role, c.text, c.session, c.time, c.source_id) for c in chunks[start : start + batch]])
    memory.index()
    archived = frozenset(chunk.turn - 1 for chunk in memory.store.chunks(archived=True))
    return Life(memory, archived)


def asker(conversation: Conversation, *, role: str | None = None) -> Callable[[DialogueMemory, int], None]:
    """For `live`: search for every turn that is about to be said, or for those of one role, as a chat does."""

    def ask(memory: DialogueMemory, place: int) -> None:
        if place and role in (None, conversation.chunks[place].role):
            memory.search(conversation.chunks[place].text, RETRIEVED)

    return ask


def rankings(life: Life, conversation: Conversation, depth: int) -> Rankings:
    """Places of the turns that the memory finds for each question."""
    return [
        np.array([hit.turn - 1 for hit in life.memory.search(question.text, depth)], np.intp)
        for question in conversation.questions
    ]


def found_at(ranking: np.ndarray, evidence: Sequence[int], k: int) -> np.ndarray:
    """Which pieces of evidence are among the first k, `[evidence]` of 0 and 1."""
    return np.isin(np.asarray(evidence), ranking[:k]).astype(float)
