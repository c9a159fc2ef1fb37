"""The word index that a memory keeps for the next process: used, current, never a place where erased words live on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from memarch.dialogue import _memory_core
from memarch.dialogue import memory as memory_module
from memarch.dialogue._memory_core import WORDS
from memarch.dialogue.errors import StoreUnavailable
from memarch.dialogue.memory import DialogueMemory
from memarch.dialogue.ranking import Ranker
from memarch.dialogue.stores.sqlite import SQLiteStore

from ._fakes import FakeEmbedder

TOPICS = ("dog", "car", "sea", "boat", "oven", "lamp")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_memory_core, memory_module):
        monkeypatch.setattr(module, "SAVE_WORDS_EVERY", 10)


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of the chunks of which words are taken from the text."""
    seen: list[int] = []
    add = Ranker.add

    def watched(ranker: Ranker, chunk: object) -> None:
        seen.append(chunk.chunk)  # type: ignore[attr-defined]
        add(ranker, chunk)  # type: ignore[arg-type]

    monkeypatch.setattr(Ranker, "add", watched)
    yield seen


def open_it(directory: Path, *, read_only: bool = False) -> DialogueMemory:
    return DialogueMemory(directory, user="ada", embedder="none", read_only=read_only)


def fill(memory: DialogueMemory, first: int = 1, count: int = 24) -> None:
    for number in range(first, first + count):
        memory.add("Bo" if number % 3 else "Ada", f"I saw the {TOPICS[number % 6]} {number}", session=f"s{number % 4}")


def answers(memory: DialogueMemory) -> list[tuple[int, float]]:
    queries = ("dog", "What did Bo see?", "boat 9", "I was at sea")
    return [(hit.turn, round(hit.score, 5)) for query in queries for hit in memory.search(query, 50)]


def test_the_next_process_reads_it_instead_of_the_texts(tmp_path: Path, indexed: list[int]) -> None:
    with open_it(tmp_path) as memory:
        fill(memory)
        expected = answers(memory)
    del indexed[:]
    for read_only in (False, True):
        with open_it(tmp_path, read_only=read_only) as memory:
            assert answers(memory) == expected and indexed == []
    with open_it(tmp_path) as memory:
        fill(memory, 25, 3)
        memory.forget(turn=4)
        expected = answers(memory)
        assert indexed == [25, 26, 27] and 4 not in [turn for turn, _ in expected]
        kept = memory.store.get_cache(WORDS)
    del indexed[:]
    with open_it(tmp_path) as memory:
        assert answers(memory) == expected and indexed == [25, 26, 27]  # too few to keep it again
        memory.restore()
        fill(memory, 28, 10)
        expected = answers(memory)
        assert memory.store.get_cache(WORDS) != kept and 4 in [turn for turn, _ in expected]
    del indexed[:]
    with open_it(tmp_path) as memory:
        assert answers(memory) == expected and indexed == []


def test_embedding_many_keeps_it_too(tmp_path: Path, indexed: list[int]) -> None:
    with DialogueMemory(tmp_path, user="ada", embedder=FakeEmbedder()) as memory:
        fill(memory)
        assert memory.index() == 24 and memory.store.get_cache(WORDS) is not None
        fill(memory, 25, 3)
        del indexed[:]
        assert memory.index() == 3 and indexed == []
    with open_it(tmp_path / "words alone") as memory:
        fill(memory)
        assert memory.index() == 0 and memory.store.get_cache(WORDS) is not None


def test_a_small_memory_keeps_none(tmp_path: Path) -> None:
    with open_it(tmp_path) as memory:
        fill(memory, count=9)
        memory.search("dog")
        assert memory.store.get_cache(WORDS) is None


@pytest.mark.parametrize("reopened", [False, True])
def test_erased_words_are_in_no_file_and_the_rest_is_kept_again(
    tmp_path: Path, indexed: list[int], reopened: bool
) -> None:
    memory = open_it(tmp_path)
    fill(memory)
    memory.add("Quentin", "The zeppelin is purple", session="hangar")
    assert memory.search("zeppelin")[0].turn == 25
    memory.store.put_cache(WORDS, memory._ranker.dump())
    words = (b"zeppelin", b"purpl", b"Quentin", b"hangar")
    assert all(files_with(tmp_path, word) for word in words)
    if reopened:
        memory.close()
        memory = open_it(tmp_path)
    memory.erase(turn=25)
    for _ in range(2):
        assert not any(files_with(tmp_path, word) for word in words)
        assert memory.search("zeppelin") == [] and memory.search("dog")
        memory.flush()
    memory.close()
    assert not any(files_with(tmp_path, word) for word in words)
    del indexed[:]
    with open_it(tmp_path) as memory:
        assert len(memory.search("dog", 50)) > 3 and indexed == []


def test_erasing_the_user_takes_it_along(tmp_path: Path) -> None:
    with open_it(tmp_path) as memory:
        fill(memory)
        memory.search("dog")
        assert files_with(tmp_path, b"oven")
        memory.erase(user="ada")
    assert not files_with(tmp_path, b"oven")


def test_one_that_is_damaged_or_of_other_chunks_is_made_anew(tmp_path: Path, indexed: list[int]) -> None:
    with open_it(tmp_path) as memory:
        fill(memory)
        expected, kept = answers(memory), memory.store.get_cache(WORDS)
        assert kept is not None
    other = Ranker()
    with open_it(tmp_path / "other") as memory:
        fill(memory, count=30)
        other = memory._ranker
        memory.search("dog")
    for bad in (b"", b"rubbish", kept[: len(kept) // 2], kept[:200] + b"??" + kept[202:], other.dump()):
        with open_it(tmp_path) as memory:
            memory.store.put_cache(WORDS, bad)
            del indexed[:]
            assert answers(memory) == expected and indexed == list(range(1, 25))
            assert memory.store.get_cache(WORDS) not in (None, bad)


def test_a_full_disk_does_not_stop_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(store: SQLiteStore, name: str, data: bytes) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(SQLiteStore, "put_cache", full)
    with open_it(tmp_path) as memory:
        fill(memory)
        assert memory.search("dog") and "the word index was not kept: the disk is full" in caplog.text


def files_with(directory: Path, needle: bytes) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file() and needle in path.read_bytes()]
