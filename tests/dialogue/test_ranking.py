from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from memarch.dialogue.ranking import Ranker, RankingWeights
from memarch.dialogue.records import Chunk
from memarch.dialogue.words import Words

START = datetime(2024, 5, 6, 9, tzinfo=UTC)  # a Monday
TOPICS = {"dog": 0, "puppy": 0, "car": 1, "vehicle": 1, "sea": 2, "ocean": 2}


def chunk(number, text, *, turn=None, role="Ada", session="s1", days=0, **more):
    return Chunk(
        chunk=number, turn=turn or number, ordinal=0, session=session, role=role, text=text,
        time=START + timedelta(days=days), source_id=f"id{number}", **more,
    )  # fmt: skip


def embed(text):
    """Unit vector `[4]` of a text's topics: "puppy" and "dog" mean the same."""
    vector = np.array([0, 0, 0, 0.1], np.float32)
    for word in text.lower().replace(":", "").split():
        if word in TOPICS:
            vector[TOPICS[word]] += 1
    return vector / np.linalg.norm(vector)


class Vectors:
    """A store's vectors of the given chunks, except those named in `without`."""

    def __init__(self, chunks, without=()):
        self.of = {c.chunk: embed(c.text) for c in chunks if c.chunk not in without}
        self.asked = []

    def nearest(self, query, k):
        scored = sorted(((float(v @ query), c) for c, v in self.of.items()), reverse=True)[:k]
        return np.array([c for _, c in scored], np.int64), np.array([s for s, _ in scored], np.float32)

    def get(self, chunks):
        self.asked.append(chunks.tolist())
        found = [c for c in sorted(chunks.tolist()) if c in self.of]
        return np.array(found, np.int64), np.array([self.of[c] for c in found], np.float32).reshape(-1, 4)


def fill(chunks, weights=None):
    ranker = Ranker(weights)
    for each in chunks:
        ranker.add(each)
    return ranker


def search(ranker, query, store, k=10, **more):
    return ranker.rank(query, k, query_vector=embed(query), nearest=store.nearest, vectors=store.get, **more)


def numbers(ranked):
    return [r.chunk for r in ranked]


PETS = [
    chunk(1, "the car broke down again", session="a"),
    chunk(2, "a puppy sleeps here", session="b"),
    chunk(3, "lovely weather", session="c"),
    chunk(4, "I bought bread", session="d", role="Ben", days=1),
]


def test_words_alone_find_words_and_nothing_else():
    ranker = fill(PETS)
    found = ranker.rank("Which bread?")
    assert numbers(found) == [4] and found[0].turn == 4 and set(found[0].parts) == {"words", "told", "substance"}
    assert ranker.rank("dog") == []


def test_vectors_find_what_no_word_does():
    found = search(fill(PETS), "dog", Vectors(PETS))
    assert found[0].chunk == 2 and found[0].parts["meaning"] > 0 and found[0].parts["words"] == 0
    assert len(found) == 4


def test_words_and_meaning_are_both_counted():
    ranker, store = fill(PETS), Vectors(PETS)
    assert numbers(search(ranker, "dog bread", store))[:2] in ([4, 2], [2, 4])
    no_words = replace(ranker.weights, words=0.0)
    assert numbers(search(fill(PETS, no_words), "dog bread", store))[0] == 2
    no_meaning = replace(ranker.weights, meaning=0.0)
    assert numbers(search(fill(PETS, no_meaning), "dog bread", store))[0] == 4


def test_parts_add_up_and_order_the_result():
    weights = RankingWeights(recency=0.3, salience=0.2)
    found = search(fill(PETS, weights), "bread for the dog", Vectors(PETS), salience={3: 1.0})
    assert all(sum(r.parts.values()) == pytest.approx(r.score) for r in found)
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)
    assert set(found[0].parts) == {"words", "meaning", "told", "substance", "recency", "salience"}
    assert {r.chunk: r.parts["salience"] for r in found} == {1: 0, 2: 0, 3: pytest.approx(0.2), 4: 0}


def test_words_and_meaning_are_on_scales_that_do_not_depend_on_the_memory():
    ranker = fill(PETS)
    found = ranker.rank("bread", 1)[0]
    scores, bound = ranker.lexical.score_terms({"bread": 1.0})
    assert found.parts["words"] == pytest.approx(3.0 * scores.max() / bound**0.5)
    # Cosines squeezed into a narrow band, as some embedders give them, rank as before.
    store = Vectors(PETS)
    wide = [r.parts["meaning"] for r in search(ranker, "dog", store)]
    assert sum(wide) == pytest.approx(0, abs=1e-6) and max(wide) > 0.5
    store.of = {c: np.append(v * 0.6, 0.8).astype(np.float32) for c, v in store.of.items()}
    query = np.append(embed("dog") * 0.6, 0.8).astype(np.float32)

    def get(chunks):
        found = [c for c in chunks.tolist() if c in store.of]
        return np.array(found, np.int64), np.array([store.of[c] for c in found]).reshape(-1, 5)

    squeezed = ranker.rank("dog", query_vector=query, nearest=store.nearest, vectors=get)
    assert sum(r.parts["meaning"] for r in squeezed) == pytest.approx(0, abs=1e-6)


def test_removal_leaves_what_a_fresh_ranker_would_find():
    said = ["I baked bread, my first", "bread", "bread and tea", "We like bread at home"]
    chunks = [chunk(i, text, session=str(i), role="AB"[i % 2]) for i, text in enumerate(said, 1)]
    ranker = fill(chunks)
    ranker.rank("bread")
    ranker.remove([1])
    assert ranker.rank("bread of B") == fill(chunks[1:]).rank("bread of B")


def test_speaker_and_date_are_found():
    ranker = fill(PETS)
    assert numbers(ranker.rank("What did Ben say?")) == [4]
    assert numbers(ranker.rank("What happened on Tuesday?")) == [4]


def test_the_speaker_who_is_asked_about_is_preferred():
    both = [chunk(1, "I like pears", session="a"), chunk(2, "I like pears", session="b", role="Ben")]
    for name, order in (("Ada", [1, 2]), ("Ben", [2, 1])):
        found = fill(both).rank(f"What fruit like pears does {name} like?")
        assert numbers(found) == order and found[0].parts["speaker"] > 0 == found[1].parts["speaker"]
    assert "speaker" not in fill(both).rank("Do Ada and Ben like pears?")[0].parts


def test_a_turn_that_tells_comes_before_one_that_asks_or_thanks():
    said = ["Do they sell pears?", "I grow pears in my garden, we pick them in autumn", "Thanks for pears!"]
    talk = [chunk(i, text, session=str(i)) for i, text in enumerate(said, 1)]
    found = fill(talk, RankingWeights(prior_chunks=3)).rank("pears")
    assert numbers(found)[0] == 2
    assert found[0].parts["told"] > 0 == found[1].parts["told"]
    assert found[0].parts["substance"] > found[1].parts["substance"]


def test_words_decide_in_a_memory_of_a_few_turns():
    """What a turn is like says little beside so few others: a short answer must not lose to a long neighbour."""
    said = [
        "My sister Nora moved to Lyon last spring.",
        "I am allergic to hazelnuts.",
        "I bought a red bike for 300 euros at the market in town.",
        "We went to the sea with the whole family in August, it was lovely.",
    ]
    talk = [chunk(i, text) for i, text in enumerate(said, 1)]
    for query in ("hazelnuts", "hazelnut allergies"):
        assert numbers(fill(talk).rank(query))[0] == 2
        assert numbers(fill(talk, RankingWeights(prior_chunks=1)).rank(query))[0] != 2


def test_an_answer_is_found_by_its_question_and_only_in_its_session():
    talk = [
        chunk(1, "Where did you spend the holidays?", session="a", role="Ben"),
        chunk(2, "In Lisbon with my aunt!", session="a"),
        chunk(3, "Nothing much", session="b"),
    ]
    assert numbers(fill(talk).rank("holidays")) == [1, 2]


def test_a_tail_without_vectors_is_ranked_by_its_words():
    store = Vectors(PETS, without=(3, 4))
    assert numbers(search(fill(PETS), "bread", store))[0] == 4
    assert numbers(search(fill(PETS), "bread", Vectors(PETS, without=(1, 2, 3, 4)))) == [4]


def test_archived_restored_and_removed_chunks():
    ranker = fill([*PETS, chunk(5, "I baked more bread", session="e", archived_at=5)])
    store = Vectors(PETS)
    assert len(ranker) == 4 and numbers(ranker.rank("bread")) == [4]
    ranker.archive([4, 99])
    ranker.restore([5])
    assert numbers(ranker.rank("bread")) == [5]
    assert 4 not in numbers(search(ranker, "bread", store))  # though the store still serves its vector
    ranker.restore(np.array([4]))
    assert numbers(ranker.rank("bread")) == [5, 4]
    ranker.remove([5])
    ranker.restore([5])
    assert numbers(ranker.rank("bread")) == [4]
    ranker.remove([1, 2, 3, 4])
    assert search(ranker, "bread", store) == [] and len(ranker) == 0
    ranker.add(chunk(6, "fresh bread"))
    assert numbers(ranker.rank("bread")) == [6]


def test_a_turn_is_returned_once_by_its_best_chunk():
    long = [chunk(1, "bread", turn=1), chunk(2, "bread bread and butter", turn=1), chunk(3, "tea", turn=2)]
    found = fill(long).rank("bread butter")
    assert [(r.chunk, r.turn) for r in found] == [(2, 1), (3, 2)]


def test_recency_and_salience_decide_between_equals_when_asked_for():
    same = [chunk(i, "bread", session=str(i)) for i in (1, 2, 3)]
    assert numbers(fill(same).rank("bread")) == [3, 2, 1]  # ties: the latest first
    assert numbers(fill(same, RankingWeights(salience=1.0)).rank("bread", salience={1: 0.5})) == [1, 3, 2]
    old = fill(same, RankingWeights(recency=1.0, recency_half_life=1.0)).rank("bread")
    assert [r.parts["recency"] for r in old] == [1.0, 0.5, 0.25]


def test_cosines_are_fetched_only_for_what_the_vectors_did_not_find():
    many = [chunk(i, f"word{i} dog", session=str(i)) for i in range(1, 60)]
    ranker, store = fill(many, RankingWeights(num_candidates=5, num_sampled=8)), Vectors(many)
    search(ranker, "word30 dog", store, k=2)
    fetched, sample = store.asked
    assert len(fetched) <= 5 and 16 >= len(sample) >= 8
    search(ranker, "word31 dog", store, k=2)
    assert len(store.asked) == 3  # the sample is kept
    ranker.forget_vectors()
    search(ranker, "word31 dog", store, k=2)
    assert len(store.asked) == 5


def test_ties_are_cut_at_the_latest():
    many = [chunk(i, "dog", session=str(i)) for i in range(1, 40)]
    assert numbers(fill(many, RankingWeights(num_candidates=4)).rank("dog", 2)) == [39, 38]
    mixed = [*many, chunk(40, "dog dog", session="x"), chunk(41, "sea", session="y")]
    assert numbers(fill(mixed, RankingWeights(num_candidates=3)).rank("dog", 1))[0] == 40


def test_odd_queries_are_only_words():
    ranker, store = fill([*PETS, chunk(5, "\x00 NULL ''; -- 東京")]), Vectors(PETS)
    for query in ("", "who is it", "\x00", '"; DROP TABLE turns; --', "NEAR(a b, 3) AND *", "\ud800"):
        assert isinstance(ranker.rank(query), list)
        assert len(search(ranker, query, store)) >= 4
    assert numbers(ranker.rank("東京")) == [5]


def test_wrong_arguments_are_told():
    ranker = fill(PETS)
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        ranker.rank("dog", 0)
    with pytest.raises(ValueError, match="go together"):
        ranker.rank("dog", query_vector=embed("dog"))
    with pytest.raises(ValueError, match="must ascend"):
        ranker.add(chunk(2, "again"))


def test_what_was_dumped_ranks_the_same():
    words = ["dog", "car", "sea", "puppy", "vehicle", "ocean"] * 4
    chunks = [
        chunk(i, f"I saw the {word} {i}", role="Bo" if i % 3 else "Ada", session=f"s{i % 2}")
        for i, word in enumerate(words, 1)
    ]
    chunks[4] = replace(chunks[4], archived_at=9)
    ranker, store = fill(chunks), Vectors(chunks, without=(5,))
    again = Ranker()
    assert again.load(ranker.dump())
    again.archive([5])
    later = chunk(99, "Bo has a dog", role="Cy", session="s0")
    for each in (ranker, again):
        each.add(later)
        each.remove([2])
    for query in ("dog", "What did Bo say of the car?", "I"):
        assert search(again, query, store) == search(ranker, query, store) != []
    assert again.dump() == ranker.dump()
    assert b"vehicle 2" not in again.dump()


def test_a_damaged_or_foreign_dump_is_not_taken_over():
    ranker = fill([chunk(i, f"dog number {i}", role="Ada" if i % 2 else "Bo") for i in range(1, 30)])
    data, chance = ranker.dump(), np.random.default_rng(0)
    assert not Ranker(words=Words(None)).load(data)
    bad = [b"", b"x", data[: len(data) // 2]]
    for position in chance.integers(0, len(data), 60):
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(chance.integers(8))
        bad.append(bytes(flipped))
    for each in bad:
        other = Ranker()
        # A bit that no checksum covers (a date in the archive, say) does no harm.
        assert (other.dump() == data) if other.load(each) else len(other) == other.lexical.num_slots == 0
        if not len(other):
            other.add(chunk(1, "a dog"))
            assert numbers(other.rank("dog")) == [1]
