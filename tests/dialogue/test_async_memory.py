"""The asyncio memory: the same verbs in the order of the calls, a free event loop, cancelling that loses nothing."""

import asyncio
import inspect
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from memarch.dialogue.async_memory import AsyncDialogueMemory
from memarch.dialogue.errors import StoreLocked
from memarch.dialogue.memory import DialogueMemory

from ._fakes import FakeEmbedder

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def test_every_verb(tmp_path: Path) -> None:
    async def use() -> None:
        async with await AsyncDialogueMemory.open(tmp_path, user="ada", embedder=FakeEmbedder()) as memory:
            turn = await memory.add("user", "My sister Nora moved to Lyon.", session="s", source_id="a")
            assert (turn.turn, turn.source_id) == (1, "a")
            await memory.add("assistant", "Noted.")
            assert (await memory.search("Nora Lyon", 1))[0].turn == 1
            assert "Nora" in str((await memory.compose("Where is Nora?", 500, system="Help.", session="t")).messages)
            assert "Nora" in await memory.summary()
            assert [s.session for s in await memory.sessions()] == ["s"] and await memory.index() == 0
            assert (await memory.forget(dry_run=True)).num_young == 2
            assert (await memory.restore(turn=1)).chunks == ()
            assert (await memory.erase(source_id="a")).turns == (1,)
            assert (await memory.verify()).ok and (await memory.stats()).num_turns == 1
            assert await memory.run(memory.memory.count, session="s") == 1
        with pytest.raises(StoreLocked), DialogueMemory(tmp_path, user="ada", embedder="none"):
            await AsyncDialogueMemory.open(tmp_path, user="ada", embedder="none")

    run(use())
    with DialogueMemory(tmp_path, user="ada", embedder="none") as memory:
        assert [turn.text for turn in memory.turns()] == ["Noted."]


def test_it_has_all_methods_of_the_other_with_the_same_arguments() -> None:
    names = {name for name in dir(DialogueMemory) if not name.startswith("_")} - {"user"}
    assert names <= set(dir(AsyncDialogueMemory)), names - set(dir(AsyncDialogueMemory))
    for name in names:
        ours, theirs = getattr(AsyncDialogueMemory, name), getattr(DialogueMemory, name)
        assert inspect.iscoroutinefunction(ours), name
        assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters, name


def test_the_other_verbs(tmp_path: Path) -> None:
    async def use() -> None:
        async with await AsyncDialogueMemory.open(tmp_path / "m", user="ada", embedder=FakeEmbedder()) as memory:
            await memory.add_all([("user", f"text {n}", None, None, f"id-{n}") for n in range(5)])
            assert [turn.turn for turn in await memory.turns(last=2)] == [4, 5]
            assert await memory.pin(turn=1) == 1 and await memory.count(source_id="id-1") == 1
            assert (await memory.forget(turn=2)).chunks == (2,) and (await memory.restore(session="1")).chunks == (2,)
            assert await memory.export(tmp_path / "out.jsonl") == 5
            assert (await memory.migrate(tmp_path / "n")).num_turns == 5
            await memory.erase(turn=5)
            assert len(await memory.receipts()) == 1
            assert (await memory.import_(tmp_path / "out.jsonl", revive=True)).num_added == 1
            await memory.flush()
            assert (await memory.repair()).ok

    run(use())


def test_calls_run_in_their_order(tmp_path: Path) -> None:
    async def use() -> list[str]:
        async with await AsyncDialogueMemory.open(tmp_path, embedder="none") as memory:
            turns = await asyncio.gather(*(memory.add("user", f"text {n}") for n in range(40)))
        return [turn.text for turn in sorted(turns, key=lambda turn: turn.turn)]

    assert run(use()) == [f"text {n}" for n in range(40)]


def test_the_loop_is_free_while_a_model_works(tmp_path: Path) -> None:
    embedder, started, go_on = FakeEmbedder(), threading.Event(), threading.Event()

    def wait(texts: Sequence[str]) -> None:
        started.set()
        assert go_on.wait(30)

    embedder.before = wait

    async def use() -> None:
        async with await AsyncDialogueMemory.open(tmp_path, embedder=embedder) as memory:
            await memory.add("user", "slow")
            searching = asyncio.create_task(memory.search("slow"))
            while not started.is_set():
                await asyncio.sleep(0.001)  # only a free loop gets here
            assert not searching.done()
            go_on.set()
            assert len(await searching) == 1

    run(use())


@pytest.mark.parametrize("begun", [True, False])
def test_cancelling_stops_the_waiting_not_a_write_that_began(tmp_path: Path, begun: bool) -> None:
    embedder, started, go_on = FakeEmbedder(), threading.Event(), threading.Event()

    def wait(texts: Sequence[str]) -> None:
        started.set()
        assert go_on.wait(30)

    async def use() -> None:
        async with await AsyncDialogueMemory.open(tmp_path, embedder=embedder) as memory:
            await memory.add("user", "one")
            embedder.before = wait
            indexing = asyncio.create_task(memory.index())
            while not started.is_set():
                await asyncio.sleep(0.001)
            adding = asyncio.create_task(memory.add("user", "two"))
            await asyncio.sleep(0.01)  # it is queued behind the indexing
            cancelled = indexing if begun else adding
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            go_on.set()
            if begun:
                assert (await adding).turn == 2
            else:
                assert await indexing == 1
                assert (await memory.stats()).num_turns == 1  # what had not begun is not done
            embedder.before = lambda texts: None
            assert (await memory.search("one"))[0].turn == 1 and (await memory.verify()).ok

    run(use())


def test_opening_fails_cleanly_and_other_options_go_through_make(tmp_path: Path) -> None:
    async def fail() -> None:
        with pytest.raises(ValueError, match="user's name"):
            await AsyncDialogueMemory.open(tmp_path, user="")

    run(fail())
    for thread in threading.enumerate():
        if thread.name.startswith("memarch-memory"):
            thread.join(30)
            assert not thread.is_alive()

    async def use() -> None:
        make = lambda: DialogueMemory(tmp_path, user="bob", embedder="none", policy=None)  # noqa: E731
        memory = await AsyncDialogueMemory.open(tmp_path, make=make)
        assert memory.memory.user == "bob"
        await memory.close()
        await memory.close()
        with pytest.raises(ValueError, match="this memory is closed"):
            await memory.search("x")

    run(use())


def test_cancelling_the_opening_leaves_no_lock(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    made: list[DialogueMemory] = []  # kept, so that it is not the garbage collector who closes it

    def make() -> DialogueMemory:
        started.set()
        assert go_on.wait(30)
        made.append(DialogueMemory(tmp_path, embedder="none"))
        return made[0]

    async def use() -> None:
        opening = asyncio.create_task(AsyncDialogueMemory.open(tmp_path, make=make))
        while not started.is_set():
            await asyncio.sleep(0.001)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        go_on.set()
        while any(thread.name.startswith("memarch-memory") for thread in threading.enumerate()):
            await asyncio.sleep(0.001)

    run(use())
    with pytest.raises(ValueError, match="this memory is closed"):
        made[0].stats()
    DialogueMemory(tmp_path, embedder="none").close()


def test_cancelling_the_closing_still_closes(tmp_path: Path) -> None:
    embedder, started, go_on = FakeEmbedder(), threading.Event(), threading.Event()

    def wait(texts: Sequence[str]) -> None:
        started.set()
        assert go_on.wait(30)

    async def use() -> None:
        memory = await AsyncDialogueMemory.open(tmp_path, embedder=embedder)
        await memory.add("user", "one")
        embedder.before = wait
        indexing = asyncio.create_task(memory.index())
        while not started.is_set():
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(memory.close())
        await asyncio.sleep(0.01)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        go_on.set()
        assert await indexing == 1
        while any(thread.name.startswith("memarch-memory") for thread in threading.enumerate()):
            await asyncio.sleep(0.001)
        with pytest.raises(ValueError, match="this memory is closed"):
            memory.memory.stats()

    run(use())
    DialogueMemory(tmp_path, embedder="none").close()
