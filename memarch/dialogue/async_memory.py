"""`DialogueMemory` for asyncio: the same verbs as coroutines, run one after another on a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

from .embedders import DEFAULT_EMBEDDER, Embedder
from .memory import DialogueMemory
from .prompt import Prompt
from .records import ForgetReport, Hit, Receipt, Session, Stats, Turn, VerifyReport

P = ParamSpec("P")
R = TypeVar("R")


class AsyncDialogueMemory:
    """A `DialogueMemory` whose methods are awaited; the event loop is never blocked.

        async with await AsyncDialogueMemory.open("memories", user="ada") as memory:
            await memory.add("user", "My sister Nora moved to Lyon.")
            hits = await memory.search("Where does Nora live?")

    Calls run in the order in which they were made. A coroutine that is cancelled stops waiting; a write that had begun
    is finished all the same, so look before you repeat it.
    """

    def __init__(self, memory: DialogueMemory, executor: ThreadPoolExecutor) -> None:
        self.memory = memory
        self._executor = executor
        self._closing: Future[None] | None = None

    @classmethod
    async def open(
        cls,
        location: str | Path,
        *,
        user: str = "default",
        embedder: str | Path | Embedder | None = DEFAULT_EMBEDDER,
        read_only: bool = False,
        make: Callable[[], DialogueMemory] | None = None,
    ) -> AsyncDialogueMemory:
        """Open a memory; for other options give `make`, which is called on the memory's thread."""
        if make is None:
            make = partial(DialogueMemory, location, user=user, embedder=embedder, read_only=read_only)
        executor = ThreadPoolExecutor(1, thread_name_prefix="memarch-memory")
        opening = executor.submit(make)
        try:
            memory = await asyncio.wrap_future(opening)
        except BaseException:
            opening.add_done_callback(_close_unwanted)  # cancelled while it opened: let go of the store all the same
            executor.shutdown(wait=False)
            raise
        return cls(memory, executor)

    async def _run(self, call: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
        if self._closing is not None:
            raise ValueError("this memory is closed; open it again with AsyncDialogueMemory.open(location, user=...)")
        return await asyncio.wrap_future(self._executor.submit(call, *args, **options))

    async def add(
        self,
        role: str,
        text: str,
        *,
        session: str | None = None,
        time: datetime | None = None,
        source_id: str | None = None,
    ) -> Turn:
        """`DialogueMemory.add`."""
        return await self._run(self.memory.add, role, text, session=session, time=time, source_id=source_id)

    async def search(self, query: str, k: int = 10) -> list[Hit]:
        """`DialogueMemory.search`."""
        return await self._run(self.memory.search, query, k)

    async def compose(
        self, message: str, budget_tokens: int = 3500, *, system: str = "", session: str | None = None
    ) -> Prompt:
        """`DialogueMemory.compose`; for its other options, `run(memory.memory.compose, ...)`."""
        return await self._run(self.memory.compose, message, budget_tokens, system=system, session=session)

    async def summary(self) -> str:
        """`DialogueMemory.summary`."""
        return await self._run(self.memory.summary)

    async def index(self) -> int:
        """`DialogueMemory.index`."""
        return await self._run(self.memory.index)

    async def sessions(self) -> list[Session]:
        """`DialogueMemory.sessions`."""
        return await self._run(self.memory.sessions)

    async def stats(self) -> Stats:
        """`DialogueMemory.stats`."""
        return await self._run(self.memory.stats)

    async def forget(self, *, dry_run: bool = False) -> ForgetReport:
        """`DialogueMemory.forget`."""
        return await self._run(self.memory.forget, dry_run=dry_run)

    async def restore(self, *, turn: int | None = None, source_id: str | None = None) -> ForgetReport:
        """`DialogueMemory.restore`."""
        return await self._run(self.memory.restore, turn=turn, source_id=source_id)

    async def erase(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
        user: str | None = None,
    ) -> Receipt:
        """`DialogueMemory.erase`."""
        return await self._run(
            self.memory.erase, source_id=source_id, turn=turn, session=session, before=before, user=user
        )

    async def verify(self, *, deep: bool = True) -> VerifyReport:
        """`DialogueMemory.verify`."""
        return await self._run(self.memory.verify, deep=deep)

    async def run(self, call: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
        """Any other method of `.memory`, in its turn: `await memory.run(memory.memory.export, "ada.jsonl")`."""
        return await self._run(call, *args, **options)

    async def close(self) -> None:
        """Finish what was begun, save, let go of the store, even if this is cancelled; closing twice is allowed."""
        if self._closing is None:
            self._closing = self._executor.submit(self.memory.close)
            self._executor.shutdown(wait=False)  # what was submitted is still done
        await asyncio.shield(asyncio.wrap_future(self._closing))

    async def __aenter__(self) -> AsyncDialogueMemory:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _close_unwanted(opening: Future[DialogueMemory]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
