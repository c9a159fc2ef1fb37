"""Compact Memory on a real store: blocks and groups, idempotence, lineage under erasure, a summariser that fails."""

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from memarch.dialogue.compact import CompactMemory, ExtractiveSummarizer, Piece
from memarch.dialogue.records import NewTurn
from memarch.dialogue.stores import open_store
from memarch.dialogue.stores.base import Store
from memarch.dialogue.tokens import estimate_tokens

START = datetime(2026, 3, 1, 9, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path, user="ada")
    yield opened
    opened.close()


def add(store: Store, texts: Sequence[str], role: str = "Ada") -> None:
    first = store.last_turn() + 1
    store.add_turns(
        [
            NewTurn("s1", role, text, START + timedelta(days=n), f"t{n}", ((0, len(text)),))
            for n, text in enumerate(texts, first)
        ]
    )


class Counting:
    """Names what it was given, so that a summary shows exactly what it was made of."""

    name = "counting"

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], str]] = []

    def summarize(self, pieces: Sequence[Piece], *, previous: str, max_tokens: int) -> str:
        texts = [piece.text for piece in pieces]
        self.calls.append((texts, previous))
        return "+".join(texts)


def memory(store: Store, summarizer: Counting) -> CompactMemory:
    return CompactMemory(store, summarizer, block_turns=3, group_blocks=2, max_tokens=1000)


def test_blocks_then_groups_with_lineage(store: Store) -> None:
    compact = memory(store, Counting())
    assert compact.update() == [] and compact.text() == ""
    add(store, list("abcdefg"))
    made = compact.update()
    assert [(s.level, s.text, s.first_turn, s.last_turn) for s in made] == [
        (1, "a+b+c", 1, 3),
        (1, "d+e+f", 4, 6),
        (1, "g", 7, 7),
        (2, "a+b+c+d+e+f", 1, 6),
    ]
    assert made[0].sources == (1, 2, 3) and made[3].sources == (made[0].summary, made[1].summary)
    assert {s.summarizer for s in made} == {"counting"}
    assert compact.text() == "2026-03-02: a+b+c+d+e+f\n2026-03-08: g"


def test_an_update_without_news_changes_nothing(store: Store) -> None:
    add(store, list("abcdefgh"))
    summarizer = Counting()
    memory(store, summarizer).update()
    before, calls = store.summaries(), len(summarizer.calls)
    assert memory(store, summarizer).update() == []
    assert store.summaries() == before and len(summarizer.calls) == calls


def test_the_open_block_rolls_and_full_ones_stay(store: Store) -> None:
    summarizer = Counting()
    compact = memory(store, summarizer)
    for text in "abcdefg":
        add(store, [text])
        compact.update()
    assert [texts for texts, _ in summarizer.calls] == [
        ["a"], ["a", "b"], ["a", "b", "c"], ["d"], ["d", "e"], ["d", "e", "f"], ["a+b+c", "d+e+f"], ["g"],
    ]  # fmt: skip
    assert [previous for _, previous in summarizer.calls] == ["", "a", "a+b", "", "d", "d+e", "", ""]
    assert sorted(s.text for s in store.summaries()) == ["a+b+c", "a+b+c+d+e+f", "d+e+f", "g"]


def test_stepwise_and_at_once_agree(tmp_path: Path) -> None:
    texts = [f"I met person {n} in town {n % 7} on day {n}." for n in range(130)]
    results = []
    for step in (1, 130):
        store = open_store(tmp_path / str(step), user="ada")
        compact = CompactMemory(store, ExtractiveSummarizer())
        for start in range(0, 130, step):
            add(store, texts[start : start + step])
            compact.update()
        results.append(compact.text())
        assert sorted(s.level for s in store.summaries()) == [1] * 7 + [2]
        assert all(0 < estimate_tokens(s.text) <= 60 for s in store.summaries())
        store.close()
    assert results[0] == results[1] and len(results[0].splitlines()) == 3


def test_after_an_erasure_nothing_of_it_is_left_in_any_summary(store: Store) -> None:
    compact = memory(store, Counting())
    add(store, ["a", "SECRET", "c", "d", "e", "f", "g"])
    compact.update()
    receipt = store.erase([2], selector={"turn": "2"})
    assert all("SECRET" not in s.text for s in store.summaries())
    made = compact.remake(receipt)
    assert [(s.level, s.text) for s in made] == [(1, "a+c"), (2, "a+c+d+e+f")]
    assert compact.text() == "2026-03-02: a+c+d+e+f\n2026-03-08: g"
    assert compact.update() == []


def test_erasing_a_whole_block_or_its_end(store: Store) -> None:
    compact = memory(store, Counting())
    add(store, list("abcdefgh"))
    compact.update()
    compact.remake(store.erase([3, 4, 5, 6], selector={"session": "s1"}))
    assert compact.text() == "2026-03-02: a+b\n2026-03-08: g+h"
    assert compact.update() == []
    compact.remake(store.erase([1, 2, 7, 8], selector={"session": "s1"}))
    assert compact.text() == "" and store.summaries() == []


def test_a_failing_summariser_is_replaced_and_named(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        name = "broken-llm"

        def summarize(self, pieces: Sequence[Piece], *, previous: str, max_tokens: int) -> str:
            raise TimeoutError("no answer")

    add(store, ["I have a cat called Tom."])
    with caplog.at_level(logging.WARNING):
        made = CompactMemory(store, Broken()).update()
    assert made[0].text == "Ada has a cat called Tom." and made[0].summarizer == ExtractiveSummarizer.name
    assert "broken-llm failed (TimeoutError: no answer); extractive-1 takes its place" in caplog.text


def test_a_summary_is_one_line_within_its_limit(store: Store) -> None:
    class Chatty:
        name = "chatty"

        def summarize(self, pieces: Sequence[Piece], *, previous: str, max_tokens: int) -> str:
            return "many\nmany words " * 500

    add(store, ["a"])
    (summary,) = CompactMemory(store, Chatty(), max_tokens=20).update()
    assert summary.text.startswith("many many words many") and summary.text.endswith(" …")
    assert 15 <= estimate_tokens(summary.text) <= 20


def test_empty_turns_make_no_line(store: Store) -> None:
    summarizer = Counting()
    add(store, ["", " \n"])
    compact = memory(store, summarizer)
    compact.update()
    assert compact.text() == "" and summarizer.calls == [] and compact.update() == []


def test_a_memory_keeps_the_sizes_it_began_with(store: Store) -> None:
    add(store, list("abc"))
    memory(store, Counting()).update()
    add(store, list("def"))
    CompactMemory(store, Counting(), block_turns=7).update()
    assert [(s.first_turn, s.last_turn) for s in store.summaries(level=1)] == [(1, 3), (4, 6)]


def test_a_slow_model_is_not_asked_at_every_turn(store: Store) -> None:
    summarizer = Counting()
    compact = CompactMemory(store, summarizer, block_turns=5, max_tokens=1000, every_turns=3)
    for text in "abcdefghij":
        add(store, [text])
        compact.update()
    assert [len(texts) for texts, _ in summarizer.calls] == [3, 5, 3, 5]
    assert [s.text for s in store.summaries(level=1)] == ["a+b+c+d+e", "f+g+h+i+j"]


def test_bad_sizes_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="block_turns must be at least 1; got 0"):
        CompactMemory(store, Counting(), block_turns=0)
