"""Ways to rank the turns of a conversation for each of its questions: baselines, the recipe to beat, and ours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks._dialogue_locomo import Conversation
from benchmarks._dialogue_metrics import DEPTH
from memarch.dialogue.cues import cue_text, embedding_text
from memarch.dialogue.embedders import Embedder
from memarch.dialogue.lexical import LexicalIndex, LexicalWeights
from memarch.dialogue.ranking import Floats, Ids, Ranker, RankingWeights
from memarch.dialogue.words import Words

Rankings = list[NDArray[np.intp]]
Matrix = NDArray[np.float64]
"""Scores `[questions, turns]`."""
PLAIN_BM25 = LexicalWeights(k1=1.2, b=0.75, after=(), before=())


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of a conversation: its questions, its turns, and its turns with the turn before them, `[n, dim]`."""

    questions: Floats
    turns: Floats
    pairs: Floats


def embed(conversation: Conversation, embedder: Embedder, cache: Path | None = None) -> Vectors:
    """Embed a conversation; with a cache folder, texts that were embedded before are read from there."""
    turns = [embedding_text(chunk.role, chunk.text) for chunk in conversation.chunks]
    pairs = [f"{turns[j]}\n{turns[i]}" if j >= 0 else turns[i] for i, j in enumerate(_previous(conversation))]
    questions = [question.text for question in conversation.questions]

    def queries(texts: list[str]) -> Floats:
        return np.stack([embedder.embed_query(text) for text in texts])

    def get(texts: list[str], make: Callable[[list[str]], Floats]) -> Floats:
        if cache is None:
            return make(texts)
        key = hashlib.sha256("\0".join([embedder.name, make.__name__, *texts]).encode()).hexdigest()[:24]
        path = cache / f"{key}.npy"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            np.save(path, make(texts))
        return np.asarray(np.load(path, allow_pickle=False), np.float32)

    documents = embedder.embed_documents
    return Vectors(get(questions, queries), get(turns, documents), get(pairs, documents))


def bm25(conversation: Conversation) -> Matrix:
    """BM25 + stop list over date, speaker and text of each turn."""
    index = LexicalIndex(PLAIN_BM25, words=Words(None))
    for chunk in conversation.chunks:
        index.add(chunk.chunk, f"{cue_text(chunk.role, chunk.time)} {chunk.text}")
    return _scores(index, conversation)


def minilm_neighbours(conversation: Conversation, vectors: Vectors) -> Matrix:
    """Cosine, plus 0.4 x the better neighbour's."""
    return _with_neighbour(conversation, _cosines(vectors))


def rrf(conversation: Conversation, vectors: Vectors) -> Matrix:
    """Reciprocal rank fusion (60) of BM25 and MiniLM with neighbours, equal weights."""
    both = (bm25(conversation), minilm_neighbours(conversation, vectors))
    ranks = [np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1) for scores in both]
    return np.asarray(sum(1.0 / (60 + 1 + rank) for rank in ranks))


def recipe(conversation: Conversation, vectors: Vectors) -> Matrix:
    """The recipe of our specification: z-scores of two stemmed BM25 and two cosines, plus 0.4 x the best neighbour."""
    pairs, turns = LexicalIndex(PLAIN_BM25), LexicalIndex(PLAIN_BM25)
    chunks = conversation.chunks
    for chunk, j in zip(chunks, _previous(conversation), strict=True):
        pairs.add(chunk.chunk, (chunks[j].text if j >= 0 else "") + " " + chunk.text)
        turns.add(chunk.chunk, f"{cue_text(chunk.role, chunk.time)} {chunk.text}")
    words = 0.6 * _z(_scores(pairs, conversation)) + _z(_scores(turns, conversation))
    meaning = _z(_cosines(vectors)) + 0.6 * _z((vectors.questions @ vectors.pairs.T).astype(np.float64))
    return _with_neighbour(conversation, words + meaning)


def ours(conversation: Conversation, vectors: Vectors | None, weights: RankingWeights | None = None) -> Rankings:
    """`memarch.dialogue.ranking.Ranker` as the memory uses it; vectors None: words only."""
    ranker = Ranker(weights)
    for chunk in conversation.chunks:
        ranker.add(chunk)
    return ask(ranker, conversation, vectors)


def ask(ranker: Ranker, conversation: Conversation, vectors: Vectors | None) -> Rankings:
    """Rankings by a ranker that holds the conversation."""
    rankings = []
    for number, question in enumerate(conversation.questions):
        if vectors is None:
            found = ranker.rank(question.text, DEPTH)
        else:
            matrix = vectors.turns

            def nearest(query: Floats, k: int, matrix: Floats = matrix) -> tuple[Ids, Floats]:
                cosines = matrix @ query
                best = np.argsort(-cosines, kind="stable")[:k]
                return best + 1, cosines[best]

            def get(chunks: Ids, matrix: Floats = matrix) -> tuple[Ids, Floats]:
                return chunks, matrix[chunks - 1]

            query = vectors.questions[number]
            found = ranker.rank(question.text, DEPTH, query_vector=query, nearest=nearest, vectors=get)
        rankings.append(np.array([ranked.chunk - 1 for ranked in found], np.intp))
    return rankings


def _order(scores: Matrix) -> Rankings:
    return list(np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH])


WORD_ARMS: Mapping[str, Callable[[Conversation], Rankings]] = {
    "BM25": lambda conversation: _order(bm25(conversation)),
    "ours, words only": lambda conversation: ours(conversation, None),
}
VECTOR_ARMS: Mapping[str, Callable[[Conversation, Vectors], Rankings]] = {
    "MiniLM": lambda conversation, vectors: _order(_cosines(vectors)),
    "MiniLM + 0.4 neighbours": lambda conversation, vectors: _order(minilm_neighbours(conversation, vectors)),
    "RRF of both": lambda conversation, vectors: _order(rrf(conversation, vectors)),
    "recipe": lambda conversation, vectors: _order(recipe(conversation, vectors)),
    "ours": ours,
}


def _cosines(vectors: Vectors) -> Matrix:
    return (vectors.questions @ vectors.turns.T).astype(np.float64)


def _scores(index: LexicalIndex, conversation: Conversation) -> Matrix:
    return np.array([index.scores(question.text) for question in conversation.questions], np.float64)


def _z(scores: Matrix) -> Matrix:
    deviation = scores.std(1, keepdims=True)
    return (scores - scores.mean(1, keepdims=True)) / np.where(deviation > 0, deviation, 1)


def _previous(conversation: Conversation) -> Sequence[int]:
    """Place of the turn before, -1 at the start of a session."""
    chunks = conversation.chunks
    return [i - 1 if i and chunks[i - 1].session == chunks[i].session else -1 for i in range(len(chunks))]


def _with_neighbour(conversation: Conversation, scores: Matrix) -> Matrix:
    before = np.array(_previous(conversation))
    best = np.full_like(scores, -np.inf)
    has = np.flatnonzero(before >= 0)
    best[:, has] = scores[:, before[has]]
    best[:, before[has]] = np.maximum(best[:, before[has]], scores[:, has])
    return scores + 0.4 * np.where(np.isfinite(best), best, 0.0)
