"""Damaged records and files: found, named, mended where nothing is lost, never taken for a new memory."""

import shutil

import pytest

from memarch.dialogue.errors import StoreCorrupt
from memarch.dialogue.stores._user_names import user_directory

from ._sqlite_tools import edit, kinds
from ._stores import DIM, World, filled, new_turn, numbers


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def home(world):
    return user_directory(world.location, "ada")


def test_wrong_text_spans_and_references_are_found_and_not_called_repairable(world, home):
    store, _ = filled(world)
    store.put_summary(level=1, text="s", first_turn=1, last_turn=1, sources=[1], summarizer="t")
    store.close()
    edit(
        home,
        "UPDATE turns SET text = x'41' WHERE turn = 2",
        "UPDATE chunks SET stop = 0 WHERE turn = 3",
        "DELETE FROM turns WHERE turn = 4",
        "DELETE FROM lineage",
    )
    store = world.open()
    assert kinds(store) == ["foreign-key", "hash", "lineage", "spans"]
    assert not any(problem.repairable for problem in store.verify()) and store.repair() == []
    assert [problem.kind for problem in store.verify(deep=False)] == ["foreign-key", "lineage"]


def test_bad_vectors_are_dropped_and_wait_for_embedding(world, home):
    store, vectors = filled(world)
    store.close()
    edit(
        home,
        "UPDATE vectors SET vector = x'00' WHERE chunk = 2",
        f"UPDATE vectors SET vector = zeroblob({4 * DIM}) WHERE chunk = 3",
        "UPDATE chunks SET embedded = 0 WHERE chunk = 5",
    )
    store = world.open()
    with pytest.raises(StoreCorrupt, match="memarch memory repair"):
        store.get_vectors(numbers(2))
    assert kinds(store) == ["embedded", "vector", "vector"]
    assert {problem.kind for problem in store.repair()} == {"embedded", "vector"}
    assert store.verify() == [] and [chunk.chunk for chunk in store.without_vector()] == [2, 3]
    assert sorted(store.nearest(vectors[0], 9)[0].tolist()) == [1, 4, 5, 6]


def test_an_index_that_lacks_a_chunk_is_found_and_rebuilt(world):
    store, vectors = filled(world)
    store.nearest(vectors[0], 1)
    store._vectors._index.remove(numbers(4))
    assert kinds(store) == ["index"] and "lacks 1 chunks" in store.verify()[0].detail
    store.repair()
    assert store.verify() == [] and store.nearest(vectors[3], 1)[0].tolist() == [4]


def test_a_damaged_index_of_the_database_is_made_anew(world, home):
    store, _ = filled(world)
    store.close()
    other = "UPDATE sqlite_master SET sql = 'CREATE INDEX turns_by_time ON turns (role)' WHERE name = 'turns_by_time'"
    edit(home, "PRAGMA writable_schema = ON", other)
    store = world.open()
    assert set(kinds(store)) == {"integrity"} and all(problem.repairable for problem in store.verify())
    assert store.repair() and store.verify() == [] and len(list(store.turns())) == 6


def test_a_database_that_is_none_is_corrupt_and_says_what_to_do(world, home, caplog):
    store, _ = filled(world)
    store.close()
    file = home / "memory.db"
    whole = file.read_bytes()
    for data in (b"this is no database" * 1000, whole[:5000], whole[:100] + bytes(8000) + whole[8100:]):
        file.write_bytes(data)
        with pytest.raises(StoreCorrupt, match="restore from an export"):
            store = world.open()
            list(store.chunks())
            list(store.turns())
            raise AssertionError(store.verify())
        world.opened[-1].close()
        caplog.clear()
        assert world.users() == ["ada"] and "user 'ada'" in caplog.text  # others are listed all the same
    file.write_bytes(whole)
    assert len(list(world.open().turns())) == 6


def test_damage_inside_the_database_is_found(world, home):
    store = world.open()
    store.add_turns([new_turn(f"{i} " + "long text " * 300) for i in range(50)])
    store.close()
    data = bytearray((home / "memory.db").read_bytes())
    position = data.index(b"25 long text") + 5000
    data[position - position % 8192 : position - position % 8192 + 64] = b"\xee" * 64
    (home / "memory.db").write_bytes(bytes(data))
    store = world.open()
    try:
        assert any(problem.kind in ("integrity", "hash") for problem in store.verify())
    except StoreCorrupt:
        pass


def test_a_missing_database_beside_its_index_is_not_taken_for_a_new_memory(world, home):
    store, vectors = filled(world)
    store.nearest(vectors[0], 1)
    store.close()
    (home / "memory.db").unlink()
    with pytest.raises(StoreCorrupt, match="missing"):
        world.open()


def test_another_users_database_is_refused(world, home):
    filled(world)[0].close()
    filled(world, user="bob")[0].close()
    shutil.copy(user_directory(world.location, "bob") / "memory.db", home / "memory.db")
    with pytest.raises(StoreCorrupt, match="should hold user 'ada'"):
        world.open()


def test_wrong_json_is_corrupt(world, home):
    store, _ = filled(world)
    store.erase([1], selector={})
    store.put_summary(level=1, text="s", first_turn=2, last_turn=2, sources=[2], summarizer="t")
    store.close()
    edit(home, "UPDATE receipts SET turns = '[1'", "UPDATE summaries SET sources = '3'")
    store = world.open()
    for read in (store.receipts, store.summaries):
        with pytest.raises(StoreCorrupt, match="wrong JSON"):
            read()


def test_files_of_others_are_named_and_left(world, home):
    store, _ = filled(world)
    (home / "notes.txt").write_text("mine")
    assert kinds(store) == ["orphan-file"] and store.repair() == []
    store.erase_user()
    store.close()
    assert (home / "notes.txt").read_text() == "mine"


def test_a_memory_that_does_not_say_whose_it_is_does_not_hide_the_others(world, home, caplog):
    filled(world)[0].close()
    filled(world, user="bob")[0].close()
    edit(home, "UPDATE state SET user = x'ff'")
    assert world.users() == ["ada", "bob"] and "whose it is" in caplog.text
