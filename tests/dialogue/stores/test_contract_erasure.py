"""Summaries, their lineage and erasure, on every store of `_stores.WORLDS`: the second part of the contract."""

import pytest

from ._stores import DIM, filled, new_turn, numbers, summary_of, unit


def test_summaries_with_lineage_and_replacement(world):
    store, _ = filled(world)
    late = summary_of(store, [3, 4], turns=(3, 4))
    early = summary_of(store, [1, 2], text="other")
    above = summary_of(store, [early.summary, late.summary], level=2, turns=(1, 4))
    assert store.summaries(level=1) == [early, late] and store.summaries(level=2) == [above]
    assert above.sources == (early.summary, late.summary) and above.summarizer == "test"
    newer = summary_of(store, [1, 2, 5], replaces=[early.summary, 999])
    assert newer.summary > above.summary and early not in store.summaries() and newer in store.summaries()
    for sources, level in (([77], 1), ([early.summary], 2), ([], 1), ([1], 0)):
        with pytest.raises(ValueError):
            summary_of(store, sources, level=level, replaces=[late.summary])
    assert late in store.summaries()
    before = store.summaries()
    store.close()
    assert world.open().summaries() == before


def test_erasure_reaches_every_summary_that_goes_back_to_a_turn(world):
    store, _ = filled(world)
    first, second, third = (summary_of(store, sources) for sources in ([1, 2], [3, 4], [5, 6]))
    above = summary_of(store, [first.summary, second.summary], level=2)
    top = summary_of(store, [above.summary], level=3)
    other = summary_of(store, [third.summary], level=2)
    newer = summary_of(store, [1, 3], replaces=[first.summary])  # `above` still knows what `first` knew
    receipt = store.erase([2, 99], selector={"source_id": "id of b"})
    assert receipt.turns == (2,) and receipt.source_ids == ("id of b",) and receipt.chunks == (2,)
    assert receipt.summaries_dropped == (above.summary, top.summary) and receipt.selector == {"source_id": "id of b"}
    assert {summary.summary for summary in store.summaries()} == {s.summary for s in (second, third, other, newer)}
    assert store.verify() == [] and store.receipts() == [receipt]
    store.close()
    store = world.open()
    assert store.receipts() == [receipt] and [turn.turn for turn in store.turns()] == [1, 3, 4, 5, 6]
    assert sorted(store.nearest(unit(1)[0], 10)[0].tolist()) == [1, 3, 4, 5, 6]


def test_erasing_nothing_leaves_no_receipt(world):
    store, _ = filled(world)
    assert store.erase([], selector={}).turns == store.erase([99], selector={"turn": "99"}).turns == ()
    assert store.receipts() == [] and store.last_turn() == 6


SECRET, VAGUE = "the safe opens with 4711", "something about a safe"


def scanned(world):
    """Text, summary, and a part of each vector that no other holds."""
    store = world.open()
    store.add_turns([new_turn("before"), new_turn(SECRET, source_id="secret"), new_turn("after " * 50)])
    store.use_embedder("model-a", DIM)
    vectors = unit(3, seed=4)
    store.put_vectors(numbers(1, 2, 3), vectors)
    summary_of(store, [1, 2], text=VAGUE)
    store.nearest(vectors[0], 2)
    store.flush()
    return store, vectors


def test_no_file_holds_a_byte_of_what_was_erased(world):
    store, vectors = scanned(world)
    assert world.files_with(SECRET.encode()) and world.files_with(VAGUE.encode())
    store.erase([2], selector={})
    for _ in range(2):
        for needle in (SECRET.encode(), VAGUE.encode(), vectors[1].tobytes(), vectors[1].tobytes()[:16]):
            assert world.files_with(needle) == []
        assert world.files_with(b"before")
        assert sorted(store.nearest(vectors[1], 5)[0].tolist()) == [1, 3] and store.verify() == []
        store.close()
        store = world.open()


def test_erasing_a_model_that_is_no_longer_current(world):
    store, vectors = scanned(world)
    store.use_embedder("model-b", 7)
    store.put_vectors(numbers(1), unit(1, dim=7))
    store.erase([2], selector={})
    store.close()
    assert world.files_with(vectors[1].tobytes()[:16]) == []


def test_erase_user_leaves_nothing_of_this_user_and_all_of_others(world):
    other, _ = filled(world, "xyz", user="bob")
    store, vectors = scanned(world)
    store.put_setting("theme", "a private setting")
    receipt = store.erase_user()
    assert receipt.turns == (1, 2, 3) and receipt.chunks == (1, 2, 3) and "secret" in receipt.source_ids
    assert receipt.summaries_dropped == (1,)
    for _ in range(2):
        for needle in (SECRET.encode(), VAGUE.encode(), b"a private setting", *(v.tobytes()[:16] for v in vectors)):
            assert world.files_with(needle) == []
        assert list(store.turns()) == list(store.chunks()) == store.receipts() == store.summaries() == []
        assert store.get_setting("theme") is None and store.embedder() is None and store.last_turn() == 0
        store.close()
        assert world.users() == ["bob"]
        store = world.open()
    assert [turn.text for turn in other.turns()] == list("xyz") and len(other.nearest(unit(1)[0], 5)[0]) == 3
    store.add_turns([new_turn("anew")])
    assert [turn.text for turn in store.turns()] == ["anew"] and store.verify() == other.verify() == []
    store.close()
    assert world.users() == ["ada", "bob"]


def test_a_cache_is_gone_after_an_erasure(world):
    store, other = filled(world)[0], filled(world, user="bob")[0]
    for each in (store, other):
        each.put_cache("words", b"older")
        each.put_cache("words", b"every word\0")
    kept = store.get_cache("words")
    assert kept in (b"every word\0", None) and store.get_cache("other") is None  # some stores keep none
    store.erase([3], selector={})
    assert store.get_cache("words") is None and other.get_cache("words") == kept
    store.put_cache("words", b"what is left")
    assert store.repair() == [] and store.get_cache("words") is None
    store.put_cache("words", b"what is left")
    store.erase_user()
    assert store.get_cache("words") is None
    assert not any("ada" in name for name in world.files_with(b"every word\0") + world.files_with(b"what is left"))
