"""An incremental word index of one user's memory: BM25 in which a chunk also owns some of its neighbours' words.

In a dialogue the words of a question are often spread over a few turns ("How was Rome?" - "Wonderful, we ate at ...").
So a chunk's frequency of a term is

    tf'(i) = tf(i) + cue * tf_cue(i) + sum_d after[d] * tf(d-th earlier chunk) + before[d] * tf(d-th later chunk)

over neighbours in the same thread (session), and BM25 (k1, b) is taken of tf'. A cue, such as the speaker's name and
the date, counts for its own chunk only. Postings are arrays of 4 bytes an occurrence; nothing is precomputed from the
neighbours but document lengths, so adds are cheap and statistics are exact: after any adds and removals scores are
those of a fresh index of the documents that are left.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memarch.dialogue.words import Words

Scores = NDArray[np.float32]
Slots = NDArray[np.intp]


@dataclass(frozen=True)
class LexicalWeights:
    """Numbers of the word score; the defaults were tuned by `python -m benchmarks.dialogue --part tune`."""

    k1: float = 1.2
    """Saturation of a term's frequency."""
    b: float = 0.75
    """How much a long chunk is held against it."""
    cue: float = 1.0
    """Weight of speaker and date words beside words that were said."""
    after: tuple[float, ...] = (0.6, 0.36, 0.216, 0.13)
    """What the next chunks of the thread inherit of a chunk's words: an answer belongs to its question."""
    before: tuple[float, ...] = (0.3, 0.18, 0.108, 0.065)
    """What the previous chunks get of them."""


class LexicalIndex:
    """BM25 over documents in the order of their chunk numbers; `scores` is dense over `chunks`.

    Not safe for threads. Memory: about 4 bytes an indexed word and 150 a distinct one.
    """

    def __init__(self, weights: LexicalWeights | None = None, *, words: Words | None = None) -> None:
        self.weights = weights or LexicalWeights()
        self.words = words or Words()
        self._clear()

    def _clear(self) -> None:
        self._said: dict[str, array[int]] = {}
        self._cues: dict[str, array[int]] = {}
        self._chunks, self._lengths, self._cue_lengths = array("q"), array("i"), array("i")
        self._threads, self._previous, self._next = array("i"), array("i"), array("i")
        self._alive = bytearray()
        self._removed = bytearray()
        self._thread_codes: dict[str, int] = {}
        self._thread_ends: dict[int, int] = {}
        self._norms: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Documents that count, without those hidden."""
        return self._alive.count(1)

    @property
    def num_slots(self) -> int:
        """Length of `chunks` and of every score array; hidden and removed documents keep their place."""
        return len(self._chunks)

    @property
    def chunks(self) -> NDArray[np.int64]:
        """Chunk numbers by slot, ascending; a copy."""
        return np.array(self._chunks, dtype=np.int64)

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which slots count, the others being hidden or removed; a copy."""
        return np.frombuffer(bytes(self._alive), np.bool_)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Terms said in each document, by slot; a copy."""
        return np.array(self._lengths, np.int32)

    def add(self, chunk: int, text: str, *, cue: str = "", thread: str = "") -> None:
        """Index a document behind the others.

        cue: words that are found but not said, such as speaker and date. thread: neighbours are looked for within it.
        Raises: ValueError if the number is not above all earlier ones (`show` brings hidden documents back).
        """
        if self._chunks and chunk <= self._chunks[-1]:
            raise ValueError(f"chunk numbers must ascend: got {chunk} after {self._chunks[-1]}; hidden ones are shown")
        slot = len(self._chunks)
        said, cues = self.words(text), self.words(cue)
        for postings, terms in ((self._said, said), (self._cues, cues)):
            for term in terms:
                found = postings.get(term)
                if found is None:
                    found = postings[term] = array("i")
                found.append(slot)
        code = self._thread_codes.setdefault(thread, len(self._thread_codes))
        previous = self._thread_ends.get(code, -1)
        if previous >= 0:
            self._next[previous] = slot
        self._thread_ends[code] = slot
        self._chunks.append(chunk)
        self._lengths.append(len(said))
        self._cue_lengths.append(len(cues))
        self._threads.append(code)
        self._previous.append(previous)
        self._next.append(-1)
        self._alive.append(1)
        self._removed.append(0)
        self._norms = None

    def hide(self, chunk: int) -> None:
        """Take a document out of scores and statistics until `show`; hidden or unknown ones are ignored."""
        slot = self._slot(chunk)
        if slot is None or not self._alive[slot]:
            return
        previous, following, code = self._previous[slot], self._next[slot], self._threads[slot]
        if previous >= 0:
            self._next[previous] = following
        if following >= 0:
            self._previous[following] = previous
        elif previous >= 0:
            self._thread_ends[code] = previous
        else:
            del self._thread_ends[code]
        self._alive[slot] = 0
        self._norms = None

    def show(self, chunk: int) -> None:
        """Bring a hidden document back to its place; others are ignored."""
        slot = self._slot(chunk)
        if slot is None or self._alive[slot] or self._removed[slot]:
            return
        code = self._threads[slot]
        mates = np.flatnonzero((np.frombuffer(self._threads, np.int32) == code) & np.frombuffer(self._alive, np.bool_))
        at = int(np.searchsorted(mates, slot))
        previous = int(mates[at - 1]) if at > 0 else -1
        following = int(mates[at]) if at < len(mates) else -1
        self._previous[slot], self._next[slot] = previous, following
        if previous >= 0:
            self._next[previous] = slot
        if following >= 0:
            self._previous[following] = slot
        else:
            self._thread_ends[code] = slot
        self._alive[slot] = 1
        self._norms = None

    def remove(self, chunk: int) -> None:
        """Take a document out for good; unknown ones are ignored. Its words stay in memory until `compact`."""
        self.hide(chunk)
        slot = self._slot(chunk)
        if slot is not None:
            self._removed[slot] = 1

    def compact(self) -> Slots:
        """Drop what was removed from memory, words too; the old slots that stay, in their new order."""
        kept = np.flatnonzero(np.frombuffer(self._removed, np.bool_) == 0)
        new = np.full(self.num_slots + 1, -1, np.int32)  # new[-1] stays -1: no neighbour
        new[kept] = np.arange(len(kept), dtype=np.int32)
        for postings in (self._said, self._cues):
            for term in list(postings):
                moved = new[np.frombuffer(postings[term], np.int32)]
                moved = moved[moved >= 0]
                if len(moved):
                    postings[term] = array("i", moved.tobytes())
                else:
                    del postings[term]
        for name in ("_chunks", "_lengths", "_cue_lengths", "_threads"):
            old: array[int] = getattr(self, name)
            setattr(self, name, array(old.typecode, np.array(old)[kept].tobytes()))
        for name in ("_previous", "_next"):
            links = new[np.frombuffer(getattr(self, name), np.int32)[kept]]
            setattr(self, name, array("i", links.tobytes()))
        self._thread_ends = {code: int(new[slot]) for code, slot in self._thread_ends.items()}
        self._alive = bytearray(np.frombuffer(self._alive, np.uint8)[kept].tobytes())
        self._removed = bytearray(len(kept))
        self._norms = None
        return kept

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All but what is hidden, to be kept as a cache: `fill` of an empty index gives the same scores.

        Names of threads that nothing is in any more are left out. Raises: ValueError before `compact` where something
        was removed.
        """
        if any(self._removed):
            raise ValueError("some documents were removed: call compact() first, their words are still here")
        threads, codes = np.unique(np.array(self._threads, np.int32), return_inverse=True)
        names = {code: name for name, code in self._thread_codes.items()}
        arrays: dict[str, NDArray[Any]] = {
            "chunks": self.chunks,
            "lengths": self.lengths,
            "cue_lengths": np.array(self._cue_lengths, np.int32),
            "threads": codes.astype(np.int32),
            "thread_names": pack_names(names[code] for code in threads.tolist()),
        }
        for name, postings in (("said", self._said), ("cues", self._cues)):
            arrays[f"{name}_terms"] = pack_names(postings)
            arrays[f"{name}_counts"] = np.array([len(slots) for slots in postings.values()], np.int32)
            arrays[f"{name}_slots"] = np.frombuffer(b"".join(s.tobytes() for s in postings.values()), np.int32)
        return arrays

    def fill(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `to_arrays` gave, nothing of it hidden. ValueError where the arrays do not fit together."""
        self._clear()
        chunks, threads = arrays["chunks"], arrays["threads"]
        names, size = unpack_names(arrays["thread_names"]), len(chunks)
        columns = (arrays["lengths"], arrays["cue_lengths"], threads)
        if any(len(column) != size for column in columns) or (np.diff(chunks) <= 0).any():
            raise ValueError(f"expected {size} ascending chunks, and as many of everything else")
        if size and (threads.min() < 0 or threads.max() >= len(names)):
            raise ValueError(f"expected threads among {len(names)} names")
        for name, postings in (("said", self._said), ("cues", self._cues)):
            terms, counts, slots = (
                unpack_names(arrays[f"{name}_terms"]),
                arrays[f"{name}_counts"],
                arrays[f"{name}_slots"],
            )
            ends = np.cumsum(counts)
            if len(terms) != len(counts) or len(slots) != counts.sum() or (len(slots) and slots.max() >= size):
                raise ValueError(f"expected places of {len(terms)} terms")
            for term, start, end in zip(terms, (ends - counts).tolist(), ends.tolist(), strict=True):
                postings[term] = array("i", slots[start:end].tobytes())
        order = np.argsort(threads, kind="stable")
        earlier, later = order[:-1], order[1:]
        mates = threads[earlier] == threads[later]
        previous, following = np.full(size, -1, np.int32), np.full(size, -1, np.int32)
        previous[later[mates]], following[earlier[mates]] = earlier[mates], later[mates]
        self._chunks = array("q", chunks.astype(np.int64).tobytes())
        self._lengths, self._cue_lengths, self._threads, self._previous, self._next = (
            array("i", column.astype(np.int32).tobytes()) for column in (*columns, previous, following)
        )
        self._alive, self._removed = bytearray(b"\1" * size), bytearray(size)
        self._thread_codes = {name: code for code, name in enumerate(names)}
        self._thread_ends = {int(threads[slot]): int(slot) for slot in np.flatnonzero(following < 0)}

    def scores(self, query: str | Sequence[str] | dict[str, float]) -> Scores:
        """BM25 of every slot `[num_slots]`; 0 where nothing matches, and for hidden documents.

        query: text, terms, or terms with weights.
        """
        return self.score_terms(self.query_terms(query))[0]

    def query_terms(self, query: str | Sequence[str] | dict[str, float]) -> dict[str, float]:
        """Distinct terms of a query and how often each is asked for."""
        if isinstance(query, dict):
            return query
        return {t: float(n) for t, n in Counter(self.words(query) if isinstance(query, str) else query).items()}

    def score_terms(self, terms: dict[str, float]) -> tuple[Scores, float]:
        """BM25 of every slot, and the bound that no document exceeds: the sum of weight * idf * (k1 + 1)."""
        k1, size, count = self.weights.k1, self.num_slots, len(self)
        total, bound = np.zeros(size, np.float32), 0.0
        if not count:
            return total, bound
        norms = self._length_norms()
        for term, weight in terms.items():
            slots, frequencies, df = self._frequencies(term)
            idf = float(np.log1p((count - df + 0.5) / (df + 0.5)))
            bound += weight * idf * (k1 + 1)
            total[slots] += np.float32(weight * idf * (k1 + 1)) * (frequencies / (frequencies + norms[slots]))
        return total, bound

    def _slot(self, chunk: int) -> int | None:
        slots = np.frombuffer(self._chunks, np.int64)
        at = int(np.searchsorted(slots, chunk))
        return at if at < len(slots) and slots[at] == chunk else None

    def _frequencies(self, term: str) -> tuple[Slots, Scores, int]:
        """Slots where tf' is not 0, tf' there, and how many living documents own the term or border on it."""
        size = self.num_slots
        alive = np.frombuffer(self._alive, np.bool_)
        said, cued = (
            np.frombuffer(postings[term], np.int32) if term in postings else np.empty(0, np.int32)
            for postings in (self._said, self._cues)
        )
        said, cued = said[alive[said]], cued[alive[cued]]
        if not len(said) and not len(cued):
            return np.empty(0, np.intp), np.empty(0, np.float32), 0
        slots, weights = [said, cued], [1.0, self.weights.cue]
        near = np.zeros(size, np.bool_)
        near[said] = True
        near[cued] = True
        for links, shares in ((self._next, self.weights.after), (self._previous, self.weights.before)):
            neighbour, reached = np.frombuffer(links, np.int32), said
            for distance, share in enumerate(shares):
                reached = neighbour[reached]
                reached = reached[reached >= 0]
                slots.append(reached)
                weights.append(share)
                if distance == 0:
                    near[reached] = True
        each = np.repeat(np.array(weights), [len(s) for s in slots])
        dense = np.bincount(np.concatenate(slots), each, size)
        owners = np.flatnonzero(dense)
        return owners, dense[owners].astype(np.float32), int(near.sum())

    def _length_norms(self) -> Scores:
        """k1 * (1 - b + b * length / mean length) by slot; lengths are inherited from neighbours as words are."""
        if self._norms is not None:
            return self._norms
        weights = self.weights
        alive = np.frombuffer(self._alive, np.bool_)
        own = np.where(alive, np.array(self._lengths, np.float32), np.float32(0))
        lengths = own + weights.cue * np.array(self._cue_lengths, np.float32)
        for links, shares in ((self._previous, weights.after), (self._next, weights.before)):
            neighbour = np.array(links, np.intp)
            reached = np.arange(len(own))
            for share in shares:
                reached = np.where(reached >= 0, neighbour[reached], -1)
                lengths += np.where(reached >= 0, share * own[reached], 0)
        mean = max(float(lengths[alive].mean()), 1e-9)
        self._norms = (weights.k1 * (1 - weights.b + weights.b * lengths / mean)).astype(np.float32)
        return self._norms


def pack_names(names: Iterable[str]) -> NDArray[np.uint8]:
    """Strings as one array of bytes."""
    return np.frombuffer(json.dumps(list(names)).encode(), np.uint8)


def unpack_names(packed: NDArray[np.uint8]) -> list[str]:
    """The inverse of `pack_names`."""
    names: list[str] = json.loads(packed.tobytes())
    return names
