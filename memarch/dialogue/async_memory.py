"""`DialogueMemory` for asyncio: the same verbs as coroutines, run one after another on a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

from ._memory_core import Progress
from .budget import Budget
from .embedders import DEFAULT_EMBEDDER, Embedder
from .memory import DialogueMemory
from .prompt import Message, Prompt
from .records import ForgetReport, Hit, Receipt, Session, Stats, Turn, VerifyReport
from .salience import ForgettingPolicy
from .stores import Key
from .tokens import TokenCounter, estimate_tokens
from .transfer import ImportReport, MigrationReport

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
        key: Key | None = None,
        make: Callable[[], DialogueMemory] | None = None,
    ) -> AsyncDialogueMemory:
        """Open a memory; for other options give `make`, which is called on the memory's thread."""
        if make is None:
            make = partial(DialogueMemory, location, user=user, embedder=embedder, read_only=read_only, key=key)
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

    async def add_all(
        self, turns: Sequence[tuple[str, str, str | None, datetime | None, str | None]], *, forget: bool = True
    ) -> list[Turn]:
        """`DialogueMemory.add_all`."""
        return await self._run(self.memory.add_all, turns, forget=forget)

    async def search(self, query: str, k: int = 10, *, note_use: bool = True) -> list[Hit]:
        """`DialogueMemory.search`."""
        return await self._run(self.memory.search, query, k, note_use=note_use)

    async def compose(
        self,
        message: str,
        budget_tokens: int = 3500,
        *,
        system: str = "",
        session: str | None = None,
        budget: Budget | None = None,
        num_retrieved: int = 20,
        num_recent: int = 8,
        count_tokens: TokenCounter = estimate_tokens,
        count_prompt: Callable[[list[Message]], int] | None = None,
    ) -> Prompt:
        """`DialogueMemory.compose`. The counters are called on the memory's thread."""
        return await self._run(
            self.memory.compose,
            message,
            budget_tokens,
            system=system,
            session=session,
            budget=budget,
            num_retrieved=num_retrieved,
            num_recent=num_recent,
            count_tokens=count_tokens,
            count_prompt=count_prompt,
        )

    async def summary(self) -> str:
        """`DialogueMemory.summary`."""
        return await self._run(self.memory.summary)

    async def index(self, progress: Progress | None = None) -> int:
        """`DialogueMemory.index`. `progress` is called on the memory's thread."""
        return await self._run(self.memory.index, progress)

    async def turns(self, *, session: str | None = None, last: int | None = None) -> list[Turn]:
        """`DialogueMemory.turns`."""
        return await self._run(self.memory.turns, session=session, last=last)

    async def sessions(self) -> list[Session]:
        """`DialogueMemory.sessions`."""
        return await self._run(self.memory.sessions)

    async def stats(self) -> Stats:
        """`DialogueMemory.stats`."""
        return await self._run(self.memory.stats)

    async def forget(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
        policy: ForgettingPolicy | None = None,
        dry_run: bool = False,
    ) -> ForgetReport:
        """`DialogueMemory.forget`."""
        call = partial(self.memory.forget, source_id=source_id, turn=turn, session=session, before=before)
        return await self._run(call, policy=policy, dry_run=dry_run)

    async def restore(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
    ) -> ForgetReport:
        """`DialogueMemory.restore`."""
        return await self._run(self.memory.restore, source_id=source_id, turn=turn, session=session, before=before)

    async def pin(self, *, turn: int | None = None, source_id: str | None = None, pinned: bool = True) -> int:
        """`DialogueMemory.pin`."""
        return await self._run(self.memory.pin, turn=turn, source_id=source_id, pinned=pinned)

    async def count(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
    ) -> int:
        """`DialogueMemory.count`."""
        return await self._run(self.memory.count, source_id=source_id, turn=turn, session=session, before=before)

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

    async def receipts(self) -> list[Receipt]:
        """`DialogueMemory.receipts`."""
        return await self._run(self.memory.receipts)

    async def export(self, path: str | Path, *, vectors: bool = False, progress: Progress | None = None) -> int:
        """`DialogueMemory.export`. `progress` is called on the memory's thread."""
        return await self._run(self.memory.export, path, vectors=vectors, progress=progress)

    async def import_(
        self, source: str | Path | Iterable[bytes], *, revive: bool = False, label: str = "stdin"
    ) -> ImportReport:
        """`DialogueMemory.import_`."""
        return await self._run(self.memory.import_, source, revive=revive, label=label)

    async def migrate(
        self,
        to: str | Path,
        *,
        vectors: str | None = None,
        key: Key | None = None,
        progress: Progress | None = None,
    ) -> MigrationReport:
        """`DialogueMemory.migrate`. `progress` is called on the memory's thread."""
        return await self._run(self.memory.migrate, to, vectors=vectors, key=key, progress=progress)

    async def change_key(self, key: Key) -> None:
        """`DialogueMemory.change_key`."""
        await self._run(self.memory.change_key, key)

    async def verify(self, *, deep: bool = True) -> VerifyReport:
        """`DialogueMemory.verify`."""
        return await self._run(self.memory.verify, deep=deep)

    async def repair(self) -> VerifyReport:
        """`DialogueMemory.repair`."""
        return await self._run(self.memory.repair)

    async def flush(self) -> None:
        """`DialogueMemory.flush`."""
        await self._run(self.memory.flush)

    async def run(self, call: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
        """Any function, in its turn on the memory's thread, where it may use `.memory`."""
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
