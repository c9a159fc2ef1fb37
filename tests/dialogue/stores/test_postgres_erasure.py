"""Erasure in PostgreSQL: other sessions, statistics, rights, and what is left when it cannot be finished."""

import pytest

from memarch.dialogue.errors import MigrationError, StoreUnavailable
from memarch.dialogue.stores import _postgres_connection
from memarch.dialogue.stores.postgres import PostgresStore

from . import _postgres_server as server
from ._stores import PostgresWorld, filled, new_turn


@pytest.fixture
def world(tmp_path):
    made = PostgresWorld(tmp_path)
    yield made
    made.close()


@pytest.fixture
def admin(world):
    with server.connect(world.database) as connection:
        connection.execute("SET search_path TO memarch, public")
        yield connection


def texts(store):
    return [turn.text for turn in store.turns()]


def test_an_older_transaction_delays_an_erasure_and_the_next_open_ends_it(world, admin, monkeypatch):
    monkeypatch.setattr(_postgres_connection, "SCRUB_SECONDS", 0.2)
    store, vectors = filled(world)
    store.add_turns([new_turn("the secret word", source_id="secret")])
    with server.connect(world.database) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1 FROM pg_class LIMIT 1").fetchall()
        with pytest.raises(StoreUnavailable, match="older transaction on this server may still read 2 deleted rows"):
            store.erase([2, 7], selector={})
        assert 2 not in store.nearest(vectors[1], 9)[0] and store.find_turns(source_id="secret") == []
        assert [problem.kind for problem in store.verify()] == ["pending-erasure"]
        assert world.files_with(b"the secret word")
        store.close()
        store = world.open()  # the door is open all the same
        assert texts(store) == list("acdef")
        with pytest.raises(StoreUnavailable, match="older transaction"):
            store.erase([3], selector={})
        store.close()
    store = world.open()
    assert world.files_with(b"the secret word") == world.files_with(vectors[1].tobytes()) == []
    assert [receipt.turns for receipt in store.receipts()] == [(2, 7), (3,)] and store.verify() == []
    assert all(receipt.files_rewritten[0].startswith("turns_") for receipt in store.receipts())


def test_an_erased_user_whose_bytes_could_not_go_yet(world, monkeypatch):
    store, vectors = filled(world)
    store.add_turns([new_turn("the secret word")])

    def fail(self, tables, owner):
        raise StoreUnavailable("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(_postgres_connection.PostgresConnection, "rewrite", fail)
        with pytest.raises(StoreUnavailable, match="power cut"):
            store.erase_user()
        store.close()
        assert world.users() == [] and world.files_with(b"the secret word")
        store = world.open()
        assert texts(store) == [] and store.last_turn() == 0 and store.add_turns([new_turn("anew")])[0].turn == 1
        assert [problem.kind for problem in store.verify()] == ["pending-erasure"]
    store.repair()
    assert world.files_with(b"the secret word") == world.files_with(vectors[1].tobytes()) == []
    assert texts(store) == ["anew"] and store.verify() == [] and world.users() == ["ada"]


def test_erasing_a_user_takes_the_name_out_of_the_files(world):
    store = world.open("a name that nobody else has")
    store.add_turns([new_turn("a")])
    assert world.files_with(b"a name that nobody else has")
    store.erase_user()
    assert world.files_with(b"a name that nobody else has") == []


def test_the_planner_samples_nothing_that_an_erasure_would_miss(world, admin):
    store, vectors = filled(world)
    store.add_turns(
        [new_turn(f"secret {i % 3}", source_id=f"secret id {i}", session="secret session") for i in range(50)]
    )
    store.put_setting("secret name", "secret value")
    admin.execute("ANALYZE")
    store.erase(range(1, 57), selector={})
    store.put_setting("secret name", None)
    columns = admin.execute("SELECT tablename, attname FROM pg_stats WHERE schemaname = 'memarch'").fetchall()
    assert ("chunks", "ordinal") in columns  # it did sample
    holding = {"text", "source_id", "session", "role", "sha256", "vector", "name", "value", "body"}
    assert not holding & {column for table, column in columns if table != "models"}
    assert all(
        b"secret" not in path.read_bytes() for path in server.table_files(world.database) if "secret" in path.name
    )


def test_an_erasure_rewrites_this_users_part_only(world):
    stores = [world.open(f"user {i}") for i in range(12)]
    for store in stores:
        store.add_turns([new_turn("a"), new_turn("b")])
    written = {store.erase([1], selector={}).files_rewritten for store in stores}
    assert len(written) > 3 and all(len(files) == 4 for files in written)
    assert all(texts(store) == ["b"] for store in stores)


def test_a_role_that_may_not_rewrite_says_so(world, admin):
    world.open().close()
    admin.execute("DROP ROLE IF EXISTS guest")
    admin.execute("CREATE ROLE guest LOGIN")
    admin.execute("GRANT USAGE ON SCHEMA memarch TO guest")
    admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA memarch TO guest")
    guest = world.location.replace("postgres:@", "guest:@")
    assert guest != world.location
    with pytest.raises(MigrationError, match="needs CREATE on the database"):
        PostgresStore(guest, user="ada", schema="elsewhere")
    store = PostgresStore(guest, user="ada")
    with pytest.raises(StoreUnavailable, match="role that may write"):
        store.add_turns([new_turn("a")])
    admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA memarch TO guest")
    admin.execute("REVOKE MAINTAIN ON ALL TABLES IN SCHEMA memarch FROM guest")
    store.add_turns([new_turn("a")])
    with pytest.raises(StoreUnavailable, match="permission denied to vacuum"):
        store.erase([1], selector={})
    assert texts(store) == [] and [problem.kind for problem in store.verify()] == ["pending-erasure"]
    store.close()
    admin.execute("DROP OWNED BY guest")
    admin.execute("DROP ROLE guest")
