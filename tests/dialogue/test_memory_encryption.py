"""DialogueMemory with a key: search, erase, moves between plain and encrypted directories, another key."""

import asyncio
from pathlib import Path

import pytest

from memarch.dialogue.async_memory import AsyncDialogueMemory
from memarch.dialogue.errors import WrongKey
from memarch.dialogue.memory import DialogueMemory

from ._fakes import FakeEmbedder

pytest.importorskip("sqlcipher3")

KEY, OTHER = b"k" * 32, b"o" * 32


def open_with(directory: Path, key: str | bytes | None, user: str = "ada") -> DialogueMemory:
    return DialogueMemory(directory, user=user, embedder=FakeEmbedder(), key=key)


def fill(memory: DialogueMemory) -> None:
    for place in ("Lyon", "Porto", "Ghent"):
        memory.add("user", f"Nora keeps a flowerpot in {place}")
    memory.search("flowerpot")
    memory.summary()


def holds(directory: Path, needle: bytes) -> bool:
    return any(needle in path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_everything_works_and_nothing_is_readable(tmp_path: Path) -> None:
    with open_with(tmp_path, KEY) as memory:
        fill(memory)
        assert memory.search("Where is Porto?")[0].text == "Nora keeps a flowerpot in Porto"
        assert "Nora" in memory.summary()
        assert memory.compose("Porto?").messages
        assert memory.erase(turn=2).turns == (2,) and memory.repair().ok
        assert not holds(tmp_path, b"flowerpot")
    assert not holds(tmp_path, b"flowerpot") and not holds(tmp_path, b"FAISS") and not holds(tmp_path, b"IxM2")
    with open_with(tmp_path, KEY) as memory:
        assert sorted(hit.turn for hit in memory.search("flowerpot")) == [1, 3] and memory.verify().ok
        memory.erase(user="ada")
    assert not list(tmp_path.rglob("*.db"))


def test_migrating_encrypts_and_keeps_the_key(tmp_path: Path) -> None:
    plain, safe, copy = (tmp_path / name for name in ("plain", "safe", "copy"))
    with open_with(plain, None) as memory:
        fill(memory)
        report = memory.migrate(safe, key=KEY)
        assert (report.num_turns, report.num_vectors, report.num_summaries) == (3, 3, 1)
    assert holds(plain, b"flowerpot") and not holds(safe, b"flowerpot")
    with open_with(safe, KEY) as memory:
        assert len(memory.search("flowerpot")) == 3
        memory.migrate(copy)
        with pytest.raises(ValueError, match="to a directory only.*export it"):
            memory.migrate(tmp_path / "third", vectors="milvus.db")
        with pytest.raises(ValueError, match="to a directory only"):
            memory.migrate("postgresql://localhost/nowhere")
    assert not holds(copy, b"flowerpot") and not (tmp_path / "third").exists()
    open_with(copy, KEY).close()
    with pytest.raises(WrongKey):
        open_with(copy, None)


def test_another_key_also_counts_for_the_next_copy(tmp_path: Path) -> None:
    with open_with(tmp_path / "one", KEY) as memory:
        fill(memory)
        memory.change_key(OTHER)
        memory.migrate(tmp_path / "two")
    for name in ("one", "two"):
        with pytest.raises(WrongKey):
            open_with(tmp_path / name, KEY)
        with open_with(tmp_path / name, OTHER) as memory:
            assert len(memory.turns()) == 3
    with open_with(tmp_path / "plain", None) as memory, pytest.raises(ValueError, match="expected an encrypted memory"):
        memory.change_key(KEY)


def test_each_user_has_a_key_of_their_own(tmp_path: Path) -> None:
    with open_with(tmp_path, KEY) as ada, open_with(tmp_path, OTHER, "bo") as bo, open_with(tmp_path, None, "cy") as cy:
        for memory in (ada, bo, cy):
            fill(memory)
    with pytest.raises(WrongKey, match="another key"):
        open_with(tmp_path, KEY, "bo")


def test_the_async_memory_takes_a_key_too(tmp_path: Path) -> None:
    async def use() -> None:
        async with await AsyncDialogueMemory.open(tmp_path, user="ada", embedder="none", key=KEY) as memory:
            await memory.add("user", "Nora keeps a flowerpot in Lyon")
            await memory.change_key(OTHER)
            assert (await memory.stats()).encrypted

    asyncio.run(use())
    with open_with(tmp_path, OTHER) as memory:
        assert len(memory.turns()) == 1 and not holds(tmp_path, b"flowerpot")
