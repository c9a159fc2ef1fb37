"""Erasures that broke off, other processes and programs, places that cannot be written, full disks."""

import shutil
import sqlite3
import subprocess
import sys

import pytest

from memarch.dialogue.errors import StoreLocked, StoreUnavailable
from memarch.dialogue.stores import _sqlite_database, open_store, users
from memarch.dialogue.stores._user_names import user_directory

from ._sqlite_tools import ENVIRONMENT, kinds
from ._stores import World, filled, new_turn, numbers, unit


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def home(world):
    return user_directory(world.location, "ada")


def test_an_erasure_that_broke_off_is_finished_by_the_next_open(world, home, monkeypatch):
    store, vectors = filled(world)
    store.add_turns([new_turn("the secret word", source_id="secret")])  # receipts keep source_ids
    store.nearest(vectors[0], 1)
    store.flush()

    def fail(self):
        raise StoreUnavailable("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(_sqlite_database.Database, "compact", fail)
        with pytest.raises(StoreUnavailable, match="power cut"):
            store.erase([2, 7], selector={})
        assert [turn.turn for turn in store.turns()] == [1, 3, 4, 5, 6] and 2 not in store.nearest(vectors[1], 9)[0]
        assert kinds(store) == ["pending-erasure"]
        # What a kill would leave, with the index of before.
        shutil.copytree(home, home.with_name("copy"))
        store.close()
    shutil.rmtree(home)
    home.with_name("copy").rename(home)
    assert world.files_with(vectors[1].tobytes()) and world.files_with(b"the secret word")
    store = world.open()
    assert world.files_with(vectors[1].tobytes()) == world.files_with(b"the secret word") == []
    (receipt,) = store.receipts()
    assert receipt.turns == (2, 7) and "memory.db" in receipt.files_rewritten and store.verify() == []


def test_an_erasure_also_finishes_the_one_before(world, monkeypatch):
    store, vectors = filled(world)
    store.nearest(vectors[0], 1)
    with monkeypatch.context() as patch:
        patch.setattr(_sqlite_database.Database, "compact", lambda self: self.rows("SELECT * FROM no_table"))
        with pytest.raises(sqlite3.OperationalError):
            store.erase([2], selector={})
    store.erase([3], selector={})
    assert world.files_with(vectors[1].tobytes()) == world.files_with(vectors[2].tobytes()) == []
    store.flush()
    store.close()
    assert world.files_with(vectors[1].tobytes()) == world.files_with(vectors[2].tobytes()) == []
    store = world.open()
    assert sorted(store.nearest(vectors[1], 9)[0].tolist()) == [1, 4, 5, 6] and store.verify() == []
    assert all("memory.db" in receipt.files_rewritten for receipt in store.receipts())


def test_an_unfinished_erasure_does_not_bar_the_door(world, home, monkeypatch, caplog):
    monkeypatch.setattr(_sqlite_database, "BUSY_TIMEOUT_SECONDS", 0.05)
    store, _ = filled(world)
    reader = sqlite3.connect(home / "memory.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM turns").fetchone()
    with pytest.raises(StoreLocked):
        store.erase([1], selector={})
    store.close()
    store = world.open()
    assert "not finished yet" in caplog.text and kinds(store) == ["pending-erasure"]
    assert [turn.turn for turn in store.turns()] == [2, 3, 4, 5, 6]
    reader.close()
    store.close()
    assert world.open().verify() == []


def test_a_reader_in_the_middle_of_something_delays_an_erasure_with_a_clear_error(world, home, monkeypatch):
    monkeypatch.setattr(_sqlite_database, "BUSY_TIMEOUT_SECONDS", 0.05)
    store, _ = filled(world)
    reader = sqlite3.connect(home / "memory.db", isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM turns").fetchone() == (6,)
    with pytest.raises(StoreLocked, match="repair"):
        store.erase([1], selector={})
    assert kinds(store) == ["pending-erasure"] and [turn.turn for turn in store.turns()] == [2, 3, 4, 5, 6]
    reader.close()
    assert [problem.kind for problem in store.repair()] == ["pending-erasure"]
    assert store.verify() == [] and len(store.receipts()) == 1


WRITER = """
import sys
from memarch.dialogue.stores import open_store
store = open_store(sys.argv[1], user="ada")
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_second_process_is_told_who_writes_and_may_read(world):
    filled(world)[0].close()
    command = [sys.executable, "-c", WRITER, world.location]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as writer:
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=f"by process {writer.pid}: close it there"):
            world.open()
        assert len(list(world.open(read_only=True).turns())) == 6
        writer.kill()
    assert len(list(world.open().turns())) == 6  # the lock died with its process


def test_a_reader_neither_repairs_nor_touches_files(world, home):
    store, vectors = filled(world)
    store.nearest(vectors[0], 1)
    store.flush()
    reader = world.open(read_only=True)
    (home / "vectors.faiss.tmp").write_bytes(b"being written")
    (home / "vectors.faiss").write_bytes(b"damaged")
    assert kinds(reader) == ["index-file"]
    for write in (reader.repair, reader.erase_user, lambda: reader.erase([99], selector={})):
        with pytest.raises(StoreUnavailable, match="read_only=True"):
            write()
    reader.nearest(vectors[0], 1)
    reader.flush()
    reader.close()
    assert (home / "vectors.faiss").read_bytes() == b"damaged" and (home / "vectors.faiss.tmp").exists()


def test_a_reader_opens_what_a_killed_writer_left(world, home):
    command = [
        sys.executable,
        "-c",
        WRITER.replace('print("open"', 'store.put_setting("a", "1"); print("open"'),
        world.location,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as writer:
        assert writer.stdout.readline() == "open\n"
        writer.kill()
    assert (home / "memory.db-wal").stat().st_size > 0
    assert world.open(read_only=True).get_setting("a") == "1"


def test_a_database_locked_by_another_program(world, home, monkeypatch):
    monkeypatch.setattr(_sqlite_database, "BUSY_TIMEOUT_SECONDS", 0.05)
    store, _ = filled(world)
    other = sqlite3.connect(home / "memory.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLocked, match="another program"):
        store.add_turns([new_turn("x")])
    other.execute("ROLLBACK")
    other.close()
    assert store.add_turns([new_turn("x")])[0].turn == 7


def test_readers_beside_a_writer_see_whole_turns_in_order(world):
    store = world.open()
    store.add_turns([new_turn("start")])
    script = """
import sys
from memarch.dialogue.stores import open_store
store, seen = open_store(sys.argv[1], user="ada", read_only=True), 0
while seen < 200:
    turns = [turn.turn for turn in store.turns()]
    chunks = list(store.chunks())
    assert turns == list(range(1, len(turns) + 1)) and len(turns) >= seen and len(chunks) >= 2 * seen - 1
    seen = len(turns)
print(seen)
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen([sys.executable, "-c", script, world.location], env=ENVIRONMENT, **pipes) for _ in "ab"]
    for i in range(199):
        text = f"turn {i}"
        store.add_turns([new_turn(text, spans=((0, 3), (3, len(text))))])
    for reader in readers:
        out, error = reader.communicate()
        assert (reader.returncode, out) == (0, "200\n"), error


def test_a_file_where_a_directory_is_expected(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnavailable, match="choose a directory"):
        open_store(tmp_path / "file", user="ada")
    with pytest.raises(StoreUnavailable, match="no memory"):
        open_store(tmp_path / "nothing", user="ada", read_only=True)
    assert users(tmp_path / "nothing") == [] and not (tmp_path / "nothing").exists()


def test_a_database_that_may_not_be_written(world):
    store, vectors = filled(world)
    store._db.connection.execute("PRAGMA query_only = ON")  # root may write to any file, so the test asks SQLite
    for write in (
        lambda: store.add_turns([new_turn("x")]),
        lambda: store.erase([1], selector={}),
        lambda: store.put_vectors(numbers(1), unit(1)),
    ):
        with pytest.raises(StoreUnavailable, match="read_only=True"):
            write()
    store._db.connection.execute("PRAGMA query_only = OFF")
    assert len(list(store.turns())) == 6 and store.nearest(vectors[0], 1)[0].tolist() == [1] and store.verify() == []


def test_read_only_media_are_read_without_a_file_beside(world, home, monkeypatch):
    filled(world)[0].close()
    opened, plain = [], _sqlite_database._open

    def cannot_make_files(uri, *rest):
        opened.append(uri)
        if "immutable" not in uri:
            raise sqlite3.OperationalError("unable to open database file")
        return plain(uri, *rest)

    monkeypatch.setattr(_sqlite_database, "_open", cannot_make_files)
    assert len(list(world.open(read_only=True).turns())) == 6 and "immutable=1" in opened[-1]


FULL_DISK = """
import resource, signal, sys
import numpy as np
from memarch.dialogue.errors import StoreUnavailable
from memarch.dialogue.records import NewTurn, utc_now
from memarch.dialogue.stores import open_store

store = open_store(sys.argv[1], user="ada")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
done = 0
try:
    while True:
        text = f"turn {done} " + "x" * 20_000
        store.add_turns([NewTurn("s", "user", text, utc_now(), text[:10], ((0, len(text)),))])
        done += 1
except StoreUnavailable as error:
    assert "nothing was changed" in str(error), error
assert len(list(store.turns())) == done + 6
try:
    store.erase([1], selector={})
    print("erased", end=" ")
except StoreUnavailable:
    print("refused", end=" ")
print(done)
store.close()
"""


def test_a_full_disk_loses_nothing(world):
    filled(world)[0].close()
    command = [sys.executable, "-c", FULL_DISK, world.location]
    ended = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    erasure, done = ended.stdout.split()
    store = world.open()
    texts = [turn.text[:10] for turn in store.turns()]
    assert int(done) > 5 and len(texts) in (int(done) + 5, int(done) + 6) and store.verify() == []
    assert erasure == "refused" or texts[0] == "b"
    assert store.add_turns([new_turn("there is room again")])[0].turn == int(done) + 7
