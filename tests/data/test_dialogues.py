"""Generated dialogues: the seed decides, evidence holds the answer, later statements count, files round-trip."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from memarch.data import _dialogue_templates as templates
from memarch.data.dialogues import (
    KINDS,
    NEVER_SAID,
    GeneratedDialogue,
    generate_dialogue,
    read_questions,
    read_turns,
    write_jsonl,
)


@pytest.fixture(scope="module")
def dialogue() -> GeneratedDialogue:
    return generate_dialogue(1500, seed=7)


def test_the_seed_decides_everything(dialogue: GeneratedDialogue) -> None:
    assert dialogue == generate_dialogue(1500, seed=7)
    assert dialogue != generate_dialogue(1500, seed=8)


def test_turns_are_a_dialogue_over_months(dialogue: GeneratedDialogue) -> None:
    turns = dialogue.turns
    assert len(turns) == 1500 and {turn.role for turn in turns} == {"Maya", "Daniel"}
    times = [turn.time for turn in turns]
    assert times == sorted(times) and timedelta(days=120) < times[-1] - times[0] < timedelta(days=500)
    assert len({turn.source_id for turn in turns}) == 1500
    sizes = [sum(turn.session == name for turn in turns) for name in {turn.session for turn in turns}]
    assert len(sizes) > 40 and max(sizes) <= 34
    assert len({turn.text for turn in turns}) > 450
    assert not any(re.search(r"[{}]", turn.text) for turn in turns)
    assert sum(a.role != b.role for a, b in zip(turns, turns[1:], strict=False)) > 1300


def test_evidence_holds_the_answer_and_was_said_by_the_one_asked_about(dialogue: GeneratedDialogue) -> None:
    turns = {turn.source_id: turn for turn in dialogue.turns}
    assert {question.kind for question in dialogue.questions} == set(KINDS)
    assert len(dialogue.questions) > 120
    for question in dialogue.questions:
        assert not re.search(r"[{}]", question.question)
        said = [turns[name] for name in question.evidence]
        if question.kind == "never-said":
            assert question.answer == NEVER_SAID and not said
            continue
        assert len(said) == (2 if question.kind == "multi-hop" else 1)
        asked_for_a_date = question.kind == "temporal" and question.question.startswith("When")
        shown = f"{said[-1].time.day} " if asked_for_a_date else question.answer.lower()
        assert shown in (question.answer if asked_for_a_date else said[-1].text.lower())
        assert said[-1].role in question.question and {turn.role for turn in said} == {said[-1].role}


def test_of_an_updated_fact_the_last_statement_counts(dialogue: GeneratedDialogue) -> None:
    places = {turn.source_id: n for n, turn in enumerate(dialogue.turns)}
    updated = [question for question in dialogue.questions if question.kind == "updated"]
    before = [q for q in dialogue.questions if q.kind == "temporal" and not q.question.startswith("When")]
    assert len(updated) > 4 and len(before) > 3
    for question in before:
        newer = next(q for q in updated if q.answer in question.question)
        assert places[question.evidence[0]] < places[newer.evidence[0]]
        assert question.answer != newer.answer


def test_several_hops_need_both_turns(dialogue: GeneratedDialogue) -> None:
    turns = {turn.source_id: turn for turn in dialogue.turns}
    for question in dialogue.questions:
        if question.kind == "multi-hop":
            intro, fact = (turns[name].text for name in question.evidence)
            relation = next(name for name in templates.RELATIONS if f"the {name} of" in question.question)
            assert relation in intro and relation not in fact
            assert question.answer not in intro
            assert set(re.findall(r"[A-Z]\w+", intro)) & set(re.findall(r"[A-Z]\w+", fact)) & set(templates.PEOPLE)


def test_what_was_never_said_was_not() -> None:
    for seed in range(5):
        dialogue = generate_dialogue(600, seed=seed)
        asked = [q.question for q in dialogue.questions]
        assert len(asked) == len(set(asked))
        never = [q.question for q in dialogue.questions if q.kind == "never-said"]
        assert len(never) >= 4
        for question in never:
            who = "Maya" if "Maya" in question else "Daniel"
            for key, trait in templates.TRAITS.items():
                if any(question == pattern.format(who=who) for pattern in trait.questions):
                    starts = tuple(say.split("{")[0] for say in trait.says if len(say.split("{")[0]) > 12)
                    assert not any(t.role == who and t.text.startswith(starts) for t in dialogue.turns if starts), key


def test_distractors_share_words_with_facts(dialogue: GeneratedDialogue) -> None:
    evidence = {name for question in dialogue.questions for name in question.evidence}
    shared = 0
    for question in dialogue.questions:
        if question.kind in ("single", "updated") and not question.answer.endswith(("euros", "place")):
            hits = [t for t in dialogue.turns if question.answer in t.text and t.source_id not in evidence]
            shared += bool(hits)
    assert shared > 20


@pytest.mark.parametrize("num_turns", [1, 2, 13, 100, 4000])
def test_any_length(num_turns: int) -> None:
    dialogue = generate_dialogue(num_turns, seed=1)
    names = {turn.source_id for turn in dialogue.turns}
    assert len(names) == num_turns
    assert all(set(question.evidence) <= names for question in dialogue.questions)


def test_an_assistant_states_nothing_about_itself() -> None:
    dialogue = generate_dialogue(400, seed=3, speakers=("user", "assistant"))
    roles = {turn.source_id: turn.role for turn in dialogue.turns}
    assert {roles[name] for q in dialogue.questions for name in q.evidence} == {"user"}
    assert all("the user" in question.question for question in dialogue.questions)


def test_files_come_back_the_same(dialogue: GeneratedDialogue, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "t.jsonl", dialogue.turns)
    write_jsonl(tmp_path / "q.jsonl", dialogue.questions)
    assert read_turns(tmp_path / "t.jsonl") == list(dialogue.turns)
    assert read_questions(tmp_path / "q.jsonl") == list(dialogue.questions)
    first = json.loads((tmp_path / "t.jsonl").read_text("utf-8").splitlines()[0])
    assert list(first) == ["role", "text", "session", "time", "source_id"]
    odd = replace(dialogue.turns[0], text='line\nbreak \u2028 日本 "quote"')
    write_jsonl(tmp_path / "odd.jsonl", [odd])
    assert read_turns(tmp_path / "odd.jsonl") == [odd]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2: expected JSON"),
        ("[1]", "line 2: expected the fields role, text, session, time, source_id; got"),
        ('{"role": "a"}', "line 2: expected the fields"),
        ('{"role": 1, "text": "", "session": "", "time": "", "source_id": ""}', "line 2: role should be a str; got 1"),
        ('{"role": "", "text": "", "session": "", "time": "noon", "source_id": ""}', "line 2: time should be like"),
        (
            '{"role": "", "text": "", "session": "", "time": "2025-01-01", "source_id": ""}',
            "line 2: time needs its zone",
        ),
    ],
)
def test_bad_lines_are_named(dialogue: GeneratedDialogue, tmp_path: Path, line: str, message: str) -> None:
    write_jsonl(tmp_path / "t.jsonl", dialogue.turns[:1])
    with (tmp_path / "t.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_turns(tmp_path / "t.jsonl")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_turns must be at least 1; got 0"):
        generate_dialogue(0, seed=1)
    with pytest.raises(ValueError, match="two different names; got"):
        generate_dialogue(10, seed=1, speakers=("Ann", "Ann"))
    with pytest.raises(ValueError, match="start needs a time zone"):
        generate_dialogue(10, seed=1, start=datetime(2025, 1, 1))
    assert generate_dialogue(1, seed=1, start=datetime(2020, 1, 1, tzinfo=UTC)).turns[0].time.year == 2020
