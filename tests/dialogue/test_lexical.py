"""Every score is compared with a slow BM25 that is built anew from the documents that are left."""

import math
import random
from collections import Counter

import numpy as np
import pytest

from memarch.dialogue.lexical import LexicalIndex, LexicalWeights
from memarch.dialogue.words import Words

WEIGHTS = LexicalWeights(k1=1.3, b=0.6, cue=0.7, after=(0.5, 0.2), before=(0.3,))
PLAIN = Words(None, stop_words=frozenset())
WORDS = ("ada", "bees", "clay", "dune", "elm", "fox", "gale")


def reference(documents, query, weights=WEIGHTS):
    """{chunk: score} of documents (chunk, text, cue, thread), straight from the definition."""
    said = [Counter(PLAIN(text)) for _, text, _, _ in documents]
    cues = [Counter(PLAIN(cue)) for _, _, cue, _ in documents]
    threads = [thread for _, _, _, thread in documents]
    owned, near = [], []
    for i, thread in enumerate(threads):
        mates = [j for j, other in enumerate(threads) if other == thread]
        at = mates.index(i)
        tf = Counter({t: float(n) for t, n in said[i].items()})
        beside = set(said[i]) | set(cues[i])
        for t, n in cues[i].items():
            tf[t] += weights.cue * n
        for step, shares in ((-1, weights.after), (1, weights.before)):
            for distance, share in enumerate(shares, start=1):
                place = at + step * distance
                if 0 <= place < len(mates):
                    for t, n in said[mates[place]].items():
                        tf[t] += share * n
                    beside |= set(said[mates[place]]) if distance == 1 else set()
        owned.append(tf)
        near.append(beside)
    lengths = [sum(tf.values()) for tf in owned]
    mean = sum(lengths) / len(lengths) if lengths else 0
    scores = {}
    for (chunk, *_), tf, length in zip(documents, owned, lengths, strict=True):
        scores[chunk] = 0.0
        for term in PLAIN(query):
            df = sum(term in beside for beside in near)
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            norm = weights.k1 * (1 - weights.b + weights.b * length / mean)
            scores[chunk] += idf * (weights.k1 + 1) * tf[term] / (tf[term] + norm)
    return scores


def make(documents, weights=WEIGHTS):
    index = LexicalIndex(weights, words=PLAIN)
    for chunk, text, cue, thread in documents:
        index.add(chunk, text, cue=cue, thread=thread)
    return index


def assert_same(index, documents, query):
    wanted = reference(documents, query)
    found = dict(zip(index.chunks.tolist(), index.scores(query).tolist(), strict=True))
    assert {c: s for c, s in found.items() if s} == pytest.approx({c: s for c, s in wanted.items() if s}, rel=1e-5)
    assert len(index) == len(documents)


def some_documents(count, seed=0):
    draw = random.Random(seed)
    return [
        (3 * i + 2, " ".join(draw.choices(WORDS, k=draw.randrange(6))), draw.choice(WORDS), draw.choice("xyz"))
        for i in range(count)
    ]


def test_scores_by_hand():
    index = make([(1, "fox fox", "", "x"), (2, "elm", "", "x")], LexicalWeights(k1=1.0, b=0.0, after=(0.5,), before=()))
    # Two documents, both own "fox" or border on it: idf = ln(1 + 0.5 / 2.5); the second one inherits 2 * 0.5.
    idf = math.log(1.2)
    assert index.scores("fox").tolist() == pytest.approx([idf * 2 * 2 / 3, idf * 2 * 1 / 2])
    assert index.score_terms({"fox": 1.0})[1] == pytest.approx(idf * 2)
    assert index.score_terms({"fox": 3.0})[1] == pytest.approx(idf * 6)


def test_scores_are_those_of_the_reference():
    documents = some_documents(37)
    index = make(documents)
    for query in ("fox", "ada clay", "elm elm gale", "dune unheard", "unheard"):
        assert_same(index, documents, query)


def test_statistics_stay_exact_under_any_changes():
    draw = random.Random(1)
    documents = some_documents(41, seed=2)
    index, left, hidden, fresh = make(documents[:11]), documents[:11], [], documents[11:]
    for step in range(120):
        action = draw.choice(("add", "hide", "show", "remove", "compact"))
        if action == "add" and fresh:
            left.append(fresh.pop(0))
            index.add(left[-1][0], left[-1][1], cue=left[-1][2], thread=left[-1][3])
        elif action == "hide" and left:
            hidden.append(left.pop(draw.randrange(len(left))))
            index.hide(hidden[-1][0])
        elif action == "show" and hidden:
            left.append(hidden.pop(draw.randrange(len(hidden))))
            index.show(left[-1][0])
        elif action == "remove" and step % 2 and left:
            index.remove(left.pop(draw.randrange(len(left)))[0])
        elif action == "compact":
            index.compact()
        left.sort()
        assert_same(index, left, draw.choice(("fox elm", "ada bees clay", "gale")))


def test_compact_drops_removed_words_and_keeps_hidden_ones():
    index = make([(1, "secret", "cue", "x"), (2, "fox", "", "x"), (3, "elm", "", "y")])
    index.remove(1)
    index.hide(2)
    index.show(1)  # removed for good
    assert len(index) == 1 and index.scores("secret").tolist() == [0, 0, 0]
    assert index.compact().tolist() == [1, 2] and index.chunks.tolist() == [2, 3]
    assert "secret" not in index._said and "cue" not in index._cues
    index.show(2)
    assert index.scores("fox").tolist()[0] > 0 and len(index) == 2
    assert index.alive.tolist() == [True, True]


def test_a_hidden_end_of_a_thread_is_no_neighbour():
    index = make([(1, "elm", "", "x")])
    index.hide(1)
    index.add(2, "fox", thread="x")
    assert index.scores("fox")[0] == 0
    assert_same(index, [(2, "fox", "", "x")], "fox")


def test_numbers_ascend_and_unknown_ones_are_ignored():
    index = make([(5, "fox", "", "x")])
    with pytest.raises(ValueError, match="must ascend: got 5 after 5"):
        index.add(5, "elm")
    for number in (1, 99):
        index.hide(number)
        index.show(number)
        index.remove(number)
    assert index.num_slots == 1 and index.scores("fox")[0] > 0


def test_an_empty_index_and_empty_queries():
    index = LexicalIndex()
    assert index.scores("anything").shape == (0,) and index.score_terms({"fox": 1.0})[1] == 0.0
    index.add(1, "")
    index.add(2, "the who")
    for query in ("", "who is the", "\x00", "SELECT * FROM turns; -- \"NEAR/2\" 'x' *", "🦆"):
        assert index.scores(query).tolist() == [0.0, 0.0]


def test_queries_are_text_terms_or_weights():
    index = make(some_documents(13))
    text = index.scores("fox elm elm")
    np.testing.assert_allclose(index.scores(["fox", "elm", "elm"]), text)
    np.testing.assert_allclose(index.scores({"fox": 1.0, "elm": 2.0}), text, rtol=1e-6)


def test_postings_are_compact():
    index = LexicalIndex()
    for i in range(2000):
        index.add(i, "a duck swims across ponds near mills", cue="ada", thread=str(i // 50))
    size = sum(p.itemsize * len(p) for group in (index._said, index._cues) for p in group.values())
    assert size == 4 * 2000 * 7


def test_kept_arrays_give_the_same_index_again():
    chance, documents = random.Random(5), []
    for chunk in range(1, 60):
        text = " ".join(chance.choices(WORDS, k=chance.randint(0, 6)))
        documents.append((3 * chunk, text, chance.choice(WORDS), f"t{chance.randrange(4)}"))
    index = make(documents)
    index.hide(30)
    with pytest.raises(ValueError, match="call compact"):
        index.remove(3)
        index.to_arrays()
    index.compact()
    again = LexicalIndex(WEIGHTS, words=PLAIN)
    again.fill(index.to_arrays())
    assert again.chunks.tolist() == index.chunks.tolist() and len(again) == 58  # nothing is hidden any more
    assert_same(again, documents[1:], "ada bees fox")
    more = (1000, "ada fox", "elm", "t2")
    again.add(more[0], more[1], cue=more[2], thread=more[3])
    again.hide(33)
    assert_same(again, [d for d in [*documents[1:], more] if d[0] != 33], "ada bees elm")
    again.fill(LexicalIndex(words=PLAIN).to_arrays())
    assert len(again) == again.num_slots == 0


def test_kept_arrays_hold_nothing_of_what_was_removed():
    index = make([(1, "ada bees", "clay", "a thread"), (2, "dune", "elm", "another")])
    index.remove(1)
    index.compact()
    kept = b"".join(array.tobytes() for array in index.to_arrays().values())
    assert not any(word in kept for word in (b"ada", b"bees", b"clay", b"a thread")) and b"another" in kept


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("chunks", lambda a: a[::-1]),
        ("lengths", lambda a: a[1:]),
        ("threads", lambda a: a + 1),
        ("said_counts", lambda a: a + 1),
        ("said_slots", lambda a: a + 2),
        ("cues_terms", lambda a: a[:0]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name, change):
    arrays = make([(1, "ada bees", "clay", "a"), (2, "dune", "elm", "a")]).to_arrays()
    with pytest.raises(ValueError):
        LexicalIndex(words=PLAIN).fill({**arrays, name: change(arrays[name])})
