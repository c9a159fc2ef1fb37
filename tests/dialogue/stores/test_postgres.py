"""What only PostgreSQL has: a server that dies and comes back, rights, partitions, statistics, other sessions."""

import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest

from memarch.dialogue.errors import MigrationError, StoreLocked, StoreUnavailable
from memarch.dialogue.stores import _postgres_connection, _postgres_schema, open_store
from memarch.dialogue.stores.milvus import MilvusIndex
from memarch.dialogue.stores.postgres import PostgresStore, users

from . import _postgres_server as server
from ._stores import DIM, PostgresWorld, filled, new_turn, numbers, unit


@pytest.fixture
def world(tmp_path):
    made = PostgresWorld(tmp_path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nobody's lock lingers here."""
    monkeypatch.setattr(_postgres_connection, "LINGER_SECONDS", 0.2)


@pytest.fixture
def admin(world):
    with server.connect(world.database) as connection:
        connection.execute("SET search_path TO memarch, public")
        yield connection


def backend(store):
    return store._db._connection.info.backend_pid


def texts(store):
    return [turn.text for turn in store.turns()]


def test_ten_turns_beside_ten_thousand_are_all_found(world):
    large, small = world.open("ada"), world.open("bob")
    theirs, mine = unit(10_000), -unit(10_000)[:10]
    for store, vectors in ((large, theirs), (small, mine)):
        store.add_turns([new_turn(f"turn {i}") for i in range(len(vectors))])
        store.use_embedder("model-a", DIM)
        store.put_vectors(np.arange(1, len(vectors) + 1), vectors)
    query = unit(1, seed=3)[0]
    chunks, cosines = small.nearest(query, 50)
    order = np.argsort(-(mine @ query))
    assert chunks.tolist() == (order + 1).tolist()
    np.testing.assert_allclose(cosines, (mine @ query)[order], atol=1e-6)
    assert large.nearest(query, 20)[0].tolist() == (np.argsort(-(theirs @ query))[:20] + 1).tolist()


def test_a_server_killed_in_the_middle_of_a_transaction_keeps_what_it_acknowledged(world):
    store = world.open()
    store.add_turns([new_turn("acknowledged")])
    with pytest.raises(StoreUnavailable, match="What was acknowledged is stored"):
        with store._db.writing() as (connection, owner):
            connection.execute("DELETE FROM turns WHERE owner = %s", (owner,))
            connection.execute("UPDATE users SET last_turn = 99 WHERE owner = %s", (owner,))
            server.kill(connection.info.backend_pid)
    assert texts(store) == ["acknowledged"]
    assert store.add_turns([new_turn("after")])[0].turn == 2 and store.verify() == []


def test_kills_at_any_moment_lose_nothing_acknowledged(world):
    acknowledged, stopping = [], threading.Event()

    def add():
        store = None
        for name in itertools.count():
            if stopping.is_set():
                break
            try:
                store = store or world.open()
                acknowledged.append(store.add_turns([new_turn(f"turn {name}")])[0])
            except StoreUnavailable:  # also where a COMMIT was never confirmed: open again, see what is there
                store = store and store.close()
                stopping.wait(0.01)
        if store is not None:
            store.close()

    thread = threading.Thread(target=add)
    thread.start()
    try:
        for target in (5, 12, 20):
            while len(acknowledged) < target and thread.is_alive():
                thread.join(0.01)
            while thread.is_alive():
                with server.connect("postgres") as connection:
                    (pid,) = connection.execute(
                        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'",
                        (world.database,),
                    ).fetchone() or (connection.info.backend_pid,)
                try:
                    server.kill(pid)
                    break
                except ProcessLookupError:  # a connection that had just ended by itself
                    continue
    finally:
        stopping.set()
        thread.join(60)
    store = world.open()
    stored = {turn.turn: turn for turn in store.turns()}
    assert len(acknowledged) >= 20 and all(stored[turn.turn] == turn for turn in acknowledged)
    assert store.verify() == []


def test_a_server_that_is_away_says_so_and_is_found_again(world):
    store, vectors = filled(world)
    server.stop()
    try:
        for call in (store.last_turn, lambda: store.add_turns([new_turn("x")]), lambda: store.nearest(vectors[0], 1)):
            with pytest.raises(StoreUnavailable, match="check that the server runs"):
                call()
        with pytest.raises(StoreUnavailable, match="check that the server runs"):
            world.open("bob")
    finally:
        server.start()
    assert store.nearest(vectors[0], 1)[0].tolist() == [1]
    assert store.add_turns([new_turn("x")])[0].turn == 7
    with pytest.raises(StoreLocked):
        world.open()


def test_a_dropped_connection_is_opened_again_unless_another_writer_came_between(world, admin):
    store, _ = filled(world)
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (backend(store),))
    assert store.add_turns([new_turn("x")])[0].turn == 7
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (backend(store),))
    assert store.last_turn() == 7
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (backend(store),))
    other = world.open()
    other.add_turns([new_turn("between")])
    with pytest.raises(StoreLocked):
        store.last_turn()
    other.close()
    for call in (store.last_turn, lambda: store.add_turns([new_turn("y")])):
        with pytest.raises(StoreUnavailable, match="another writer came in between"):
            call()


def test_the_writer_is_named_to_others(world):
    store = world.open()
    with pytest.raises(StoreLocked, match=rf"'ada' is being written by backend {backend(store)} of memarch"):
        world.open()


def test_the_password_is_in_no_message_and_no_location(world):
    dsn = f"host={server.server().pgdata} user=postgres password=hunter2 dbname={world.database}"
    store = PostgresStore(dsn, user="ada")
    assert "hunter2" not in store.location and world.database in store.location
    store.close()
    with pytest.raises(StoreUnavailable) as caught:
        PostgresStore(dsn.replace(world.database, "nowhere"), user="ada")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("package", ["psycopg", "pgvector.psycopg"])
def test_a_missing_package_says_which_extra_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StoreUnavailable, match=r"pip install 'memarch\[postgres\]'"):
        PostgresStore("postgresql://localhost/x", user="ada")


@pytest.mark.parametrize("dsn", ["host=127.0.0.1 port=notaport", "postgresql://127.0.0.1:9/x"])
def test_a_dsn_that_leads_nowhere(dsn):
    with pytest.raises(StoreUnavailable, match="DSN"):
        PostgresStore(dsn, user="ada")


@pytest.mark.parametrize("dsn", ["hunter2", "host=x hunter2", "postgresql://x/y?hunter2=1"])
def test_a_dsn_of_another_form_is_refused_without_repeating_it(dsn):
    with pytest.raises(ValueError, match="expected a DSN like") as caught:
        PostgresStore(dsn, user="ada")
    assert "hunter2" not in str(caught.value)


def test_schemas_are_apart_and_must_be_ours(world, admin):
    world.open().add_turns([new_turn("here")])
    admin.execute('CREATE SCHEMA "odd ""name"')
    other = PostgresStore(world.location, user="ada", schema='odd "name')
    assert texts(other) == [] and other.add_turns([new_turn("there")])[0].turn == 1 and other.verify() == []
    assert users(world.location, schema='odd "name') == ["ada"]
    other.close()
    admin.execute("CREATE SCHEMA taken CREATE TABLE things (a int)")
    with pytest.raises(StoreUnavailable, match="no memory of memarch"):
        PostgresStore(world.location, user="ada", schema="taken")
    with pytest.raises(StoreUnavailable, match="version 0"):
        PostgresStore(world.location, user="ada", schema="new", read_only=True)
    with pytest.raises(ValueError, match="schema"):
        PostgresStore(world.location, user="ada", schema="")


def test_migrations_go_up_whole_or_not_at_all(world, admin, monkeypatch):
    filled(world)[0].close()
    steps = (*_postgres_schema.MIGRATIONS, ("CREATE TABLE half (a int)", "CREATE TABEL typo (a int)"))
    with monkeypatch.context() as patch:
        patch.setattr(_postgres_schema, "MIGRATIONS", steps)
        with pytest.raises(MigrationError, match="version 1 to 2"):
            world.open()
        with pytest.raises(StoreUnavailable, match="version 1, expected 2"):
            world.open(read_only=True)
    assert admin.execute("SELECT to_regclass('memarch.half')").fetchone() == (None,)
    store = world.open()
    assert texts(store) == list("abcdef") and store.verify() == []
    store.close()
    admin.execute("UPDATE schema_version SET version = 7")
    with pytest.raises(StoreUnavailable, match="upgrade memarch"):
        world.open()


def test_first_openings_at_once_make_the_tables_once(world, admin):
    admin.execute("DROP SCHEMA memarch CASCADE")
    admin.execute("DROP EXTENSION vector")
    failures = []

    def first(user):
        try:
            store = PostgresStore(world.location, user=user)
            store.add_turns([new_turn("a")])
            store.close()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=first, args=(f"user {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and world.users() == [f"user {i}" for i in range(4)]


def test_damage_is_found_and_what_is_rebuildable_is_mended(world, admin):
    store, vectors = filled(world)
    summary = store.put_summary(level=1, text="s", first_turn=1, last_turn=1, sources=[1], summarizer="test")
    admin.execute("UPDATE vectors SET vector = vector * vector WHERE chunk = 2")
    admin.execute("DELETE FROM vectors WHERE chunk = 3")
    admin.execute("UPDATE vectors SET alive = false WHERE chunk = 4")
    assert {problem.kind for problem in store.verify()} == {"vector", "embedded", "index"}
    assert all(problem.repairable for problem in store.verify())
    store.repair()
    assert store.verify() == [] and [chunk.chunk for chunk in store.without_vector()] == [2, 3]
    assert sorted(store.nearest(vectors[0], 9)[0].tolist()) == [1, 4, 5, 6]
    admin.execute("UPDATE turns SET text = 'other' WHERE turn = 1")
    admin.execute("UPDATE chunks SET stop = 0 WHERE turn = 2")
    admin.execute("UPDATE summaries SET lineage = '{}' WHERE summary = %s", (summary.summary,))
    admin.execute("INSERT INTO vectors SELECT owner, 77, model, alive, vector FROM vectors LIMIT 1")
    admin.execute("UPDATE chunks SET turn = 88 WHERE chunk = 5")
    problems = store.verify()
    assert {problem.kind for problem in problems if not problem.repairable} == {"hash", "spans", "lineage", "orphan"}
    assert any("turn 1" in problem.detail for problem in problems)


def test_a_large_user_can_have_an_index_that_only_they_use(world, admin):
    """The statements of the module's docstring."""
    store, vectors = filled(world, "abcdefghij")
    other, _ = filled(world, "xyz", user="bob")
    owner, model = admin.execute("SELECT owner, model FROM memarch.users WHERE name = 'ada'").fetchone()
    (table,) = admin.execute(
        "SELECT DISTINCT tableoid::regclass::text FROM memarch.vectors WHERE owner = %s", (owner,)
    ).fetchone()
    admin.execute(
        f"CREATE INDEX own ON memarch.{table} USING hnsw ((vector::vector({DIM})) vector_ip_ops) "
        f"WHERE owner = {owner} AND model = {model} AND alive"
    )
    for each in (store, other):
        each._db._connection.execute("SET enable_seqscan = off")
        each._db._connection.execute("SET enable_bitmapscan = off")
        each._db._connection.execute("SET enable_sort = off")
    assert store.nearest(vectors[3], 3)[0].tolist() == (np.argsort(-(vectors @ vectors[3]))[:3] + 1).tolist()
    assert len(other.nearest(vectors[3], 3)[0]) == 3
    store._db._connection.execute("SELECT pg_stat_force_next_flush()")
    store._db._connection.execute("SELECT 1")
    assert admin.execute("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'own'").fetchone() == (1,)


def test_milvus_beside_postgres(world, tmp_path):
    def open_both(*, read_only=False):
        vectors = str(tmp_path / "vectors.db")
        world.opened.append(open_store(world.location, user="ada", vectors=vectors, read_only=read_only))
        return world.opened[-1]

    store = open_both()
    store.add_turns([new_turn(text) for text in "abcd"])
    store.use_embedder("model-a", DIM)
    vectors = unit(4)
    store.put_vectors(numbers(1, 2, 3, 4), vectors)
    reader = open_both(read_only=True)
    assert reader.nearest(vectors[2], 1)[0].tolist() == [3]  # before the writer filled the index
    assert store.nearest(vectors[2], 1)[0].tolist() == [3]
    store.archive(numbers(3), 4)
    store.erase([1], selector={})
    assert store.nearest(vectors[2], 9)[0].tolist() == reader.nearest(vectors[2], 9)[0].tolist()
    assert sorted(store.nearest(vectors[2], 9)[0].tolist()) == [2, 4] and store.verify() == []
    store.close()
    store = open_both()
    index = MilvusIndex(str(tmp_path / "vectors.db"), user="ada", dim=DIM, model="model-a")
    assert index.ids().tolist() == [2, 4] and index.generation() == store._db.generation
    new = unit(1, seed=8)
    store.put_vectors(numbers(2), new)
    store.restore(numbers(3))
    assert store.nearest(new[0], 1)[0].tolist() == [2] and index.ids().tolist() == [2, 3, 4]
    index.remove(numbers(4))
    assert [problem.kind for problem in store.verify()] == ["index"]
    store.repair()
    assert store.verify() == [] and index.ids().tolist() == [2, 3, 4]
    store.erase_user()
    assert index.ids().tolist() == [] and index.generation() is None
    index.close()


def test_importing_the_stores_loads_no_client():
    code = (
        "import sys, memarch.dialogue.stores.postgres, memarch.dialogue.stores.milvus\n"
        "print([name for name in ('psycopg', 'pgvector', 'pymilvus', 'grpc') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "[]\n"
