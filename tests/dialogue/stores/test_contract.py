"""What every store must do, on every store of `_stores.WORLDS`.

Goes on in test_contract_erasure.py and test_contract_sharing.py.
"""

import hashlib
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from memarch.dialogue.errors import StoreUnavailable
from memarch.dialogue.records import NewTurn
from memarch.dialogue.stores._checks import encode_text

from ._stores import DIM, START, filled, new_turn, numbers, summary_of, unit

ODD_TEXTS = {
    "empty": "",
    "nul": "a\0b\0",
    "surrogate": "half of a pair: \ud83d",
    "unicode": "žluťoučký 👩‍👩‍👧 שלום \u202e مرحبا",
    "sql": "'); DROP TABLE turns; -- \" * NEAR( %s $1 {}",
    "lines": "\r\n\t\x85\u2028",
    "megabyte": "ab\N{SNOWMAN}d" * 2**18,
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_any_text_comes_back_as_it_was(world, text):
    middle = len(text) // 2
    with_spans = new_turn(text, source_id="odd", spans=((0, middle), (max(0, middle - 1), len(text))))
    store = world.open()
    (added,) = store.add_turns([with_spans])
    assert added.text == text and added.sha256 == hashlib.sha256(encode_text(text)).hexdigest()
    if text:
        store.put_summary(level=1, text=text, first_turn=1, last_turn=1, sources=[1], summarizer="test")
    store.close()
    store = world.open()
    assert list(store.turns()) == [added]
    assert [chunk.text for chunk in store.chunks()] == [text[:middle], text[max(0, middle - 1) :]]
    assert [summary.text for summary in store.summaries()] == ([text] if text else [])
    assert store.verify() == []


def test_names_and_times_come_back_as_they_were(world):
    store = world.open()
    times = [
        START,
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
    ]
    new = [
        NewTurn(f"sess'ion\n{i} 👍", f"rôle {i}", "x", time, f"sé\t{i};--" + "x" * 300, ((0, 1),))
        for i, time in enumerate(times)
    ]
    added = store.add_turns(new)
    store.close()
    store = world.open()
    for turn, wanted, chunk in zip(store.turns(), new, store.chunks(), strict=True):
        assert (turn.session, turn.role, turn.source_id) == (wanted.session, wanted.role, wanted.source_id)
        assert turn.time == wanted.time and turn.time.utcoffset() == timedelta(0)
        assert (chunk.session, chunk.role, chunk.source_id) == (wanted.session, wanted.role, wanted.source_id)
        assert chunk.time == wanted.time
    assert [turn.turn for turn in added] == [1, 2, 3, 4]


def test_turns_are_chosen_by_number_session_and_position(world):
    store = world.open()
    store.add_turns([new_turn(text, session="odd" if i % 2 else "even") for i, text in enumerate("abcdefg")])

    def texts(**choice):
        return "".join(turn.text for turn in store.turns(**choice))

    assert texts() == "abcdefg"
    assert texts(numbers=[5, 2, 2, 99]) == "be" and texts(numbers=[]) == "" and texts(numbers=iter([1])) == "a"
    assert texts(session="odd") == "bdf" and texts(session="none") == ""
    assert texts(after=4) == "efg" and texts(after=7) == ""
    assert texts(last=2) == "fg" and texts(last=0) == "" and texts(last=100) == "abcdefg"
    assert texts(session="odd", last=2) == "df" and texts(session="odd", after=2, last=5) == "df"
    assert texts(numbers=[1, 2, 3, 4], session="even", after=1, last=1) == "c"
    with pytest.raises(ValueError, match="last"):
        store.turns(last=-1)


def test_chunks_are_chosen_by_number_and_state(world):
    store = world.open()
    store.add_turns([new_turn("hello world", spans=((0, 6), (6, 11))), new_turn("x"), new_turn("y")])
    store.archive(numbers(2, 4), 3)

    def found(**choice):
        return [(chunk.chunk, chunk.turn, chunk.ordinal, chunk.text) for chunk in store.chunks(**choice)]

    whole = [(1, 1, 0, "hello "), (2, 1, 1, "world"), (3, 2, 0, "x"), (4, 3, 0, "y")]
    assert found() == whole
    assert found(numbers=[4, 1, 77]) == [whole[0], whole[3]] and found(numbers=[]) == []
    assert found(after=2) == whole[2:]
    assert found(archived=True) == [whole[1], whole[3]] and found(archived=False) == [whole[0], whole[2]]
    assert found(archived=True, after=2, numbers=[2, 3, 4]) == [whole[3]]


def test_many_turns_are_streamed_in_order(world):
    store = world.open()
    store.add_turns([new_turn(f"t{i}", spans=((0, 1), (1, 1 + len(str(i))))) for i in range(2345)])
    assert [turn.text for turn in store.turns()] == [f"t{i}" for i in range(2345)]
    chunks = list(store.chunks(numbers=range(1, 5000)))
    assert [chunk.chunk for chunk in chunks] == list(range(1, 4691)) and chunks[-1].text == "2344"
    assert len(list(store.turns(last=2100))) == 2100


def test_reading_goes_on_while_others_write(world):
    store = world.open()
    store.add_turns([new_turn(f"t{i}") for i in range(1500)])
    seen = []
    for turn in store.turns():
        seen.append(turn.turn)
        if turn.turn == 10:
            store.erase([1499], selector={"turn": "1499"})
            store.add_turns([new_turn("late")])
    assert seen == [number for number in range(1, 1502) if number != 1499]


def test_a_source_id_is_taken_once_and_then_none_is_added(world):
    store = world.open()
    store.add_turns([new_turn("a", source_id="one")])
    for batch in (["two", "one"], ["two", "two"]):
        with pytest.raises(ValueError, match="source_id must be unique per user"):
            store.add_turns([new_turn("b", source_id=name) for name in batch])
        assert [turn.source_id for turn in store.turns()] == ["one"] and store.last_turn() == 1
    store.erase([1], selector={})
    assert store.add_turns([new_turn("again", source_id="one")])[0].turn == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": datetime(2026, 1, 1)}, "zone"),
        ({"time": datetime.max.replace(tzinfo=timezone(timedelta(hours=-9)))}, "UTC can hold"),
        ({"spans": ()}, "at least one span"),
        ({"spans": ((0, 1), (2, 5))}, "characters 1..2 are in no span"),
        ({"spans": ((0, 4),)}, "characters 4..5 are in no span"),
        ({"spans": ((0, 6),)}, "within 0..5"),
        ({"source_id": ""}, "source_id must not be empty"),
        ({"source_id": "a\0"}, "NUL"),
        ({"session": "\udc80"}, "surrogates"),
        ({"role": "\0"}, "NUL"),
    ],
)
def test_bad_turns_are_refused_with_their_whole_batch(world, changes, message):
    store = world.open()
    good = {"session": "s", "role": "user", "text": "hello", "time": START, "source_id": "x", "spans": ((0, 5),)}
    with pytest.raises(ValueError, match=message):
        store.add_turns([new_turn("fine"), NewTurn(**{**good, **changes})])
    assert store.last_turn() == 0 and list(store.turns()) == [] and store.add_turns([]) == []


def test_find_turns_matches_all_selectors(world):
    store = world.open()
    store.add_turns(
        [new_turn(text, session="ab" if text in "ab" else "cd", minutes=i) for i, text in enumerate("abcd")]
    )
    assert store.find_turns() == [1, 2, 3, 4]
    assert store.find_turns(source_id="id of c") == [3] and store.find_turns(source_id="id of") == []
    assert store.find_turns(turn=2) == [2] and store.find_turns(turn=9) == []
    assert store.find_turns(session="cd") == [3, 4]
    assert store.find_turns(before=START + timedelta(minutes=2)) == [1, 2]
    assert store.find_turns(before=START + timedelta(minutes=2), session="ab", turn=2, source_id="id of b") == [2]
    assert store.find_turns(session="ab", turn=3) == []
    with pytest.raises(ValueError, match="zone"):
        store.find_turns(before=datetime(2026, 1, 1))


def test_sessions_in_the_order_of_their_first_turns(world):
    store = world.open()
    assert store.sessions() == []
    store.add_turns(
        [new_turn(text, session=name, minutes=m) for text, name, m in zip("abcd", "zaza", (5, 1, 3, 9), strict=True)]
    )
    first, second = store.sessions()
    assert (first.session, first.first_turn, first.last_turn, first.num_turns) == ("z", 1, 3, 2)
    assert (second.session, second.first_turn, second.last_turn, second.num_turns) == ("a", 2, 4, 2)
    assert (first.started, first.ended) == (START + timedelta(minutes=3), START + timedelta(minutes=5))


def test_erased_numbers_are_never_given_again(world):
    store = world.open()
    assert store.last_turn() == 0
    store.add_turns([new_turn(text) for text in "abc"])
    store.erase([2, 3], selector={})
    assert store.last_turn() == 3
    store.close()
    store = world.open()
    assert store.last_turn() == 3 and store.add_turns([new_turn("d")])[0].turn == 4
    assert [chunk.chunk for chunk in store.chunks()] == [1, 4]


def test_before_an_embedder_there_are_no_vectors(world):
    store = world.open()
    store.add_turns([new_turn("a")])
    assert store.embedder() is None and store.without_vector() == []
    assert len(store.nearest(unit(1)[0], 3)[0]) == len(store.get_vectors(numbers(1))[0]) == 0
    with pytest.raises(ValueError, match="use_embedder"):
        store.put_vectors(numbers(1), unit(1))


def test_vectors_are_stored_served_and_kept(world):
    store, vectors = filled(world)
    for _ in range(2):
        assert store.embedder() == ("model-a", DIM)
        found, stored = store.get_vectors(numbers(5, 2, 99))
        assert found.tolist() == [2, 5] and np.array_equal(stored, vectors[[1, 4]])
        chunks, cosines = store.nearest(vectors[3], 4)
        order = np.argsort(-(vectors @ vectors[3]))
        assert chunks.tolist() == (order[:4] + 1).tolist()
        np.testing.assert_allclose(cosines, (vectors @ vectors[3])[order[:4]], atol=1e-5)
        assert sorted(store.nearest(vectors[3], 100)[0].tolist()) == [1, 2, 3, 4, 5, 6]
        store.close()
        store = world.open()
    new = unit(1, seed=9)
    store.put_vectors(numbers(2), new)
    assert store.nearest(new[0], 1)[0].tolist() == [2] and np.array_equal(store.get_vectors(numbers(2))[1], new)


def test_chunks_without_vector_oldest_first(world):
    store, _ = filled(world, "abc")
    store.add_turns([new_turn("pq", spans=((0, 1), (1, 2))), new_turn("d")])
    assert [(chunk.chunk, chunk.text) for chunk in store.without_vector()] == [(4, "p"), (5, "q"), (6, "d")]
    assert [chunk.chunk for chunk in store.without_vector(limit=2)] == [4, 5] and store.without_vector(limit=0) == []
    store.archive(numbers(4), 5)
    store.put_vectors(numbers(5, 4), unit(2))
    assert [chunk.chunk for chunk in store.without_vector()] == [6]


def test_vectors_of_chunks_erased_meanwhile_are_ignored(world):
    store, vectors = filled(world)
    store.erase([2], selector={})
    store.put_vectors(numbers(2, 3), unit(2, seed=5))
    assert store.get_vectors(numbers(2, 3))[0].tolist() == [3]
    assert 2 not in store.nearest(vectors[1], 10)[0] and store.verify() == []


@pytest.mark.parametrize(
    ("chunks", "vectors", "message"),
    [
        (numbers(1), unit(1) * 2, "unit vectors"),
        (numbers(1), unit(1) * np.nan, "unit vectors"),
        (numbers(1), unit(1, dim=7), rf"\[1, {DIM}\]"),
        (numbers(1, 2), unit(1), rf"\[2, {DIM}\]"),
        (numbers(1, 1), unit(2), "once"),
    ],
)
def test_bad_vectors_are_refused(world, chunks, vectors, message):
    store, good = filled(world)
    with pytest.raises(ValueError, match=message):
        store.put_vectors(chunks, vectors)
    assert np.array_equal(store.get_vectors(numbers(1))[1], good[:1])
    for query, k in ((unit(1, dim=7)[0], 1), (unit(1)[0], 0), (unit(1)[0] * np.nan, 1)):
        with pytest.raises(ValueError):
            store.nearest(query, k)


def test_archived_chunks_are_kept_but_not_near(world):
    store, vectors = filled(world)
    assert len(store.nearest(vectors[1], 10)[0]) == 6  # from here on, the index must follow
    store.archive(numbers(2, 3, 99), 6)
    store.archive(numbers(3), 8)
    for _ in range(2):
        assert sorted(store.nearest(vectors[1], 10)[0].tolist()) == [1, 4, 5, 6]
        assert store.get_vectors(numbers(2))[0].tolist() == [2]
        assert [(chunk.chunk, chunk.archived_at) for chunk in store.chunks(archived=True)] == [(2, 6), (3, 6)]
        store.close()
        store = world.open()
    assert len(store.nearest(vectors[1], 10)[0]) == 4
    store.put_vectors(numbers(2), unit(1, seed=8))
    assert 2 not in store.nearest(vectors[1], 10)[0]
    store.restore(numbers(2, 5, 99))
    assert store.nearest(unit(1, seed=8)[0], 1)[0].tolist() == [2]
    assert [chunk.chunk for chunk in store.chunks(archived=True)] == [3] and store.verify() == []


def test_another_model_serves_its_own_vectors_only(world):
    store, vectors = filled(world, "abcd")
    store.use_embedder("model-b", 7)
    assert store.embedder() == ("model-b", 7) and len(store.get_vectors(numbers(1, 2))[0]) == 0
    assert len(store.nearest(unit(1, dim=7)[0], 5)[0]) == 0
    assert [chunk.chunk for chunk in store.without_vector()] == [1, 2, 3, 4]
    new = unit(2, seed=3, dim=7)
    store.put_vectors(numbers(1, 2), new)
    assert store.nearest(new[1], 5)[0].tolist()[0] == 2 and len(store.nearest(new[1], 5)[0]) == 2
    store.close()
    store = world.open()
    assert [chunk.chunk for chunk in store.without_vector()] == [3, 4] and store.verify() == []
    assert store.nearest(new[1], 1)[0].tolist() == [2]
    store.use_embedder("model-a", DIM)
    assert [chunk.chunk for chunk in store.without_vector()] == [1, 2]
    assert sorted(store.nearest(vectors[2], 5)[0].tolist()) == [3, 4] and store.verify() == []
    for name, dim in (("", 3), ("m", 0), ("m", 2.5)):
        with pytest.raises(ValueError):
            store.use_embedder(name, dim)


def test_pins_and_retrievals_are_kept(world):
    store, _ = filled(world, "abc")
    store.pin(numbers(1, 2, 99))
    store.pin(numbers(2), pinned=False)
    store.mark_retrieved(numbers(2, 3), 7)
    store.mark_retrieved(numbers(3), 9)
    store.close()
    chunks = list(world.open().chunks())
    assert [chunk.pinned for chunk in chunks] == [True, False, False]
    assert [chunk.retrieved_at for chunk in chunks] == [None, 7, 9]


def test_settings(world):
    store = world.open()
    assert store.get_setting("a") is None
    store.put_setting("a", '{"k": "ž"}')
    store.put_setting("b", "")
    store.put_setting("a", "2")
    store.put_setting("gone", "1")
    store.put_setting("gone", None)
    store.put_setting("never", None)
    store.close()
    store = world.open()
    assert [store.get_setting(name) for name in ("a", "b", "gone")] == ["2", "", None]
    with pytest.raises(ValueError):
        store.put_setting("", "x")


def test_stats(world):
    store, _ = filled(world)
    store.add_turns([new_turn("new", session="s2")])
    summary_of(store, [1])
    store.archive(numbers(1, 2), 7)
    store.pin(numbers(3))
    stats = store.stats()
    assert (stats.num_turns, stats.num_sessions, stats.num_chunks, stats.num_archived) == (7, 2, 7, 2)
    assert (stats.num_pinned, stats.num_vectors, stats.num_pending, stats.num_summaries) == (1, 6, 1, 1)
    assert (stats.embedder, stats.dim, stats.user, stats.location) == ("model-a", DIM, "ada", store.location)
    assert stats.disk_bytes is None or stats.disk_bytes > 0


def test_a_sound_memory_has_nothing_to_repair(world):
    store, _ = filled(world)
    assert store.verify() == store.verify(deep=False) == store.repair() == []


def test_closing_twice_and_using_a_closed_store(world):
    store, _ = filled(world)
    store.close()
    store.close()
    for use in (store.last_turn, lambda: store.add_turns([new_turn("x")]), lambda: list(store.turns())):
        with pytest.raises(StoreUnavailable):
            use()


def test_marks_are_the_chunks_without_their_texts(world):
    store, _ = filled(world)
    store.pin(numbers(2))
    store.archive(numbers(3, 4), 6)
    store.mark_retrieved(numbers(4, 5), 6)
    for archived in (None, True, False):
        marks, chunks = store.marks(archived=archived), list(store.chunks(archived=archived))
        assert marks.chunks.tolist() == [chunk.chunk for chunk in chunks] and len(marks) == len(chunks)
        assert marks.turns.tolist() == [chunk.turn for chunk in chunks]
        assert marks.pinned.tolist() == [chunk.pinned for chunk in chunks]
        assert marks.archived.tolist() == [chunk.archived_at is not None for chunk in chunks]
        assert marks.retrieved_at.tolist() == [chunk.retrieved_at or 0 for chunk in chunks]
    assert len(world.open("bob").marks()) == 0
