"""Answers without a model: quotations with age and source, the same every time, honest when there is nothing."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from memarch.dialogue.generators.extractive import NOTHING, ExtractiveGenerator, age_of
from memarch.dialogue.memory import DialogueMemory
from memarch.dialogue.records import Hit

NOW = datetime(2026, 4, 1, 12, tzinfo=UTC)


def hit(text: str, *, turn: int = 12, score: float = 2.0, role: str = "user", meaning: float = 0.0) -> Hit:
    time = datetime(2024, 3, 3, 9, tzinfo=UTC)
    return Hit(text, f"turn-{turn}", score, {"meaning": meaning}, 7, "1", role, time, turn, turn)


def answer(question: str, *hits: Hit, **options) -> str:
    return "".join(ExtractiveGenerator(now=NOW, **options).stream([{"role": "user", "content": question}], hits=hits))


def test_a_quotation_has_date_age_turn_and_words() -> None:
    said = hit("My sister\nNora lives in Lyon.")
    expected = "You said on 3 March 2024, 2 years ago (turn 12): \u201cMy sister Nora lives in Lyon.\u201d"
    assert answer("Where does Nora live?", said) == expected
    other = hit("Nora is in Lyon.", role="Tom \x1b[31m")
    assert answer("Where is Nora?", other).startswith("Tom \ufffd[31m said on 3 March 2024")
    assert answer("Where is Nora?", hit("Nora!", role="assistant")).startswith("I said on")


def test_the_best_come_first_and_questions_last_and_nothing_twice() -> None:
    hits = [
        hit("Where does Nora live?", turn=1, score=2.9),
        hit("Nora lives in Lyon.", turn=2, score=2.5),
        hit("Nora  lives in Lyon.", turn=3, score=2.4),
        hit("Nora lived in Nice.", turn=4, score=2.2),
        hit("Tea is good.", turn=5, score=2.1),
    ]
    turns = [h.turn for h in ExtractiveGenerator(num_quotes=3).choose("Where does Nora live?", hits)]
    assert turns == [2, 4, 1]
    assert answer("Where does Nora live?", *hits, num_quotes=1).count("\n") == 0
    assert answer("Where does Nora live?", *hits) == answer("Where does Nora live?", *hits[::-1])


def test_it_says_when_there_is_nothing_and_trusts_meaning_only_if_it_is_close() -> None:
    assert answer("Where does Nora live?") == NOTHING == answer("Where does Nora live?", hit("Tea is good."))
    near = hit("My sibling moved to Lyon.", meaning=2.0)
    assert "Lyon" in answer("Where does Nora live?", near)
    assert answer("Where does Nora live?", hit("My sibling moved to Lyon.", meaning=1.0)) == NOTHING


def test_long_memories_are_quoted_where_they_answer() -> None:
    long = (
        " ".join(f"Filler sentence number {n}." for n in range(40)) + " Nora lives in Lyon. " + "The end is long. " * 30
    )
    text = answer("Where does Nora live?", hit(long))
    assert "Nora lives in Lyon." in text and len(text) < 420 and "(turn 12): \u201c\u2026 Nora" in text
    assert len(answer("Where is Nora?", hit("Nora " * 500))) < 420


def test_what_is_quoted_is_not_to_be_stored_or_quoted_again(tmp_path: Path) -> None:
    model = ExtractiveGenerator(now=NOW)
    whole = answer("Where does Nora live?", hit("Nora lives in Lyon."), hit("Nora (turn 9): \u201clived\u201d", turn=4))
    kept = model.to_store(whole)
    assert kept == ("You said on 3 March 2024, 2 years ago (turn 12).\nYou said on 3 March 2024, 2 years ago (turn 4).")
    assert model.to_store(whole[:-40]).count("Nora") == 0 and model.to_store(NOTHING) == NOTHING
    for own in (kept, whole, NOTHING):
        assert model.choose("Nora years said found nothing memory", [hit(own, role="assistant")]) == []


def test_it_answers_from_a_real_memory(tmp_path: Path) -> None:
    with DialogueMemory(tmp_path, embedder=None) as memory:
        memory.add("user", "My sister Nora moved to Lyon.", time=datetime(2026, 3, 1, tzinfo=UTC))
        memory.add("user", "I had soup.", time=datetime(2026, 3, 2, tzinfo=UTC))
        prompt = memory.compose("Where does Nora live?", num_recent=0)
    model = ExtractiveGenerator(now=NOW)
    assert "".join(model.stream(prompt.messages, hits=prompt.hits)) == (
        "You said on 1 March 2026, 1 month ago (turn 1): \u201cMy sister Nora moved to Lyon.\u201d"
    )
    assert model.count_prompt(prompt.messages) > model.count_tokens("Where?") > 0


AGES = {
    -1: "today",
    0: "today",
    1: "yesterday",
    6: "6 days ago",
    7: "1 week ago",
    29: "4 weeks ago",
    31: "1 month ago",
    364: "11 months ago",
    366: "1 year ago",
    800: "2 years ago",
}


@pytest.mark.parametrize(("days", "age"), AGES.items())
def test_ages(days: int, age: str) -> None:
    assert age_of(datetime.fromtimestamp(NOW.timestamp() - days * 86400, UTC), NOW) == age


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_quotes"):
        ExtractiveGenerator(num_quotes=0)
