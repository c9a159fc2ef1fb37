"""Texts, queries and vectors for stores of any size: made up from a seed, so that every arm gets the same."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from memarch.dialogue.embedders import Embedder, Floats, SentenceTransformerEmbedder
from memarch.dialogue.words import ENGLISH_STOP_WORDS

DIM = 384
WORDS_PER_TURN = 18
WORDS_PER_QUERY = 9
NUM_WORDS = 30_000
TURNS_PER_SESSION = 20
START = datetime(2025, 1, 6, 18, 30, tzinfo=UTC)
_BATCH = 10_000


def texts(first: int, count: int) -> list[str]:
    """Turns `first`, `first` + 1, ...: words by Zipf's law, the most frequent ones English function words."""
    return _sentences("turn", first, count, WORDS_PER_TURN)


def queries(first: int, count: int) -> list[str]:
    """Questions `first`, `first` + 1, ..., by the same law."""
    return [f"{text}?" for text in _sentences("query", first, count, WORDS_PER_QUERY)]


def time_of(number: int) -> datetime:
    """When turn `number` was said: a session of 20 turns a day."""
    return START + timedelta(days=number // TURNS_PER_SESSION, minutes=number % TURNS_PER_SESSION)


class TextVectors:
    """An embedder that costs next to nothing: a unit vector `[384]` drawn from each text's checksum.

    model: where it is set, that model embeds queries instead, and what a search costs with a real query is measured on
    stores whose size no model need embed.
    """

    name, dim = "random unit vectors", DIM

    def __init__(self) -> None:
        self.model: Embedder | None = None

    def embed_documents(self, texts: Sequence[str]) -> Floats:
        """`[n, 384]`."""
        raw = np.empty((len(texts), DIM), np.float32)
        for i, text in enumerate(texts):
            seed = zlib.crc32(text.encode("utf-8"))
            raw[i] = np.random.Generator(np.random.SFC64(seed)).standard_normal(DIM, np.float32)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    def embed_query(self, text: str) -> Floats:
        """`[384]`."""
        return self.embed_documents([text])[0] if self.model is None else self.model.embed_query(text)

    def load_model(self) -> None:
        """Let MiniLM embed queries from now on."""
        self.model = SentenceTransformerEmbedder()
        self.model.embed_query("Ready?")


def _sentences(kind: str, first: int, count: int, num_words: int) -> list[str]:
    found: list[str] = []
    # Whole batches are drawn, so that a turn is the same whichever range it is asked for in.
    for batch in range(first // _BATCH, (first + count - 1) // _BATCH + 1 if count else 0):
        low, high = max(first - batch * _BATCH, 0), min(first + count - batch * _BATCH, _BATCH)
        picked = _picked(kind, batch, num_words)[low:high].tolist()
        found += [" ".join(_vocabulary()[i] for i in row) for row in picked]
    return found


@lru_cache(maxsize=4)
def _picked(kind: str, batch: int, num_words: int) -> NDArray[np.int32]:
    """Words of a batch of sentences by their ranks, `[10000, num_words]`."""
    weights = 1.0 / (np.arange(len(_vocabulary())) + 2.7)
    draw = np.random.default_rng([batch, num_words, len(kind)])
    return draw.choice(len(weights), (_BATCH, num_words), p=weights / weights.sum()).astype(np.int32)


@cache
def _vocabulary() -> list[str]:
    """Function words, then made-up ones of two to four syllables, all different."""
    draw = np.random.default_rng(0)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    made: dict[str, None] = {}
    while len(made) < NUM_WORDS:
        made["".join(syllables[i] for i in draw.integers(len(syllables), size=draw.integers(2, 5)))] = None
    return [*sorted(ENGLISH_STOP_WORDS), *made]
