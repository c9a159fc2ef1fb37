"""Which of one user's chunks answer a query: words, meaning, who tells whom, and if wanted recency and salience.

The ranker holds the word index and a small table of all chunks in memory; vectors stay in the store and are asked for
through two of its methods. It works without vectors, and with vectors for some chunks only.
"""

from __future__ import annotations

import io
import zipfile
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memarch.dialogue.cues import cue_text, first_person, roles_asked_about
from memarch.dialogue.cues import embedding_text as embedding_text
from memarch.dialogue.lexical import LexicalIndex, LexicalWeights, pack_names, unpack_names
from memarch.dialogue.records import Chunk
from memarch.dialogue.words import Words

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Nearest = Callable[[Floats, int], tuple[Ids, Floats]]
"""`Store.nearest`: a query vector `[dim]` and k to chunk numbers and cosines, best first."""
Vectors = Callable[[Ids], tuple[Ids, Floats]]
"""`Store.get_vectors`: chunk numbers to those found and their unit vectors `[n, dim]`."""

_FORMAT = "memarch words 1"
"""Another number wherever `cues` or the layout of `Ranker.dump` changes."""


@dataclass(frozen=True)
class RankingWeights:
    """All numbers of the ranking; the defaults were tuned by `python -m benchmarks.dialogue --part tune`."""

    lexical: LexicalWeights = field(default_factory=LexicalWeights)
    """Numbers of the word score."""
    words: float = 3.0
    """Weight of the word score over the root of the greatest score possible: the same scale at any size of memory."""
    meaning: float = 0.6
    """Weight of the cosine, in standard deviations above the mean of a sample of the user's chunks."""
    told: float = 0.6
    """Weight of a turn in which the speaker tells of themselves (`cues.first_person`, 0 to 1)."""
    substance: float = 0.25
    """Weight of a chunk's length: the logarithm of its words, in deviations from the user's mean, -2 to 1.5."""
    speaker: float = 0.3
    """Weight of being said by the one whom the query names (`cues.roles_asked_about`)."""
    recency: float = 0.0
    """Weight of 2 ** (-age in turns / `recency_half_life`); off unless asked for, since old facts count as much."""
    recency_half_life: float = 200.0
    """Turns after which recency has halved."""
    salience: float = 0.0
    """Weight of the salience that the caller gives; off unless asked for."""
    prior_chunks: int = 100
    """Size of memory from which told, substance and speaker count in full; in smaller ones words must decide."""
    num_candidates: int = 200
    """How many chunks are taken from the words, and how many from the vectors, before they are compared."""
    num_sampled: int = 256
    """At least half as many chunks tell mean and deviation of a query's cosines, if the memory has them."""


@dataclass(frozen=True)
class Ranked:
    """A chunk that was found; `parts` add up to `score`."""

    chunk: int
    turn: int
    score: float
    parts: dict[str, float]


class Ranker:
    """Ranks the chunks that were added to it. Not safe for threads."""

    def __init__(self, weights: RankingWeights | None = None, *, words: Words | None = None) -> None:
        self.weights = weights or RankingWeights()
        self.lexical = LexicalIndex(self.weights.lexical, words=words)
        self._turns, self._roles, self._told = array("q"), array("i"), array("f")
        self._role_codes: dict[str, int] = {}
        self._prior: dict[str, NDArray[np.float64]] | None = None
        self._sample: tuple[Ids, Floats] | None = None

    def __len__(self) -> int:
        """Chunks that can be found."""
        return len(self.lexical)

    def add(self, chunk: Chunk) -> None:
        """Make a chunk findable; one that is archived is kept for `restore`. Numbers must ascend (ValueError)."""
        cue = cue_text(chunk.role, chunk.time)
        self.lexical.add(chunk.chunk, chunk.text, cue=cue, thread=chunk.session)
        self._turns.append(chunk.turn)
        self._roles.append(self._role_codes.setdefault(chunk.role, len(self._role_codes)))
        self._told.append(first_person(chunk.text))
        self._prior = None
        if chunk.archived_at is not None:
            self.lexical.hide(chunk.chunk)

    def archive(self, chunks: Iterable[int]) -> None:
        """Leave these out until they are restored; unknown numbers are ignored."""
        for chunk in chunks:
            self.lexical.hide(int(chunk))
        self._prior = None

    def restore(self, chunks: Iterable[int]) -> None:
        """Undo `archive`."""
        for chunk in chunks:
            self.lexical.show(int(chunk))
        self._prior = None

    def remove(self, chunks: Iterable[int]) -> None:
        """Forget these for good, in memory too."""
        for chunk in chunks:
            self.lexical.remove(int(chunk))
        kept = self.lexical.compact()
        for name in ("_turns", "_roles", "_told"):
            old: array[int] | array[float] = getattr(self, name)
            setattr(self, name, array(old.typecode, np.array(old)[kept].tobytes()))
        self._prior = self._sample = None

    def dump(self) -> bytes:
        """All that was added, archived or not, for `load` in another process; it tells every word that was said."""
        roles, codes = np.unique(np.array(self._roles, np.int32), return_inverse=True)
        names = {code: name for name, code in self._role_codes.items()}
        arrays: dict[str, Any] = {
            **self.lexical.to_arrays(),
            "identity": pack_names([_FORMAT, self.lexical.words.identity]),
            "turns": np.array(self._turns, np.int64),
            "roles": codes.astype(np.int32),
            "role_names": pack_names(names[code] for code in roles.tolist()),
            "told": np.array(self._told, np.float32),
        }
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    def load(self, data: bytes) -> bool:
        """Take over what `dump` gave, nothing of it archived; False, and empty, if it is damaged or of another kind."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                if unpack_names(arrays["identity"]) != [_FORMAT, self.lexical.words.identity]:
                    return False
                self.lexical.fill(arrays)
                turns, roles, told = arrays["turns"], arrays["roles"], arrays["told"]
                names = unpack_names(arrays["role_names"])
                if not self.lexical.num_slots == len(turns) == len(roles) == len(told):
                    raise ValueError("expected one turn, role and measure a chunk")
        except (ValueError, KeyError, IndexError, TypeError, OSError, EOFError, zipfile.BadZipFile):
            self.lexical.fill(LexicalIndex(words=self.lexical.words).to_arrays())
            return False
        self._turns, self._roles = array("q", turns.tobytes()), array("i", roles.tobytes())
        self._told, self._role_codes = array("f", told.tobytes()), {name: i for i, name in enumerate(names)}
        self._prior = self._sample = None
        return True

    def forget_vectors(self) -> None:
        """Call this when another embedder is used: a sample of the old vectors is kept otherwise."""
        self._sample = None

    def rank(
        self,
        query: str,
        k: int = 10,
        *,
        query_vector: Floats | None = None,
        nearest: Nearest | None = None,
        vectors: Vectors | None = None,
        salience: Mapping[int, float] | None = None,
    ) -> list[Ranked]:
        """The best k turns, each by its best chunk, best first; ties go to the later turn.

        query_vector `[dim]`, nearest and vectors go together; without them only chunks that share a word with the
        query, or stand beside one that does, are found. A chunk that has no vector yet counts as an average candidate
        in meaning. salience: by chunk number, 0 for those not named.
        Raises: ValueError if k < 1, or if only some of the three are given.
        """
        if k < 1:
            raise ValueError(f"k must be >= 1, got {k}")
        given = [x is not None for x in (query_vector, nearest, vectors)]
        if any(given) != all(given):
            raise ValueError("query_vector, nearest and vectors go together: give all three or none")
        if not len(self):
            return []
        weights, chunks = self.weights, self.lexical.chunks
        scores, bound = self.lexical.score_terms(self.lexical.query_terms(query))
        num_candidates = max(weights.num_candidates, 2 * k)
        slots = _best(scores, num_candidates)
        parts: dict[str, NDArray[np.float64]] = {}
        if query_vector is not None and nearest is not None and vectors is not None:
            slots, cosine = self._cosines(slots, query_vector, nearest(query_vector, num_candidates), vectors)
            parts["meaning"] = weights.meaning * self._standardised(cosine, query_vector, vectors)
        parts["words"] = weights.words * scores[slots].astype(np.float64) / max(bound, 1e-9) ** 0.5
        trust = min(1.0, len(self) / weights.prior_chunks)
        parts |= {name: trust * values[slots] for name, values in self._priors().items()}
        asked = [self._role_codes[role] for role in roles_asked_about(query, self._role_codes)]
        if asked:
            bonus = np.zeros(len(self._role_codes))
            bonus[asked] = trust * weights.speaker
            parts["speaker"] = bonus[np.frombuffer(self._roles, np.int32)[slots]]
        turns = np.frombuffer(self._turns, np.int64)[slots]
        if weights.recency:
            parts["recency"] = weights.recency * np.exp2((turns - self._turns[-1]) / weights.recency_half_life)
        if weights.salience and salience:
            parts["salience"] = weights.salience * np.array([salience.get(int(c), 0.0) for c in chunks[slots]])
        total = np.sum(list(parts.values()), axis=0)
        ranked: list[Ranked] = []
        seen: set[int] = set()
        for i in np.lexsort((-slots, -total)):
            turn = int(turns[i])
            if turn not in seen:
                seen.add(turn)
                each = {name: float(values[i]) for name, values in parts.items()}
                ranked.append(Ranked(int(chunks[slots[i]]), turn, sum(each.values()), each))
                if len(ranked) == k:
                    break
        return ranked

    def _priors(self) -> dict[str, NDArray[np.float64]]:
        """What speaks for each slot whatever is asked."""
        if self._prior is None:
            sizes, living = np.log1p(self.lexical.lengths), self.lexical.alive
            deviation = max(float(sizes[living].std()), 1e-3)
            substance = np.clip((sizes - sizes[living].mean()) / deviation, -2.0, 1.5)
            self._prior = {
                "told": self.weights.told * np.array(self._told, np.float64),
                "substance": self.weights.substance * substance,
            }
        return self._prior

    def _cosines(
        self, slots: NDArray[np.intp], query: Floats, near: tuple[Ids, Floats], vectors: Vectors
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Slots with those of the nearest living chunks, ascending, and their cosines, NaN without a vector."""
        chunks = self.lexical.chunks
        near_slots, known = _find(chunks, near[0])
        known &= self.lexical.alive[near_slots]
        slots = np.union1d(slots, near_slots[known])
        cosine = np.full(len(slots), np.nan)
        cosine[np.searchsorted(slots, near_slots[known])] = near[1][known]
        missing = chunks[slots[np.isnan(cosine)]]
        found, rows = vectors(missing) if len(missing) else (missing, np.empty((0, len(query)), np.float32))
        if len(found):
            cosine[np.searchsorted(slots, _find(chunks, found)[0])] = rows @ query
        return slots, cosine

    def _standardised(self, cosine: NDArray[np.float64], query: Floats, vectors: Vectors) -> NDArray[np.float64]:
        """Cosines in deviations from the sample's mean; unknown ones (NaN) get the middle of the known."""
        sample = self._sample_vectors(vectors, len(query)) @ query
        if len(sample):
            # Four made-up observations keep the deviation of a tiny memory from vanishing.
            deviation = ((np.square(sample - sample.mean()).sum() + 4 * 0.15**2) / (len(sample) + 4)) ** 0.5
            cosine = (cosine - sample.mean()) / deviation
        known = cosine[~np.isnan(cosine)]
        return np.where(np.isnan(cosine), np.median(known) if len(known) else 0.0, cosine)

    def _sample_vectors(self, vectors: Vectors, dim: int) -> Floats:
        """Vectors of chunks spread evenly over the oldest 2^n: the sample changes only when the memory has doubled."""
        living = self.lexical.chunks[self.lexical.alive]
        size = 1 << (len(living).bit_length() - 1)
        wanted = living[: size : max(1, size // self.weights.num_sampled)]
        kept = self._sample
        if kept is None or not np.array_equal(kept[0], wanted) or kept[1].shape != (len(wanted), dim):
            kept = self._sample = (wanted, vectors(wanted)[1])
        return kept[1]


def _best(scores: Floats, k: int) -> NDArray[np.intp]:
    """Slots of the k greatest scores above 0, ascending; on ties the later ones."""
    least = float(np.partition(scores, -k)[-k]) if len(scores) > k else 0.0
    if least <= 0:
        return np.flatnonzero(scores > 0)
    above = np.flatnonzero(scores > least)
    ties = np.flatnonzero(scores == least)
    return np.sort(np.concatenate([above, ties[len(ties) - (k - len(above)) :]]))


def _find(chunks: Ids, wanted: Ids) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Slots of chunk numbers, and which of them exist."""
    slots = np.searchsorted(chunks, wanted)
    slots[slots == len(chunks)] = 0
    return slots, chunks[slots] == wanted
