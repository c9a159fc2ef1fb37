"""Milvus as a vector index, on Milvus Lite: the same client that a cluster is reached by."""

import subprocess
import sys

import numpy as np
import pytest

from memarch.dialogue.errors import StoreUnavailable
from memarch.dialogue.stores import milvus
from memarch.dialogue.stores.milvus import MilvusIndex

from ._stores import DIM, MilvusWorld, filled, new_turn, numbers, unit


@pytest.fixture
def open_index(tmp_path):
    opened = []

    def open_(user="ada", *, model="model-a", dim=DIM):
        opened.append(MilvusIndex(str(tmp_path / "index.db"), user=user, dim=dim, model=model))
        return opened[-1]

    yield open_
    for index in opened:
        index.close()


def files_with(directory, needle):
    return [path for path in directory.rglob("*") if path.is_file() and needle in path.read_bytes()]


def test_a_small_memory_beside_a_large_one_is_found_in_full(open_index):
    large, small = open_index("ada"), open_index("bob")
    theirs, query = unit(10_000), unit(1, seed=2)[0]
    large.add(np.arange(10_000), theirs)
    mine = -theirs[:10]  # the farthest from what ada has most of
    small.add(np.arange(10), mine)
    for _ in range(2):  # once from memory, once from segments
        chunks, cosines = small.search(query, 50)
        order = np.argsort(-(mine @ query))
        assert chunks.tolist() == order.tolist()
        np.testing.assert_allclose(cosines, (mine @ query)[order], atol=1e-6)
        assert large.search(query, 10)[0].tolist() == np.argsort(-(theirs @ query))[:10].tolist()
        large.flush(1)
        small.flush(1)
    assert small.ids().tolist() == list(range(10)) and small.count() == 10
    assert large.count() == 10_000


def test_adding_replaces_and_removing_ignores_unknown_numbers(open_index):
    index, vectors = open_index(), unit(3)
    index.add(numbers(7, 3), vectors[:2])
    index.flush(1)
    index.add(numbers(3, 9), vectors[[2, 1]])
    assert index.ids().tolist() == [3, 7, 9]
    chunks, cosines = index.search(vectors[2], 1)
    assert chunks.tolist() == [3] and cosines[0] == pytest.approx(1, abs=1e-6)
    index.remove(numbers(3, 4444))
    assert index.ids().tolist() == [7, 9]
    assert index.search(vectors[2], 5)[0].tolist() != [3]
    with pytest.raises(ValueError, match=r"\[2, 13\]"):
        index.add(numbers(1, 2), vectors)
    for query, k in ((vectors[0][:5], 1), (vectors[0], 0)):
        with pytest.raises(ValueError):
            index.search(query, k)


def test_more_hits_than_milvus_returns_at_once(open_index, monkeypatch):
    index, vectors = open_index(), unit(31)
    index.add(np.arange(31), vectors)
    expected = index.search(vectors[4], 29)
    monkeypatch.setattr(milvus, "MAX_HITS", 5)
    chunks, cosines = index.search(vectors[4], 29)
    assert chunks.tolist() == expected[0].tolist()
    np.testing.assert_allclose(cosines, expected[1], atol=1e-6)


def test_a_stale_or_emptied_index_shows_on_open(open_index):
    index = open_index()
    assert index.generation() is None
    index.add(numbers(1, 2), unit(2))
    index.flush(7)
    index.close()
    index.close()
    index = open_index()
    assert index.generation() == 7 and index.count() == 2
    index._client.drop_collection(f"memarch_{DIM}")
    index.close()
    index = open_index()
    assert index.generation() is None and index.count() == 0


@pytest.mark.parametrize("dim", [DIM, 5])
def test_vectors_of_a_former_model_go_when_another_opens(open_index, dim):
    index, other = open_index("ada"), open_index("bob")
    for each in (index, other):
        each.add(numbers(1, 2), unit(2))
        each.flush(3)
    index = open_index("ada", model="model-b", dim=dim)
    assert index.generation() is None and index.count() == 0
    back = open_index("ada")
    assert back.generation() is None and back.count() == 0
    assert open_index("bob").generation() == 3 and other.count() == 2


def test_erased_vectors_and_names_are_in_no_file(open_index, tmp_path):
    name = "a user nobody else is named"
    index, other, vectors = open_index(name), open_index("bob"), unit(40)
    index.add(np.arange(20), vectors[:20])
    other.add(np.arange(20), vectors[20:])
    index.flush(1)
    other.flush(1)
    index.remove(numbers(3))
    index.flush(2)
    gone, kept, theirs = (vector.tobytes() for vector in vectors[[3, 4, 24]])
    assert files_with(tmp_path, gone), "the engine forgot by itself: this test would show nothing"
    assert index.erase() == (f"memarch_{DIM}",)
    assert not files_with(tmp_path, gone)
    assert files_with(tmp_path, kept) and files_with(tmp_path, theirs)
    assert index.ids().tolist() == [chunk for chunk in range(20) if chunk != 3]
    assert index.generation() == 2 and other.count() == 20
    index.erase_user()
    index.erase()
    assert index.count() == 0 and index.generation() is None
    assert not files_with(tmp_path, kept) and files_with(tmp_path, theirs)
    assert not files_with(tmp_path, name.encode())


@pytest.mark.parametrize("step", ["upsert", "drop_collection", "rename_collection"])
def test_a_rewriting_that_is_cut_off_loses_nothing(open_index, monkeypatch, step):
    index = open_index()
    index.add(numbers(1, 2, 3), unit(3))
    index.flush(5)

    def cut_off(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index._client, step, cut_off)
        with pytest.raises(KeyboardInterrupt):
            index.erase()
    index.close()
    index = open_index()
    assert index.ids().tolist() == [1, 2, 3] and index.generation() == 5
    assert index._client.list_collections() == [f"memarch_{DIM}"]


def test_a_missing_package_says_which_extra_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(StoreUnavailable, match=r"pip install 'memarch\[milvus\]'"):
        MilvusIndex(str(tmp_path / "index.db"), user="ada", dim=DIM, model="m")


def test_a_server_that_is_away_says_so():
    with pytest.raises(StoreUnavailable, match="127.0.0.1:9.*server runs.*records are unharmed") as caught:
        MilvusIndex("http://root:hunter2@127.0.0.1:9", user="ada", dim=DIM, model="m")
    assert "hunter2" not in str(caught.value)


def test_a_uri_of_another_form_is_refused():
    with pytest.raises(ValueError, match="ending in .db, got 'index.faiss'"):
        MilvusIndex("index.faiss", user="ada", dim=DIM, model="m")
    with pytest.raises(ValueError, match="dim of at least 2, got 1"):
        MilvusIndex("http://127.0.0.1:9", user="ada", dim=1, model="m")


def test_an_engine_that_stops_is_reported_and_found_again(open_index, tmp_path):
    from milvus_lite.server_manager import server_manager_instance

    index, vectors = open_index(), unit(2)
    index.add(numbers(1, 2), vectors)
    server_manager_instance.release_server(str(tmp_path / "index.db"))
    for call in (lambda: index.search(vectors[0], 1), lambda: index.add(numbers(3), vectors[:1]), index.ids):
        with pytest.raises(StoreUnavailable, match="did not do as asked"):
            call()
    assert open_index().ids().tolist() == [1, 2]


@pytest.fixture
def world(tmp_path):
    made = MilvusWorld(tmp_path)
    yield made
    made.close()


def test_a_store_goes_on_when_milvus_does_not_and_fills_it_later(world):
    from milvus_lite.server_manager import server_manager_instance

    store, vectors = filled(world)
    assert store.nearest(vectors[2], 1)[0].tolist() == [3]
    server_manager_instance.release_server(str(world.directory / "vectors.db"))
    store.add_turns([new_turn("while it was away")])
    store.put_vectors(numbers(7), unit(1, seed=7))
    store.archive(numbers(1), 7)
    assert store.last_turn() == 7 and store.get_vectors(numbers(7))[0].tolist() == [7]
    assert store.nearest(unit(1, seed=7)[0], 1)[0].tolist() == [7]  # Milvus Lite starts again when it is asked
    assert sorted(store.nearest(vectors[0], 9)[0].tolist()) == [2, 3, 4, 5, 6, 7] and store.verify() == []


def test_a_collection_that_was_emptied_is_filled_again(world):
    store, vectors = filled(world)
    store.nearest(vectors[2], 1)
    store.close()
    index = MilvusIndex(str(world.directory / "vectors.db"), user="ada", dim=DIM, model="model-a")
    assert index.count() == 6
    index._client.drop_collection(f"memarch_{DIM}")
    index.close()
    store = world.open()
    assert sorted(store.nearest(vectors[2], 9)[0].tolist()) == [1, 2, 3, 4, 5, 6]


def test_a_kill_after_replacing_a_vector_leaves_none_that_is_stale(world, monkeypatch):
    store, vectors = filled(world)
    store.nearest(vectors[0], 1)
    store.flush()
    new = unit(1, seed=5)
    with monkeypatch.context() as patch:
        patch.setattr(MilvusIndex, "add", lambda self, chunks, vectors: None)
        store.put_vectors(numbers(2), new)
        patch.setattr(MilvusIndex, "flush", lambda self, generation: None)
        store.close()
    store = world.open()
    chunks, cosines = store.nearest(new[0], 1)
    assert chunks.tolist() == [2] and cosines[0] == pytest.approx(1, abs=1e-5)


def test_a_second_process_is_told_that_milvus_lite_is_in_use(open_index, tmp_path):
    open_index()
    code = (
        "from memarch.dialogue.stores.milvus import MilvusIndex\n"
        f"MilvusIndex({str(tmp_path / 'index.db')!r}, user='bob', dim={DIM}, model='m')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "StoreUnavailable" in ended.stderr and "one process at a time" in ended.stderr


@pytest.fixture
def served(tmp_path):
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, db, port = start_server_in_thread(data_dir=str(tmp_path / "served"), host="127.0.0.1", port=0)
    yield f"http://127.0.0.1:{port}"
    server.stop(grace=0)
    db.close()


@pytest.mark.parametrize("lite", [True, False], ids=["rewritten", "compacted"])
def test_a_server_by_its_address(served, tmp_path, lite):
    """The second as if the server were no Milvus Lite: it then is asked to compact, and decides itself."""
    index, vectors = MilvusIndex(served, user="ada", dim=DIM, model="model-a"), unit(3)
    index._connection.lite = lite
    index.add(numbers(1, 2, 3), vectors)
    index.flush(4)
    index.remove(numbers(2))
    assert index.erase() == (f"memarch_{DIM}",)
    if lite:
        assert files_with(tmp_path, vectors[0].tobytes()) and not files_with(tmp_path, vectors[1].tobytes())
    assert index.ids().tolist() == [1, 3] and index.generation() == 4
    index.close()
    again = MilvusIndex(served, user="ada", dim=DIM, model="model-a")
    assert again.search(vectors[2], 1)[0].tolist() == [3]
    again.close()


def test_a_compaction_that_takes_too_long_says_what_is_done(open_index, monkeypatch):
    index = open_index()
    index._connection.lite = False
    monkeypatch.setattr(index._client, "get_compaction_state", lambda job, timeout: "Executing")
    monkeypatch.setattr(milvus, "COMPACTION_SECONDS", 0.3)
    with pytest.raises(StoreUnavailable, match="out of every search"):
        index.erase()
