"""The verbs of `DialogueMemory` that take memories away: forgetting is soft and can be undone, erasing is hard."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np

from ._memory_core import WORDS, MemoryCore
from .errors import DialogueError
from .records import ForgetReport, Marks, Receipt
from .salience import DEFAULT_POLICY, ForgettingPolicy, choose, salience

FORGOTTEN_AT = "forgotten_at"


class MemoryRetention(MemoryCore):
    """Forget, restore, pin, erase."""

    # Forgetting: archived chunks stay in the records until they are erased.

    def forget(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
        policy: ForgettingPolicy | None = None,
        dry_run: bool = False,
    ) -> ForgetReport:
        """Put chunks away, out of `search`; `restore` brings them back. Pinned ones stay.

        Without a selector the least salient ones go; that also runs by itself every `policy.every_turns` turns. With
        selectors the turns that all of them name go, however salient or young. dry_run only reports.
        Raises: ValueError for a policy beside a selector.
        """
        with self._lock:
            self._writable()
            self._flush_retrieved()
            now = self.store.last_turn()
            selected = self._is_selected(source_id, turn, session, before)
            if selected:
                if policy is not None:
                    raise ValueError("forget takes selectors or a policy, not both: a policy chooses by salience")
                turns = self._matching(source_id=source_id, turn=turn, session=session, before=before)
                marks = self._marks_of(turns, archived=False)
                report = _forget_all(marks, now, self.policy or DEFAULT_POLICY, dry_run)
            else:
                chosen = policy or self.policy or DEFAULT_POLICY
                report = choose(self.store.marks(archived=False), now, chosen, dry_run=dry_run)
            if report.chunks and not dry_run:
                self.store.archive(np.array(report.chunks, np.int64), now)
                self._ranker.archive(report.chunks)
            if not selected and not dry_run:
                self.store.put_setting(FORGOTTEN_AT, str(now))
            return report

    def _forget_if_due(self, now: int) -> None:
        """Forget by itself: every so many turns, in a memory that is large enough. Expects the lock."""
        if self.policy is None or not self.policy.is_due(now, int(self.store.get_setting(FORGOTTEN_AT) or 0)):
            return
        # From the records: in a process that only writes the word index is empty.
        stats = self.store.stats()
        if stats.num_chunks - stats.num_archived >= self.policy.min_chunks:
            self.forget()
        else:
            self.store.put_setting(FORGOTTEN_AT, str(now))

    def restore(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
    ) -> ForgetReport:
        """Bring archived chunks back: of the turns that all given selectors name, or all of them."""
        with self._lock:
            self._writable()
            if self._is_selected(source_id, turn, session, before):
                turns = self._matching(source_id=source_id, turn=turn, session=session, before=before)
                chunks = self._marks_of(turns, archived=True).chunks.tolist()
            else:
                chunks = self.store.marks(archived=True).chunks.tolist()
            if chunks:
                self.store.restore(np.array(chunks, np.int64))
                self._ranker.restore(chunks)
            return ForgetReport(tuple(chunks), (), len(chunks), 0, 0)

    def pin(self, *, turn: int | None = None, source_id: str | None = None, pinned: bool = True) -> int:
        """Keep a turn from being forgotten, or let it go again; how many chunks. Archived ones come back."""
        with self._lock:
            self._writable()
            if turn is None and source_id is None:
                raise ValueError("pin needs turn= or source_id=")
            turns = self._matching(turn=turn, source_id=source_id)
            if not turns:
                raise ValueError(f"there is no turn with turn={turn!r}, source_id={source_id!r} to pin")
            marks = self._marks_of(turns)
            self.store.pin(marks.chunks, pinned=pinned)
            archived = marks.chunks[marks.archived]
            if pinned and len(archived):
                self.store.restore(archived)
                self._ranker.restore(archived.tolist())
            return len(marks)

    # Erasure: hard.

    def count(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
    ) -> int:
        """How many turns `erase` with these selectors would delete (none given: all)."""
        with self._lock:
            self._open()
            return len(self._matching(source_id=source_id, turn=turn, session=session, before=before))

    def erase(
        self,
        *,
        source_id: str | None = None,
        turn: int | None = None,
        session: str | None = None,
        before: datetime | None = None,
        user: str | None = None,
    ) -> Receipt:
        """Delete for good: text, vectors and every summary made of it, from the files too; the receipt lists numbers.

        Selectors are combined: session="3", before=... erases what both name. user= stands alone, must be this memory's
        user, and closes the memory. Summaries that lost a source are remade from what is left.

        Raises: ValueError without a selector, or for another user; nothing is erased.
        """
        with self._lock:
            self._writable()
            given = {"source_id": source_id, "turn": turn, "session": session, "before": before, "user": user}
            selector = {name: _as_text(value) for name, value in given.items() if value is not None}
            if not selector:
                raise ValueError("erase needs a selector: source_id=, turn=, session=, before= or user=")
            if user is not None:
                if user != self.user or len(selector) > 1:
                    raise ValueError(f"user= stands alone and must be this memory's user {self.user!r}; got {selector}")
                receipt = self.store.erase_user()
                self.close()
                return receipt
            turns = self._matching(source_id=source_id, turn=turn, session=session, before=before)
            self._flush_retrieved()
            kept = self.store.get_cache(WORDS) is not None
            if kept:
                self._catch_up()  # the erasure deletes it, and it is soon made anew from memory
            try:
                receipt = self.store.erase(turns, selector=selector)
            except DialogueError:
                self._fill_ranker()  # the records may be gone already: forget their words
                raise
            if self._last_chunk:
                self._ranker.remove(receipt.chunks)
                if kept and receipt.chunks:
                    self._save_words()
            remade = self._compact.remake(receipt)
            return replace(receipt, summaries_remade=tuple(s.summary for s in remade))

    def receipts(self) -> list[Receipt]:
        """Of all erasures, oldest first."""
        with self._lock:
            self._open()
            return self.store.receipts()

    def _marks_of(self, turns: list[int], *, archived: bool | None = None) -> Marks:
        marks = self.store.marks(archived=archived)
        return marks.where(np.isin(marks.turns, turns))


def _forget_all(marks: Marks, now: int, policy: ForgettingPolicy, dry_run: bool) -> ForgetReport:
    """All of these but the pinned ones, with their salience."""
    going = marks.where(~marks.pinned)
    values = salience(going.turns, going.retrieved_at, now, policy)
    return ForgetReport(
        tuple(going.chunks.tolist()),
        tuple(values.tolist()),
        len(marks),
        len(marks) - len(going),
        0,
        dry_run=dry_run,
    )


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
