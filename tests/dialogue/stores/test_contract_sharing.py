"""Many users, a writer and its readers, threads, on every store of `_stores.WORLDS`: the third part of the contract."""

import threading

import numpy as np
import pytest

from memarch.dialogue.errors import DialogueError, StoreLocked, StoreUnavailable

from ._stores import DIM, filled, new_turn, numbers, unit


def test_ten_turns_beside_thousands_are_found_by_their_owner_only(world):
    large, small = world.open("ada"), world.open("bob")
    theirs, mine = unit(3000), unit(10, seed=1)
    large.add_turns([new_turn(f"ada {i}") for i in range(3000)])
    small.add_turns([new_turn(f"bob {i}") for i in range(10)])
    for store, vectors in ((large, theirs), (small, mine)):
        store.use_embedder("model-a", DIM)
        store.put_vectors(np.arange(1, len(vectors) + 1), vectors)
    assert sorted(small.nearest(theirs[0], 50)[0].tolist()) == list(range(1, 11))
    assert {turn.text for turn in small.turns()} == {f"bob {i}" for i in range(10)}
    assert small.find_turns(source_id="id of ada 3") == [] and small.last_turn() == 10
    small.erase([3], selector={})
    assert large.last_turn() == 3000 and len(list(large.turns(numbers=[3]))) == 1 and large.receipts() == []
    assert large.nearest(theirs[2], 1)[0].tolist() == [3]


USERS = [
    "A",
    "a",
    "../x",
    "x",
    "con",
    "ada.lovelace",
    "žofie 👩",
    "e\u0301",
    "\u00e9",
    "u" * 300,
    "u" * 301,
    "with\0nul",
    " ",
]


def test_any_name_is_a_user_of_its_own(world):
    for name in USERS:
        world.open(name).add_turns([new_turn(f"I am {name!r}")])
        world.opened[-1].close()
    assert world.users() == sorted(USERS)
    for name in USERS:
        assert [turn.text for turn in world.open(name).turns()] == [f"I am {name!r}"]
        assert world.opened[-1].user == name
    with pytest.raises(ValueError, match="non-empty"):
        world.open("")


def test_a_second_writer_is_refused_until_the_first_closes(world):
    first = world.open()
    first.add_turns([new_turn("a")])
    with pytest.raises(StoreLocked):
        world.open()
    world.open("bob")
    first.close()
    assert [turn.text for turn in world.open().turns()] == ["a"]


def test_a_reader_sees_what_is_committed_and_writes_nothing(world):
    store, vectors = filled(world)
    reader = world.open(read_only=True)
    assert [turn.text for turn in reader.turns()] == list("abcdef")
    assert reader.nearest(vectors[2], 1)[0].tolist() == [3]
    store.add_turns([new_turn("late")])
    store.put_vectors(numbers(7), unit(1, seed=77))
    store.archive(numbers(3), 7)
    store.erase([1], selector={})
    assert [turn.text for turn in reader.turns()] == [*"bcdef", "late"]
    assert reader.nearest(unit(1, seed=77)[0], 1)[0].tolist() == [7]
    assert sorted(reader.nearest(vectors[2], 10)[0].tolist()) == [2, 4, 5, 6, 7]
    for write in (
        lambda: reader.add_turns([new_turn("x")]),
        lambda: reader.put_setting("a", "b"),
        lambda: reader.erase([2], selector={}),
        lambda: reader.put_vectors(numbers(2), unit(1)),
        lambda: reader.archive(numbers(2), 1),
    ):
        with pytest.raises(StoreUnavailable, match="read_only"):
            write()
    reader.close()
    assert [turn.text for turn in store.turns()] == [*"bcdef", "late"] and store.verify() == []
    with pytest.raises(DialogueError):
        world.open("nobody", read_only=True)


def test_threads_may_share_a_store(world):
    store, _ = filled(world)
    failures = []

    def work(name):
        try:
            for i in range(15):
                (turn,) = store.add_turns([new_turn(f"{name} {i}")])
                (chunk,) = [chunk.chunk for chunk in store.chunks(numbers=None, after=6) if chunk.turn == turn.turn]
                store.put_vectors(numbers(chunk), unit(1, seed=chunk))
                assert store.nearest(unit(1, seed=chunk)[0], 1)[0].tolist() == [chunk]
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(name,)) for name in "pqr"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and store.last_turn() == 6 + 45 and store.verify() == []
