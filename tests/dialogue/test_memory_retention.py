"""Through the facade: forgetting is soft and comes by itself; erasing is hard, in memory, summaries and files."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from memarch.dialogue.errors import StoreLocked
from memarch.dialogue.memory import DialogueMemory
from memarch.dialogue.salience import ForgettingPolicy

from ._fakes import FakeEmbedder

START = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "Zanzibarine"  # in no other text, and long enough not to occur by chance


def fill(memory: DialogueMemory, count: int = 30) -> None:
    """Turn n of session (n - 1) // 10 at START + n hours says word{n}; every tenth turn tells the secret too."""
    memory.add_all(
        [
            (
                "user" if n % 2 else "assistant",
                f"My word{n} is here." + (f" My friend {SECRET}{n} lives in Lyon." if n % 10 == 5 else ""),
                f"s{(n - 1) // 10}",
                START + timedelta(hours=n),
                f"id-{n}",
            )
            for n in range(1, count + 1)
        ]
    )


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[DialogueMemory]:
    """30 turns in three sessions, with vectors and summaries."""
    with DialogueMemory(tmp_path, user="ada", embedder=FakeEmbedder()) as opened:
        fill(opened)
        opened.search("word1")
        opened.summary()
        yield opened


def found(memory: DialogueMemory, query: str) -> set[int]:
    return {hit.turn for hit in memory.search(query, 100)}


def test_small_memories_keep_everything_and_writers_count_from_the_records(tmp_path: Path) -> None:
    policy = ForgettingPolicy(every_turns=10, fraction=0.5, min_age_turns=1, min_chunks=15)
    for n in range(1, 41):
        if n % 10 == 1:  # a process that never searches, so that its word index is never built
            memory = DialogueMemory(tmp_path, embedder="none", policy=policy)
        memory.add("user", f"word{n}")
        if n % 10 == 0:
            assert memory.stats().num_archived == {10: 0, 20: 10, 30: 20, 40: 30}[n]
            memory.close()


def test_forgetting_comes_at_the_due_turn_and_can_be_undone(tmp_path: Path) -> None:
    policy = ForgettingPolicy(every_turns=20, fraction=0.25, min_age_turns=5, min_chunks=0)
    with DialogueMemory(tmp_path, embedder=FakeEmbedder(), policy=policy) as memory:
        for n in range(1, 20):
            memory.add("user", f"word{n}")
        assert memory.stats().num_archived == 0
        memory.pin(turn=1)
        assert 2 in found(memory, "word2")
        # Turns 2 to 19 were retrieved just now, so age decides; 1 is pinned.
        memory.add("user", "word20")
        assert memory.stats().num_archived == 5
        assert found(memory, "word1 word2 word3 word4 word5 word6") == {1, *range(7, 21)}
        assert len(memory.turns()) == 20  # the records stay
        for n in range(21, 40):
            memory.add("user", f"word{n}")
        assert memory.stats().num_archived == 5
        memory.add("user", "word40")
        assert memory.stats().num_archived == 5 + 8
    with DialogueMemory(tmp_path, embedder=FakeEmbedder(), policy=policy) as memory:
        assert 2 not in found(memory, "word2")
        assert memory.restore(turn=2).chunks == (2,) and memory.search("word2", 1)[0].turn == 2
        assert len(memory.restore().chunks) == 12 and found(memory, "word3") == set(range(1, 41))
        assert memory.restore().chunks == () and memory.verify().ok


def test_what_was_retrieved_outlives_what_was_not(tmp_path: Path) -> None:
    policy = ForgettingPolicy(every_turns=1000, fraction=0.5, min_age_turns=0)
    for published in (False, True):
        with DialogueMemory(tmp_path / str(published), embedder="none", policy=policy) as memory:
            memory.add_all([("user", f"oneword{n}", f"s{n}", None, None) for n in range(10)])
            for n in range(5):
                assert [hit.turn for hit in memory.search(f"oneword{n}", 1)] == [n + 1]
            kept = ForgettingPolicy(fraction=0.5, min_age_turns=0, as_published=published)
            assert set(memory.forget(policy=kept).chunks) == (set(range(1, 6)) if published else set(range(6, 11)))


def test_a_dry_run_changes_nothing(memory: DialogueMemory) -> None:
    policy = ForgettingPolicy(fraction=0.5, min_age_turns=0)
    dry = memory.forget(policy=policy, dry_run=True)
    assert dry.dry_run and len(dry.chunks) == 15 and memory.stats().num_archived == 0
    assert memory.forget(policy=policy).chunks == dry.chunks and memory.stats().num_archived == 15


def test_selectors_forget_and_restore_what_they_name(memory: DialogueMemory) -> None:
    memory.pin(turn=12)
    assert memory.forget(session="s1", dry_run=True).num_pinned == 1 and memory.stats().num_archived == 0
    report = memory.forget(session="s1")
    assert set(report.chunks) == set(range(11, 21)) - {12} and len(report.salience) == 9
    assert memory.forget(session="s1").chunks == () and memory.forget(turn=11).chunks == ()
    assert memory.forget(session="s0", before=START + timedelta(hours=3)).chunks == (1, 2)
    everything = " ".join(f"word{n}" for n in range(1, 31))
    assert found(memory, everything) == {*range(3, 11), 12, *range(21, 31)}
    assert memory.restore(source_id="id-2").chunks == (2,) and memory.restore(session="s2").chunks == ()
    assert found(memory, everything) == {*range(2, 11), 12, *range(21, 31)}
    with pytest.raises(ValueError, match="selectors or a policy, not both"):
        memory.forget(turn=1, policy=ForgettingPolicy())
    with DialogueMemory(Path(memory.store.location), user="ada", embedder="none", read_only=True) as reader:
        assert not {1, 11} & found(reader, everything)  # an index that is filled later sees the same


def test_pinned_turns_stay_and_pinning_brings_back(memory: DialogueMemory) -> None:
    everything = ForgettingPolicy(fraction=1, min_age_turns=0)
    assert memory.pin(source_id="id-3") == 1
    report = memory.forget(policy=everything)
    assert len(report.chunks) == 29 and report.num_pinned == 1 and found(memory, "word3 word4") == {3}
    assert memory.pin(turn=4) == 1 and found(memory, "word3 word4") == {3, 4}
    assert memory.pin(turn=3, pinned=False) == 1 and memory.forget(policy=everything).chunks == (3,)
    with pytest.raises(ValueError, match="no turn with turn=99"):
        memory.pin(turn=99)
    with pytest.raises(ValueError, match="pin needs turn= or source_id="):
        memory.pin()


@pytest.mark.parametrize(
    ("selector", "turns"),
    [
        ({"turn": 5}, {5}),
        ({"source_id": "id-15"}, {15}),
        ({"session": "s2"}, set(range(21, 31))),
        ({"before": START + timedelta(hours=3)}, {1, 2}),
        ({"session": "s0", "before": START + timedelta(hours=6)}, {1, 2, 3, 4, 5}),
        ({"session": "s0", "turn": 11}, set()),
    ],
)
def test_each_selector_erases_what_it_names(memory: DialogueMemory, selector: dict[str, Any], turns: set[int]) -> None:
    assert memory.count(**selector) == len(turns)
    receipt = memory.erase(**selector)
    assert set(receipt.turns) == turns and set(receipt.source_ids) == {f"id-{n}" for n in turns}
    assert set(receipt.selector) == set(selector)
    assert {turn.turn for turn in memory.turns()} == set(range(1, 31)) - turns
    assert not turns & found(memory, " ".join(f"word{n}" for n in turns) or "word1")
    assert not turns & {turn for s in memory.store.summaries(level=1) for turn in s.sources}
    assert [r.turns for r in memory.receipts()] == ([receipt.turns] if turns else [])
    assert memory.verify().ok and memory.add("user", "next").turn == 31


@pytest.mark.parametrize("reopened", [False, True])
def test_no_byte_of_what_was_erased_is_left(tmp_path: Path, reopened: bool) -> None:
    embedder = FakeEmbedder()
    with DialogueMemory(tmp_path, user="ada", embedder=embedder) as memory:
        fill(memory)
        memory.search(f"{SECRET}5")
        summary = memory.summary()
        assert SECRET in summary
        vector = embedder.embed_documents([f"user: {memory.turns()[4].text}"])[0].tobytes()
        memory.flush()
        text = f"{SECRET}5".encode()
        assert files_with(tmp_path, text) and files_with(tmp_path, vector)
        if reopened:
            memory.close()
            memory = DialogueMemory(tmp_path, user="ada", embedder=embedder)
        receipt = memory.erase(turn=5)
        assert receipt.summaries_dropped and receipt.summaries_remade
        for step in (memory.flush, memory.summary, memory.close):
            assert not files_with(tmp_path, text) and not files_with(tmp_path, vector)
            step()
        assert not files_with(tmp_path, text) and not files_with(tmp_path, vector)
        memory.close()
    with DialogueMemory(tmp_path, user="ada", embedder=embedder) as memory:
        assert f"{SECRET}5." not in memory.summary() and f"{SECRET}15" in memory.summary()
        assert not any(f"{SECRET}5 " in hit.text for hit in memory.search(f"{SECRET}5 Lyon friend", 50))
        assert f"{SECRET}5 " not in str(memory.compose(f"Where does {SECRET} live?").messages[:-1])


def files_with(directory: Path, needle: bytes) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file() and needle in path.read_bytes()]


def test_erasing_the_user_leaves_nothing_and_closes(tmp_path: Path) -> None:
    with DialogueMemory(tmp_path, user="ada", embedder=FakeEmbedder()) as memory:
        fill(memory)
        memory.search("x")
        memory.summary()
        for wrong in ({"user": "bob"}, {"user": "ada", "turn": 1}):
            with pytest.raises(ValueError, match="user= stands alone and must be this memory's user 'ada'"):
                memory.erase(**cast(Any, wrong))
        assert memory.count() == 30
        receipt = memory.erase(user="ada")
        assert len(receipt.turns) == len(receipt.chunks) == 30
        with pytest.raises(ValueError, match="closed"):
            memory.search("x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with DialogueMemory(tmp_path, user="ada", embedder=FakeEmbedder()) as memory:
        assert memory.search("word1") == [] and memory.add("user", "anew").turn == 1


def test_changes_before_the_first_search_hold_in_it(tmp_path: Path) -> None:
    with DialogueMemory(tmp_path, embedder="none") as memory:
        fill(memory)
    with DialogueMemory(tmp_path, embedder="none") as memory:
        memory.forget(session="s0")
        memory.restore(turn=1)
        memory.erase(session="s1")
        memory.add("user", "word31", session="s3")
        assert found(memory, " ".join(f"word{n}" for n in range(1, 32))) == {1, *range(21, 32)}


def test_erasing_needs_a_selector_and_a_zone(memory: DialogueMemory) -> None:
    with pytest.raises(ValueError, match="erase needs a selector"):
        memory.erase()
    with pytest.raises(ValueError, match="before must be a datetime with its zone"):
        memory.erase(before=datetime(2026, 1, 1))
    assert memory.count() == 30


def test_an_erasure_that_a_reader_holds_up_is_an_error_but_nothing_is_served(
    memory: DialogueMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase = memory.store.erase

    def held_up(*arguments: Any, **options: Any) -> None:
        erase(*arguments, **options)
        raise StoreLocked("another connection is reading")

    monkeypatch.setattr(memory.store, "erase", held_up)
    with pytest.raises(StoreLocked):
        memory.erase(turn=5)
    assert 5 not in found(memory, f"{SECRET}5 word5")
    assert f"{SECRET}5".lower() not in str(memory._ranker.lexical._said)


def test_the_word_index_forgets_too(memory: DialogueMemory) -> None:
    memory.erase(session="s0")
    lexical = memory._ranker.lexical
    assert lexical.num_slots == 20 and SECRET.lower() + "5" not in str(lexical._said)
    assert np.array_equal(lexical.chunks, np.arange(11, 31))
