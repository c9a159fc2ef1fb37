"""The default store's own promises: its files, the saved index, schema versions, and how much memory it takes."""

import os
import re
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from memarch.dialogue.errors import MigrationError, StoreUnavailable
from memarch.dialogue.stores import _sqlite_records, _sqlite_schema
from memarch.dialogue.stores._user_names import directory_name, user_directory
from memarch.dialogue.stores.faiss_index import FaissIndex
from memarch.dialogue.stores.sqlite import SQLiteStore

from ._sqlite_tools import ENVIRONMENT, edit, kinds
from ._stores import DIM, World, filled, new_turn, numbers, unit


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def home(world):
    return user_directory(world.location, "ada")


def test_the_files_of_a_memory(world, home):
    store, _ = filled(world)
    assert (home / "writer.pid").read_text() == str(os.getpid())
    store.nearest(unit(1)[0], 1)
    store.close()
    assert sorted(path.name for path in home.iterdir()) == ["memory.db", "vectors.faiss", "writer.lock"]
    assert home.stat().st_mode & 0o077 == 0  # nobody else's business


def test_an_empty_memory_leaves_no_files(world, home):
    store = world.open()
    store.use_embedder("m", DIM)
    assert home.exists() and world.users() == []
    store.close()
    assert not home.exists() and world.users() == []
    store = world.open()
    store.put_setting("a", "1")
    store.close()
    assert home.exists() and world.users() == ["ada"]


def test_every_commit_is_synced_and_deleted_bytes_are_overwritten(world):
    connection = world.open()._db.connection
    pragmas = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1}
    assert {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas} == pragmas
    assert connection.execute("PRAGMA busy_timeout").fetchone()[0] == 5000


def test_a_step_that_breaks_off_changes_nothing(world, monkeypatch):
    store, _ = filled(world, "ab")

    def encode(text):
        if text == "second":
            raise KeyboardInterrupt
        return text.encode()

    with monkeypatch.context() as patch:
        patch.setattr(_sqlite_records, "encode_text", encode)
        with pytest.raises(KeyboardInterrupt):
            store.add_turns([new_turn("first"), new_turn("second")])
    assert [turn.text for turn in store.turns()] == ["a", "b"] and store.last_turn() == 2
    assert store.add_turns([new_turn("first")])[0].turn == 3


def test_directories_differ_on_file_systems_that_ignore_case(world):
    names = [
        "ada",
        "Ada",
        "ADA",
        "con",
        "a.b",
        "a-b",
        "a b",
        "é",
        "É",
        "x" * 300,
        "x" * 301,
        "../ada",
        "ada/",
        "\ud800",
    ]
    directories = [directory_name(name) for name in names]
    assert len(set(directories)) == len(names) and all(name == name.lower() for name in directories)
    assert directories[0] == "ada" and all(re.fullmatch(r"[a-z0-9_.-]{1,70}", name) for name in directories)


def test_erasing_gives_the_room_back(world, home):
    store = world.open()
    store.add_turns([new_turn("words " * 1000, source_id=str(i)) for i in range(100)])
    store.erase(range(1, 100), selector={})
    assert (home / "memory.db").stat().st_size < 200_000 and (home / "memory.db-wal").stat().st_size < 50_000


def test_opening_needs_no_faiss_until_vectors_are_asked_for(world, home, monkeypatch):
    store, vectors = filled(world)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(StoreUnavailable, match=r"memarch\[chat\]"):
        store.nearest(vectors[0], 1)
    store.add_turns([new_turn("more")])
    store.put_vectors(numbers(7), unit(1))
    store.archive(numbers(1), 7)
    store.erase([2], selector={})
    store.close()
    assert len(list(world.open().turns())) == 6


def test_importing_stores_is_light():
    script = "import sys, memarch.dialogue.stores.sqlite; print({'faiss', 'filelock', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == "set()\n", done.stderr + done.stdout


def test_without_filelock_the_error_names_the_extra(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(StoreUnavailable, match=r"memarch\[chat\]"):
        world.open()


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "truncated", "flipped", "older", "of another user", "a directory"]
)
def test_a_bad_index_file_is_rebuilt_from_the_records(world, home, damage):
    store, vectors = filled(world)
    file = home / "vectors.faiss"
    store.nearest(vectors[0], 1)
    store.flush()
    older = file.read_bytes()
    store.put_vectors(numbers(1), unit(1, seed=70))
    other, _ = filled(world, "xyzuvw", user="bob")
    other.nearest(vectors[0], 1)
    for opened in (store, other):
        opened.close()
    whole = file.read_bytes()
    bad = {
        "empty": b"",
        "truncated": whole[:-40],
        "flipped": bytes([whole[0] ^ 1]) + whole[1:],
        "older": older,
        "of another user": (user_directory(world.location, "bob") / "vectors.faiss").read_bytes(),
    }
    if damage in bad:
        file.write_bytes(bad[damage])
    else:
        file.unlink()
    if damage == "a directory":
        file.mkdir()
    for read_only in (True, False):
        store = world.open(read_only=read_only)
        chunks, cosines = store.nearest(unit(1, seed=70)[0], 6)
        assert chunks[0] == 1 and cosines[0] == pytest.approx(1) and sorted(chunks.tolist()) == [1, 2, 3, 4, 5, 6]
    if damage == "a directory":  # saving it is impossible; everything else works
        with pytest.raises(StoreUnavailable, match="the records are safe"):
            store.flush()
        store.close()
        file.rmdir()
        store = world.open()
        store.nearest(vectors[0], 1)
    store.flush()
    assert FaissIndex.file_problem(file) is None and store.verify() == []


def test_an_index_saved_by_a_process_that_did_not_know_of_a_change_is_not_used(world, home):
    store, vectors = filled(world)
    store.nearest(vectors[0], 1)
    store.close()
    store = world.open()
    store.archive(numbers(3), 6)  # the index is not loaded: the file stays, but no longer stands for the records
    store.close()
    assert 3 not in world.open().nearest(vectors[2], 6)[0]


def test_a_leftover_of_an_unfinished_save_goes(world, home):
    store, _ = filled(world)
    leftover = home / "vectors.faiss.tmp"
    leftover.write_bytes(b"half")
    assert kinds(store) == ["leftover"] and [problem.kind for problem in store.repair()] == ["leftover"]
    assert not leftover.exists() and store.verify() == []
    leftover.write_bytes(b"half")
    store.close()
    world.open()
    assert not leftover.exists()


def test_a_newer_schema_is_refused_untouched(world, home):
    filled(world)[0].close()
    edit(home, "PRAGMA user_version = 99")
    before = (home / "memory.db").read_bytes()
    for read_only in (False, True):
        with pytest.raises(StoreUnavailable, match="schema version 99; this memarch knows up to 2: upgrade"):
            world.open(read_only=read_only)
    assert (home / "memory.db").read_bytes() == before


def test_a_foreign_database_is_refused_untouched(world, home):
    home.mkdir(parents=True)
    edit(home, "CREATE TABLE mine (x)", "INSERT INTO mine VALUES (1)")
    with pytest.raises(StoreUnavailable, match="not a memory of memarch"):
        world.open()
    with sqlite3.connect(home / "memory.db") as connection:
        assert connection.execute("SELECT x FROM mine").fetchall() == [(1,)]
    connection.close()


def test_an_older_schema_is_migrated_in_one_step_or_not_at_all(world, home, monkeypatch):
    store, vectors = filled(world)
    turns = list(store.turns())
    store.close()
    good = "ALTER TABLE turns ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'"
    breaking = (*_sqlite_schema.MIGRATIONS, (good, "UPDATE turns SET mood = 'odd'", "UPDATE nothing SET x = 1"))
    with monkeypatch.context() as patch:
        patch.setattr(_sqlite_schema, "MIGRATIONS", breaking)
        with pytest.raises(MigrationError, match="from schema version 2 to 3 .* it is as it was"):
            world.open()
        with pytest.raises(StoreUnavailable, match="open it once for writing"):
            world.open(read_only=True)
    store = world.open()  # this memarch knows version 2 only, and that is what it finds
    assert list(store.turns()) == turns and store.verify() == []
    store.close()
    monkeypatch.setattr(_sqlite_schema, "MIGRATIONS", (*_sqlite_schema.MIGRATIONS, (good,), ("CREATE TABLE more (x)",)))
    store = world.open()
    assert store._db.value("PRAGMA user_version") == 4 and store._db.value("SELECT mood FROM turns") == "calm"
    assert list(store.turns()) == turns and store.nearest(vectors[4], 1)[0].tolist() == [5] and store.verify() == []


def test_the_first_schema_becomes_the_current_one(world, home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_sqlite_schema, "MIGRATIONS", _sqlite_schema.MIGRATIONS[:1])
        patch.setattr(SQLiteStore, "close", lambda store: store._db.close() or store._lock.release())
        store = world.open()
        store.add_turns([new_turn("kept")])
        store.close()
    store = world.open()
    assert store._db.value("PRAGMA user_version") == 2 and [turn.text for turn in store.turns()] == ["kept"]
    store.put_cache("words", b"1")
    store.close()
    assert world.open().get_cache("words") == b"1"


def test_a_database_without_tables_becomes_a_memory(world, home):
    home.mkdir(parents=True)
    (home / "memory.db").write_bytes(b"")  # a crash right after it was made
    store = world.open()
    assert store.add_turns([new_turn("a")])[0].turn == 1


SIZE = """
import sys
from pathlib import Path
import numpy as np
from memarch.dialogue.records import NewTurn, utc_now
from memarch.dialogue.stores import open_store

count, dim = 20_000, 384
store = open_store(sys.argv[1], user="ada")
store.use_embedder("m", dim)
chance = np.random.default_rng(0)
for start in range(0, count, 500):
    texts = [f"turn {start + i} " + "words " * 20 for i in range(500)]
    store.add_turns([NewTurn("s", "user", t, utc_now(), t[:12], ((0, len(t)),)) for t in texts])
    vectors = chance.standard_normal((500, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store.put_vectors(np.arange(start + 1, start + 501), vectors)
store.close()
store = open_store(sys.argv[1], user="ada")
assert len(store.nearest(vectors[0], 10)[0]) == 10
assert sum(1 for _ in store.chunks()) == count
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_grows_by_the_vectors_and_little_else(world):
    ended = subprocess.run(
        [sys.executable, "-c", SIZE, world.location], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert ended.returncode == 0, ended.stderr
    # 30 MB of vectors on top of about 60 MB for Python, NumPy and FAISS; twice the vectors while they are rebuilt.
    assert int(ended.stdout) < 200


def test_above_the_border_the_index_is_small_and_answers_stay_exact(world, home):
    def open_it(border):
        return SQLiteStore(world.location, user="ada", max_exact_chunks=border)

    vectors, query = unit(600), unit(1, seed=3)[0]
    order = np.argsort(-(vectors @ query))
    store = open_it(500)
    store.add_turns([new_turn(str(i)) for i in range(600)])
    store.use_embedder("model-a", DIM)
    store.put_vectors(np.arange(1, 501), vectors[:500])
    store.nearest(query, 1)
    assert store._vectors._index.kind == "Flat"
    store.put_vectors(np.arange(501, 601), vectors[500:])  # over the border while it is open
    chunks, cosines = store.nearest(query, 50)
    assert store._vectors._index.kind == "SQ8" and chunks.tolist() == (order[:50] + 1).tolist()
    np.testing.assert_allclose(cosines, (vectors @ query)[order[:50]], atol=1e-6)
    store.archive(numbers(order[0] + 1), 600)
    store.erase([int(order[1]) + 1], selector={})
    assert store.nearest(query, 48)[0].tolist() == (order[2:50] + 1).tolist() and store.verify() == []
    store.close()
    (file,) = home.glob("vectors.faiss")
    saved = file.read_bytes()
    for border, kind in ((500, "SQ8"), (700, "SQ8"), (1500, "Flat"), (500, "SQ8")):  # 700: not worth a change
        store = open_it(border)
        assert store.nearest(query, 48)[0].tolist() == (order[2:50] + 1).tolist()
        assert store._vectors._index.kind == kind and store.verify() == []
        store.close()
    file.write_bytes(saved[:-300])
    store = open_it(500)
    assert [problem.kind for problem in store.repair()] == ["index-file"]
    assert store._vectors._index.kind == "SQ8" and store.verify() == []
    assert store.nearest(query, 48)[0].tolist() == (order[2:50] + 1).tolist()
    store.close()
    with pytest.raises(ValueError, match="max_exact_chunks must be at least 1; got 0"):
        open_it(0)
