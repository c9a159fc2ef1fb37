"""Compact Memory (arXiv 2504.16754): a short summary of every stretch of a dialogue, and summaries of summaries.

The paper updates S_t = Summarizer(S_{t-1}, u_t), at most 60 tokens, at every turn, and adds a summary of summaries
every 100 turns. One text of 60 tokens cannot hold 1,500 turns, so we read it as a rolling summary per block: turns are
taken in blocks of 20; the summary of the block that is still open is remade whenever there are new turns, from its
turns and its own earlier version (S_{t-1}); once the block is full its summary stays. Five blocks, 100 turns, get a
summary of their summaries. A summary is made of nothing but its sources: were the summary before it used too, an erased
turn could live on in its successors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from memarch.dialogue.records import Receipt, Summary
from memarch.dialogue.stores.base import Store
from memarch.dialogue.summarizers import ExtractiveSummarizer, LLMSummarizer, Piece, Summarizer
from memarch.dialogue.tokens import TokenCounter, estimate_tokens

__all__ = ["CompactMemory", "ExtractiveSummarizer", "LLMSummarizer", "Piece", "Summarizer"]

log = logging.getLogger(__name__)

# Block sizes belong to a memory: another size would cut its blocks anew at every change of a default.
_SETTING = "compact_blocks"
# Of a longer turn the beginning is summarised: it is a pasted document.
_MAX_PIECE_CHARS = 20_000


class CompactMemory:
    """Two levels of summaries over the turns of `store`, kept there with their lineage.

    block_turns: turns of a level-1 summary. group_blocks: level-1 summaries of a level-2 summary. A memory keeps the
    sizes that it began with. max_tokens: of each summary, by `count_tokens`; a longer one is cut. every_turns: the open
    block is summarised again only after so many new turns, for models that take seconds; the last turns are in a prompt
    anyway.

    If `summarizer` fails, the extractive one takes its place for that summary: the reason is logged, the field
    `summarizer` of the Summary says who made it. Raises: ValueError for sizes below 1.
    """

    def __init__(
        self,
        store: Store,
        summarizer: Summarizer,
        *,
        block_turns: int = 20,
        group_blocks: int = 5,
        max_tokens: int = 60,
        every_turns: int = 1,
        count_tokens: TokenCounter = estimate_tokens,
    ) -> None:
        sizes = {"block_turns": block_turns, "group_blocks": group_blocks, "max_tokens": max_tokens}
        for name, size in {**sizes, "every_turns": every_turns}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {size}")
        self._store, self._summarizer = store, summarizer
        self._fallback = ExtractiveSummarizer(count_tokens=count_tokens)
        self._max_tokens, self._every, self._count = max_tokens, every_turns, count_tokens
        self._block, self._group = block_turns, group_blocks
        self._is_kept = False
        self._take_sizes()

    def update(self) -> list[Summary]:
        """Summarise what is not summarised yet, and return what was made; nothing to do costs one look.

        Each summary is stored as soon as it is made, so an interrupted update goes on where it stopped.
        """
        last = self._store.last_turn()
        if last == 0:
            return []
        if not self._take_sizes():
            self._store.put_setting(_SETTING, f"{self._block},{self._group}")
        known = {self._block_of(summary.first_turn): summary for summary in self._store.summaries(level=1)}
        open_block = self._block_of(last)
        wanted = [block for block in range(open_block + 1) if block not in known]
        # The open block, or the one that was open when it was last summarised and filled up since.
        wanted += [block for block in known if known[block].last_turn < min(last, self._last_of(block))]
        if last < self._last_of(open_block):
            done = known[open_block].last_turn if open_block in known else open_block * self._block
            wanted = [block for block in wanted if block != open_block or last - done >= self._every]
        made = []
        for block, numbers, pieces in self._by_block(wanted):
            old = known.get(block)
            if old is None or old.sources != numbers:
                grows = old is not None and old.sources == numbers[: len(old.sources)]
                previous = old.text if old is not None and grows else ""
                made.append(self._put(1, pieces, numbers, (numbers[0], numbers[-1]), old, previous))
        return made + self._update_groups(last)

    def text(self) -> str:
        """What goes into a prompt: one line a summary with the date it begins at, oldest first; level 2 where it is."""
        upper = [summary for summary in self._store.summaries(level=2) if summary.text]
        covered = {source for summary in upper for source in summary.sources}
        lower = [summary for summary in self._store.summaries(level=1) if summary.text]
        lines = sorted(
            [*upper, *(summary for summary in lower if summary.summary not in covered)],
            key=lambda summary: summary.first_turn,
        )
        firsts = [summary.first_turn for summary in lines]
        dates = {turn.turn: turn.time for turn in self._store.turns(numbers=firsts)} if firsts else {}
        return "\n".join(
            f"{dates[line.first_turn]:%Y-%m-%d}: {line.text}" if line.first_turn in dates else line.text
            for line in lines
        )

    def remake(self, receipt: Receipt) -> list[Summary]:
        """After an erasure: summaries that it dropped, made again from the turns that are left; the new ones.

        What was made of several blocks is remade as well. Turns that were not summarised before may be now.
        """
        return self.update() if receipt.summaries_dropped else []

    def _take_sizes(self) -> bool:
        """Use the sizes that the memory began with, which an import may have brought; whether there are any."""
        if not self._is_kept and (kept := self._store.get_setting(_SETTING)):
            self._block, self._group = map(int, kept.split(","))
            self._is_kept = True
        return self._is_kept

    def _update_groups(self, last: int) -> list[Summary]:
        """Level 2 of every group of blocks that is over, where it is missing or its sources changed."""
        groups: dict[int, list[Summary]] = {}
        for summary in self._store.summaries(level=1):
            groups.setdefault(self._block_of(summary.first_turn) // self._group, []).append(summary)
        known = {self._block_of(s.first_turn) // self._group: s for s in self._store.summaries(level=2)}
        made = []
        for group, members in sorted(groups.items()):
            if last < (group + 1) * self._group * self._block:
                continue
            sources = tuple(sorted(member.summary for member in members))
            old = known.get(group)
            if old is None or tuple(sorted(old.sources)) != sources:
                pieces = [Piece(member.text) for member in members]
                # Not its earlier version: that may hold what a source has lost since.
                made.append(self._put(2, pieces, sources, (members[0].first_turn, members[-1].last_turn), old, ""))
        return made

    def _put(
        self,
        level: int,
        pieces: list[Piece],
        sources: tuple[int, ...],
        turns: tuple[int, int],
        old: Summary | None,
        previous: str,
    ) -> Summary:
        text, name = self._summarize(pieces, previous)
        return self._store.put_summary(
            level=level,
            text=text,
            first_turn=turns[0],
            last_turn=turns[1],
            sources=sources,
            summarizer=name,
            replaces=() if old is None else (old.summary,),
        )

    def _summarize(self, pieces: list[Piece], previous: str) -> tuple[str, str]:
        """The text on one line within the limit, and who made it."""
        if not any(piece.text.strip() for piece in pieces):
            return "", self._fallback.name
        try:
            text = self._summarizer.summarize(pieces, previous=previous, max_tokens=self._max_tokens)
            name = self._summarizer.name
        except Exception as error:  # a model behind a function may raise anything
            log.warning(
                "summarizer %s failed (%s: %s); %s takes its place", self._summarizer.name, type(error).__name__, error,
                self._fallback.name,
            )  # fmt: skip
            text = self._fallback.summarize(pieces, previous="", max_tokens=self._max_tokens)
            name = self._fallback.name
        return _cut(" ".join(text.split()), self._max_tokens, self._count), name

    def _block_of(self, turn: int) -> int:
        return (turn - 1) // self._block

    def _last_of(self, block: int) -> int:
        return (block + 1) * self._block

    def _by_block(self, blocks: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...], list[Piece]]]:
        """Block, turn numbers, pieces; blocks of which all is erased are left out.

        Read some blocks at a time: all of a long dialogue would not fit, and no store must write while it streams.
        """
        ordered = sorted(blocks)
        for start in range(0, len(ordered), 10):
            wanted = [turn for block in ordered[start : start + 10] for turn in self._turns_of(block)]
            found: dict[int, tuple[list[int], list[Piece]]] = {}
            for turn in self._store.turns(numbers=wanted):
                numbers, pieces = found.setdefault(self._block_of(turn.turn), ([], []))
                numbers.append(turn.turn)
                pieces.append(Piece(turn.text[:_MAX_PIECE_CHARS], turn.role, turn.time))
            for block, (numbers, pieces) in found.items():
                yield block, tuple(numbers), pieces

    def _turns_of(self, block: int) -> range:
        return range(block * self._block + 1, self._last_of(block) + 1)


def _cut(text: str, max_tokens: int, count: Callable[[str], int]) -> str:
    """`text`, or its first words that fit with the sign that something is missing."""
    if count(text) <= max_tokens:
        return text
    words = text.split(" ")
    low, high = 0, len(words)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(" ".join(words[:middle]) + " \u2026") <= max_tokens else (low, middle)
    return " ".join(words[:low]) + " \u2026" if low else text[:max_tokens]
