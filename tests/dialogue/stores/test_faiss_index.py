"""FAISS as a cache: right answers, a file that is exactly current or not used, and no crash on a bad one."""

import os
import subprocess
import sys

import faiss
import numpy as np
import pytest

from memarch.dialogue.errors import StoreUnavailable
from memarch.dialogue.stores.faiss_index import FaissIndex, erase_file, temporary

from ._stores import numbers, unit

DIM, COUNT = 13, 101


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectors.faiss"


def saved(path, generation=7):
    index = FaissIndex(DIM, model="m", path=path)
    index.add(np.arange(1, COUNT + 1), unit(COUNT))
    index.flush(generation)
    return index


def load(path, **changes):
    return FaissIndex.load(path, **{"dim": DIM, "model": "m", "generation": 7, "count": COUNT, **changes})


def test_search_is_exact_and_best_first():
    vectors, query = unit(COUNT), unit(1, seed=3)[0]
    index = FaissIndex(DIM)
    assert [len(part) for part in index.search(query, 5)] == [0, 0]
    index.add(np.arange(COUNT) * 10, vectors)
    for k in (1, 7, COUNT, 1000):
        chunks, cosines = index.search(query, k)
        order = np.argsort(-(vectors @ query))[:k]
        assert chunks.tolist() == (order * 10).tolist() and chunks.dtype == np.int64
        np.testing.assert_allclose(cosines, (vectors @ query)[order], atol=1e-6)
    assert index.search(np.eye(DIM, dtype=np.float32)[0], 1)[1][0] == pytest.approx(vectors[:, 0].max())


def test_a_search_takes_one_thread_and_leaves_the_others_as_they_were(monkeypatch):
    index, seen = FaissIndex(DIM), []
    index.add(np.arange(COUNT), unit(COUNT))

    class Watched:
        def search(self, query, k):
            seen.append(faiss.omp_get_max_threads())
            raise RuntimeError("no")

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        monkeypatch.setattr(index, "_index", Watched())
        with pytest.raises(RuntimeError, match="no"):
            index.search(unit(1)[0], 2)
        assert seen == [1] and faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_adding_replaces_and_removing_ignores_unknown():
    index = FaissIndex(DIM)
    index.add(numbers(5, 3), unit(2))
    index.add(numbers(4, 3), unit(2, seed=1))
    index.remove(numbers(5, 99))
    assert index.ids().tolist() == [3, 4]
    chunks, cosines = index.search(unit(2, seed=1)[1], 5)
    assert chunks.tolist()[0] == 3 and len(chunks) == 2 and cosines[0] == pytest.approx(1)
    index.remove(numbers())
    index.add(numbers(), unit(0))
    index.remove(numbers(3, 4))
    assert len(index.search(unit(1)[0], 3)[0]) == len(index.ids()) == 0


def test_bad_arguments():
    index = FaissIndex(DIM)
    for chunks, vectors in (
        (numbers(1), unit(2)),
        (numbers(1), unit(1) * 3),
        (numbers(1, 1), unit(2)),
        ([0.5], unit(1)),
    ):
        with pytest.raises(ValueError):
            index.add(chunks, vectors)
    for query, k in ((unit(1, dim=5)[0], 1), (unit(1), 1), (unit(1)[0], 0), (np.full(DIM, np.inf, np.float32), 2)):
        with pytest.raises(ValueError):
            index.search(query, k)
    assert len(index.ids()) == 0


def test_a_saved_index_answers_the_same_and_faiss_itself_can_read_it(path):
    index, query = saved(path), unit(1, seed=5)[0]
    again = load(path)
    assert again is not None and again.ids().tolist() == index.ids().tolist()
    for mine, other in zip(again.search(query, 9), index.search(query, 9), strict=True):
        assert np.array_equal(mine, other)
    again.add(numbers(500), unit(1, seed=6))
    again.remove(numbers(1))
    again.flush(8)
    assert load(path) is None and load(path, generation=8).ids().tolist() == [*range(2, COUNT + 1), 500]
    assert faiss.read_index(str(path)).ntotal == COUNT and not temporary(path).exists()


@pytest.mark.parametrize("changes", [{"dim": 12}, {"model": "n"}, {"generation": 8}, {"count": COUNT + 1}])
def test_a_file_that_is_not_exactly_current_is_not_used(path, changes):
    saved(path)
    assert load(path) is not None and load(path, **changes) is None


def test_a_damaged_file_is_not_used_and_does_no_harm(path):
    assert load(path) is None and FaissIndex.file_problem(path) is None
    saved(path)
    whole = path.read_bytes()
    assert FaissIndex.file_problem(path) is None
    chance = np.random.default_rng(0)
    damaged = [
        b"",
        b"x",
        whole[:-1],
        whole[:100],
        whole[100:],
        whole + b"\0",
        b"\0" * len(whole),
        whole[:-8] + b"x" * 8,
    ]
    damaged += [whole[:-16] + length.to_bytes(8, "little") + whole[-8:] for length in (0, 3, 10**6, 2**63)]
    for position in chance.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(chance.integers(8))
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        # A flipped bit in the footer may name another model; it is then whole, but not ours.
        assert load(path) is None, data[-300:]
    path.write_bytes(whole[:-1])
    assert "footer" in FaissIndex.file_problem(path)
    path.write_bytes(b"\xff" + whole[1:])
    assert "checksum" in FaissIndex.file_problem(path)
    path.unlink()
    path.mkdir()
    assert load(path) is None and FaissIndex.file_problem(path)


def test_an_unchanged_index_is_not_written_again(path):
    index = saved(path)
    before = path.stat().st_ino
    index.flush(7)
    load(path).flush(7)
    assert path.stat().st_ino == before
    index.flush(8)
    assert path.stat().st_ino != before and load(path, generation=8) is not None


def test_removed_vectors_are_in_no_file_after_erase(path):
    index, vectors = saved(path), unit(COUNT)
    assert vectors[4].tobytes() in path.read_bytes()
    temporary(path).write_bytes(vectors[4].tobytes())
    index.remove(numbers(5))
    assert sorted(index.erase()) == sorted([path.name, temporary(path).name]) and list(path.parent.iterdir()) == []
    index.flush(9)
    data = path.read_bytes()
    assert vectors[4].tobytes() not in data and vectors[5].tobytes() in data
    assert index.erase() == (path.name,) and index.erase() == () == erase_file(path)


def test_an_empty_index_has_no_file(path):
    index = saved(path)
    index.remove(index.ids())
    index.flush(8)
    assert not path.exists()
    FaissIndex(DIM).flush(3)  # in memory only


def test_an_index_that_cannot_be_written_leaves_the_old_file(path):
    index = saved(path)
    before = path.read_bytes()
    index.add(numbers(900), unit(1, seed=8))
    temporary(path).mkdir()
    with pytest.raises(StoreUnavailable, match=r"vectors\.faiss could not be saved .* the records are safe"):
        index.flush(8)
    assert path.read_bytes() == before
    temporary(path).rmdir()
    index.flush(8)
    assert load(path, generation=8, count=COUNT + 1) is not None


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from memarch.dialogue.errors import StoreUnavailable
from memarch.dialogue.stores.faiss_index import FaissIndex

path = Path(sys.argv[1])
index = FaissIndex.load(path, dim=13, model="m", generation=7, count=101)
vectors = np.eye(13, dtype=np.float32)[np.arange(50_000) % 13]
index.add(np.arange(1000, 51_000), vectors)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
try:
    index.flush(8)
except StoreUnavailable as error:
    print("refused:", error)
print(len(index.search(vectors[0], 3)[0]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_leaves_the_old_file(path):
    saved(path)
    before = path.read_bytes()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: ") and "make room" in done.stdout and done.stdout.endswith("\n3\n")
    assert path.read_bytes() == before and not temporary(path).exists()


def test_without_faiss_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(StoreUnavailable, match=r"memarch\[chat\]"):
        FaissIndex(DIM)


def test_eight_bits_a_number_take_a_quarter_and_find_nearly_the_same(tmp_path):
    vectors, query = unit(5000, dim=64), unit(1, seed=3, dim=64)[0]
    sizes, found = {}, {}
    for kind, sample in (("Flat", None), ("SQ8", vectors[::10])):
        path = tmp_path / kind
        index = FaissIndex(64, model="m", path=path, sample=sample)
        assert index.kind == kind
        index.add(np.arange(5000), vectors)
        index.remove(numbers(17, 18))
        index.add(numbers(18), vectors[18:19])
        index.flush(7)
        sizes[kind], found[kind] = path.stat().st_size, index.search(query, 20)
        like_it = {"dim": 64, "model": "m", "generation": 7, "count": 4999}
        assert FaissIndex.load(path, **like_it, kinds=("other",)) is None
        again = FaissIndex.load(path, **like_it, kinds=("other", kind))
        assert again.kind == kind and len(again) == 4999 and 17 not in again.ids()
        assert again.search(query, 20)[0].tolist() == found[kind][0].tolist()
    assert sizes["SQ8"] < 0.35 * sizes["Flat"]  # numbers of chunks are in both
    assert len(set(found["SQ8"][0].tolist()) & set(found["Flat"][0].tolist())) >= 18
    np.testing.assert_allclose(found["SQ8"][1], found["Flat"][1], atol=0.02)
