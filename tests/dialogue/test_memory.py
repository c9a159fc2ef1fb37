"""The facade: what was added is found, at once, after a restart, without an embedder and while it fails."""

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from memarch.dialogue.errors import EmbedderError, StoreCorrupt, StoreLocked, StoreUnavailable
from memarch.dialogue.memory import DialogueMemory
from memarch.dialogue.records import Hit, Problem
from memarch.dialogue.salience import ForgettingPolicy

from ._fakes import FakeEmbedder

FACTS = (
    "My sister Nora moved to Lyon.",
    "The boiler was repaired on Tuesday.",
    "I am allergic to hazelnuts.",
    "We sold the green bicycle.",
    "Rust is a language I would like to learn.",
)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[DialogueMemory]:
    """An empty one with a fake embedder."""
    with DialogueMemory(tmp_path, user="ada", embedder=FakeEmbedder()) as opened:
        yield opened


def texts(hits: list[Hit]) -> list[str]:
    return [hit.text for hit in hits]


@pytest.mark.parametrize("embedder", [None, "fake"])
def test_every_acknowledged_turn_is_seen_by_the_next_search(tmp_path: Path, embedder: str | None) -> None:
    with DialogueMemory(tmp_path, embedder=FakeEmbedder() if embedder else "none") as memory:
        assert memory.search("anything") == []
        for i in range(30):
            turn = memory.add("user", f"Fact number{i} is about subject{i * 7}.")
            assert turn.turn == i + 1
            found = [hit for hit in memory.search(f"subject{i * 7}", 5) if hit.turn == turn.turn]
            assert [(hit.age_turns, hit.text) for hit in found] == [(0, turn.text)]
        assert memory.search("subject0", 1)[0].age_turns == 29


def test_a_turn_and_a_hit_say_where_they_come_from(memory: DialogueMemory) -> None:
    when = datetime(2026, 1, 31, 12, tzinfo=UTC)
    turn = memory.add("Nora", FACTS[0], session="s", time=when, source_id="mail-7")
    assert (turn.role, turn.session, turn.time, turn.source_id) == ("Nora", "s", when, "mail-7")
    (hit,) = memory.search("Who moved to Lyon?")
    assert (hit.role, hit.session, hit.time, hit.source_id, hit.turn) == ("Nora", "s", when, "mail-7", turn.turn)
    assert hit.score == pytest.approx(sum(hit.parts.values())) and {"words", "meaning"} <= set(hit.parts)
    assert memory.add("user", "next").session == "s"  # goes on with the latest session
    assert memory.add("user", "other", session="t").source_id == "turn-3"
    assert [(s.session, s.num_turns) for s in memory.sessions()] == [("s", 2), ("t", 1)]


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    with DialogueMemory(tmp_path, embedder=embedder) as memory:
        for fact in FACTS:
            memory.add("user", fact)
        before, summary = memory.search("Nora Lyon"), memory.summary()
        memory.pin(turn=3)
    embedded = embedder.num_texts
    with DialogueMemory(tmp_path, embedder=embedder) as memory:
        assert memory.search("Nora Lyon") == before and memory.summary() == summary
        assert embedder.num_texts == embedded  # nothing is embedded twice
        assert memory.stats().num_pinned == 1 and texts_of_turns(memory) == list(FACTS)
        assert memory.verify().ok and memory.add("user", "one more").turn == len(FACTS) + 1


def texts_of_turns(memory: DialogueMemory) -> list[str]:
    return [turn.text for turn in memory.turns()]


def test_words_alone_find_words_and_start_no_model(tmp_path: Path) -> None:
    with DialogueMemory(tmp_path, embedder="none") as memory:
        for fact in FACTS:
            memory.add("user", fact)
        assert texts(memory.search("allergic to hazelnuts", 1)) == [FACTS[2]]
        assert memory.index() == 0
        stats = memory.stats()
        assert (stats.num_vectors, stats.embedder) == (0, None)


def test_an_embedder_that_fails_loses_nothing_and_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = FakeEmbedder()
    with DialogueMemory(tmp_path, embedder=embedder) as memory:
        memory.add("user", FACTS[0])
        memory.search("warm up")
        embedder.fail = True
        with caplog.at_level(logging.WARNING, "memarch"):
            for fact in FACTS[1:]:
                memory.add("user", fact)
                assert texts(memory.search(fact, 1)) == [fact]
        assert [r.getMessage() for r in caplog.records] == ["search goes on with words alone: the fake is down"]
        with pytest.raises(EmbedderError, match="the fake is down"):
            memory.index()
        assert memory.stats().num_pending == 4
        embedder.fail = False
        assert "meaning" in memory.search("anything else")[0].parts and memory.stats().num_pending == 0
        assert memory.verify().ok
        caplog.clear()
        embedder.fail = True
        memory.search("bicycle")
        assert len(caplog.records) == 1  # it worked in between, so this is news


def test_an_embedder_of_anybody_may_do_anything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Theirs(FakeEmbedder):
        answer: Any = ConnectionError("no route")

        def embed_documents(self, texts: Sequence[str]) -> Any:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer(super().embed_documents(texts))

    embedder = Theirs("theirs")
    with DialogueMemory(tmp_path, embedder=embedder) as memory:
        for fact in FACTS:
            memory.add("user", fact)
        for answer, message in [
            (ConnectionError("no route"), "theirs failed: ConnectionError: no route"),
            (lambda vectors: vectors * np.nan, "theirs returned a vector that is not finite"),
            (lambda vectors: vectors[:-1], r"theirs returned vectors of shape \(4, 29\); expected \(5, 29\)"),
            (lambda vectors: "vectors", "theirs failed: ValueError"),
        ]:
            embedder.answer = answer
            assert texts(memory.search("allergic to hazelnuts", 1)) == [FACTS[2]]
            with pytest.raises(EmbedderError, match=message):
                memory.index()
            assert memory.stats().num_pending == 5
        embedder.answer = lambda vectors: (7 * vectors).tolist()  # neither of unit length nor an array
        assert memory.index() == 5 and memory.verify().ok
    assert len(caplog.records) == 4


def test_another_embedder_embeds_again_and_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memarch.dialogue._memory_core.EMBED_BATCH", 4)
    with DialogueMemory(tmp_path, embedder=FakeEmbedder("old", 29)) as memory:
        memory.add_all([("user", f"Fact{i} about subject{i}.", None, None, None) for i in range(10)])
        assert memory.index() == 10
    new = FakeEmbedder("new", 31)
    steps: list[tuple[int, int]] = []

    def interrupted(done: int, total: int) -> None:
        steps.append((done, total))
        if len(steps) == 2:
            raise KeyboardInterrupt

    with DialogueMemory(tmp_path, embedder=new) as memory, pytest.raises(KeyboardInterrupt):
        memory.index(interrupted)
    assert steps == [(4, 10), (8, 10)]
    with DialogueMemory(tmp_path, embedder=new) as memory:
        assert memory.index() == 2 and new.num_texts == 10
        assert memory.search("subject3", 1)[0].turn == 4
        stats = memory.stats()
        assert (stats.embedder, stats.dim, stats.num_vectors, stats.num_pending) == ("new", 31, 10, 0)
        assert memory.verify().ok


def test_strange_texts_and_queries_are_only_text(memory: DialogueMemory) -> None:
    strange = [
        "",
        "   \n",
        "a\0b nulbyte",
        "lone \ud800 surrogate",
        "e\u0301clair 👩‍👩‍👧 العربية 汉字",
        "'; DROP TABLE turns; -- robert",
        'NEAR("a" OR b*) AND col:val NOT (x',
    ]
    added = [memory.add("user", text) for text in strange]
    for query in [*strange, "*", '"', "OR", "%_", "\\", "a" * 5000]:
        memory.search(query)
    assert texts_of_turns(memory) == strange and [turn.turn for turn in added] == [1, 2, 3, 4, 5, 6, 7]
    assert memory.search("nulbyte", 1)[0].text == strange[2]
    assert memory.search("DROP TABLE robert", 1)[0].text == strange[5]
    assert memory.search("汉字", 1)[0].text == strange[4]
    assert memory.verify().ok


def test_a_turn_of_a_megabyte(memory: DialogueMemory) -> None:
    body = " ".join(f"word{i}" if i % 99 == 66 else "then" for i in range(300_000))
    assert len(body) > 2**20
    memory.add("user", FACTS[0])
    memory.add("user", body)
    hits = memory.search("word54318", 5)
    assert hits[0].turn == 2 and "word54318" in hits[0].text and len(hits[0].text) < 10_000
    assert len([hit for hit in hits if hit.turn == 2]) == 1
    assert texts_of_turns(memory)[1] == body
    assert memory.compose("word165", 600).report.used_tokens <= 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"role": " ", "text": "x"}, "role must be a name"),
        ({"role": "user", "text": 3}, "text must be a str; got int"),
        ({"role": "user", "text": "x", "time": datetime(2026, 1, 1)}, "time must be a datetime with its zone"),
        ({"role": "user", "text": "x", "source_id": "taken"}, "taken"),
        ({"role": "user", "text": "x", "session": "a\0b"}, "NUL"),
        ({"role": "user", "text": "x", "source_id": "s" * 201}, "1 to 200 characters"),
    ],
)
def test_what_is_refused_leaves_no_trace(memory: DialogueMemory, arguments: dict[str, Any], message: str) -> None:
    memory.add("user", FACTS[0], source_id="taken")
    with pytest.raises(ValueError, match=message):
        memory.add(**arguments)
    bad = tuple(arguments.get(name) for name in ("role", "text", "session", "time", "source_id"))
    with pytest.raises(ValueError, match=message):
        memory.add_all([("user", "good", None, None, None), cast(Any, bad)])
    assert texts_of_turns(memory) == [FACTS[0]] and len(memory.search("good x")) <= 1
    assert memory.add("user", "goes on").turn == 2


def test_bad_searches_and_a_closed_memory(memory: DialogueMemory) -> None:
    memory.add("user", FACTS[0])
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        memory.search("x", 0)
    with pytest.raises(ValueError, match="query must be a str; got bytes"):
        memory.search(b"x")  # type: ignore[arg-type]
    memory.close()
    memory.close()
    for call in (lambda: memory.search("x"), lambda: memory.add("user", "x"), memory.summary, memory.stats):
        with pytest.raises(ValueError, match="this memory is closed"):
            call()


def test_a_default_name_gives_way_to_one_that_is_taken(memory: DialogueMemory) -> None:
    memory.add("user", "one", source_id="turn-2")
    turn = memory.add("user", "two")
    assert turn.source_id.startswith("turn-2-") and memory.add("user", "three").source_id == "turn-3"


def test_default_names_keep_clear_of_names_in_the_same_call(memory: DialogueMemory) -> None:
    added = memory.add_all([("user", "a", None, None, None), ("user", "b", None, None, "turn-1")])
    assert added[0].source_id.startswith("turn-1-") and added[1].source_id == "turn-1"


def test_an_add_that_is_stored_has_not_failed(
    memory: DialogueMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StoreUnavailable("disk full")

    memory.policy = ForgettingPolicy(every_turns=2, fraction=1, min_age_turns=0, min_chunks=0)
    memory.add("user", FACTS[0])
    monkeypatch.setattr(memory.store, "archive", full)
    assert memory.add("user", FACTS[1]).turn == 2
    assert [r.getMessage() for r in caplog.records] == ["forgetting waits for the next turn: disk full"]
    monkeypatch.undo()
    memory.policy = ForgettingPolicy(every_turns=2, fraction=1, min_age_turns=1, min_chunks=0)
    memory.add("user", FACTS[2])
    assert memory.stats().num_archived == 2


def test_a_reader_beside_the_writer(tmp_path: Path) -> None:
    with DialogueMemory(tmp_path, embedder=FakeEmbedder()) as writer:
        writer.add("user", FACTS[0])
        writer.search("index it")
        with pytest.raises(StoreLocked, match="is being written by process"):
            DialogueMemory(tmp_path, embedder=FakeEmbedder())
        with DialogueMemory(tmp_path, embedder=FakeEmbedder(), read_only=True) as reader:
            assert texts(reader.search("Nora")) == [FACTS[0]]
            writer.add("user", FACTS[1])
            assert texts(reader.search("boiler repaired on Tuesday", 1)) == [FACTS[1]]  # without a vector, by words
            assert "boiler" in str(reader.compose("boiler").messages)
            for change in (lambda: reader.add("user", "x"), reader.forget, lambda: reader.erase(turn=1), reader.index):
                with pytest.raises(StoreUnavailable, match="read_only=True"):
                    change()
            writer.erase(turn=1)
            assert FACTS[0] not in texts(reader.search("Nora Lyon"))
    with DialogueMemory(tmp_path, embedder=FakeEmbedder(), read_only=True) as reader:
        assert texts_of_turns(reader) == [FACTS[1]]


def test_threads_take_turns(memory: DialogueMemory) -> None:
    start = threading.Barrier(4)

    def add(name: str) -> None:
        start.wait()
        for i in range(25):
            memory.add(name, f"{name} says {name}word{i}")
            assert f"{name} says {name}word{i}" in texts(memory.search(f"{name}word{i}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, ["ada", "bob", "cyd", "dan"]))
    assert sorted(turn.turn for turn in memory.turns()) == list(range(1, 101))
    assert memory.verify().ok


def test_one_user_beside_many_turns_of_another(tmp_path: Path) -> None:
    shared = "The code of the safe is"
    many = [("user", f"{shared} {i}, said Bob.", None, None, None) for i in range(3000)]
    with DialogueMemory(tmp_path, user="bob", embedder=FakeEmbedder(), policy=None) as bob:
        bob.add_all(many)
        bob.index()
    with (
        DialogueMemory(tmp_path, user="ada", embedder=FakeEmbedder()) as ada,
        DialogueMemory(tmp_path, user="bob", embedder=FakeEmbedder(), policy=ForgettingPolicy()) as bob,
    ):
        for i in range(10):
            ada.add("user", f"{shared} 700{i}, said Ada.")
        hits = ada.search("What is the code of the safe?", 10)
        assert sorted(hit.turn for hit in hits) == list(range(1, 11)) and all("Ada" in hit.text for hit in hits)
        hits = bob.search("code of the safe 7003 Ada", 50)
        assert len(hits) == 50 and not any("Ada" in hit.text for hit in hits)
        assert "Bob" not in ada.summary() and "Ada" not in str(bob.compose("the safe of Ada", 2000).messages[0])
        assert ada.erase(user="ada").selector
        assert bob.stats().num_turns == 3000


def test_export_import_and_migrate_go_through_the_facade(memory: DialogueMemory, tmp_path: Path) -> None:
    for n, fact in enumerate(FACTS):
        memory.add("user", fact, source_id=f"f{n}")
    memory.search(FACTS[0])
    memory.summary()
    steps: list[tuple[int, int]] = []
    assert memory.export(tmp_path / "out.jsonl", vectors=True, progress=lambda *step: steps.append(step)) == len(FACTS)
    assert steps[-1] == (5, 5)
    embedder = FakeEmbedder()
    with DialogueMemory(tmp_path / "second", embedder=embedder) as second:
        report = second.import_(tmp_path / "out.jsonl")
        assert (report.num_added, report.num_vectors) == (5, 5)
        assert texts(second.search(FACTS[2], 1)) == [FACTS[2]] and embedder.num_texts == 0
        second.erase(source_id="f2")
        assert second.import_(tmp_path / "out.jsonl").num_erased == 1
        assert FACTS[2] not in texts(second.search(FACTS[2]))
        with (tmp_path / "out.jsonl").open("rb") as lines:
            assert second.import_(lines, revive=True, label="again").num_added == 1
        assert texts(second.search(FACTS[2], 1)) == [FACTS[2]]
    moved = memory.migrate(tmp_path / "third", progress=lambda *step: steps.append(step))
    assert (moved.num_turns, moved.num_vectors, moved.renumbered) == (5, 5, False) and steps[-1] == (10, 10)
    with DialogueMemory(tmp_path / "third", user="ada", embedder=FakeEmbedder()) as third:
        assert third.search(FACTS[1]) == memory.search(FACTS[1]) and third.summary() == memory.summary()
    for own in (tmp_path, f"{tmp_path}/x/.."):
        with pytest.raises(ValueError, match="another location than this memory's own"):
            memory.migrate(own)


def test_records_too_damaged_to_count_are_still_reported(
    memory: DialogueMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged() -> None:
        raise StoreCorrupt("malformed")

    monkeypatch.setattr(memory.store, "stats", damaged)
    with pytest.raises(StoreCorrupt):
        memory.verify()
    problem = Problem("integrity", "malformed", repairable=False)
    monkeypatch.setattr(memory.store, "verify", lambda deep: [problem])
    assert memory.verify().problems == (problem,) and memory.verify().num_checked == {}


def test_summaries_may_wait_for_several_turns(tmp_path: Path) -> None:
    with DialogueMemory(tmp_path, embedder="none", summary_every_turns=3) as memory:
        for number, expected in enumerate([0, 0, 3, 3, 3, 6], 1):
            memory.add("user", f"Fact number {number} is about bicycles.")
            memory.summary()
            assert max((s.last_turn for s in memory.store.summaries()), default=0) == expected
    with pytest.raises(ValueError, match="every_turns must be at least 1; got 0"):
        DialogueMemory(tmp_path, embedder="none", summary_every_turns=0)


def test_a_small_index_answers_as_the_exact_one(tmp_path: Path, memory: DialogueMemory) -> None:
    with DialogueMemory(tmp_path / "small", embedder=FakeEmbedder(), max_exact_chunks=3) as small:
        for each in (memory, small):
            for fact in FACTS:
                each.add("user", fact, time=datetime(2026, 1, 31, tzinfo=UTC))
        for query in FACTS:
            found, expected = small.search(query), memory.search(query)
            assert [hit.turn for hit in found] == [hit.turn for hit in expected]
            assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected])
