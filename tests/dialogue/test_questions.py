"""Questions of files, and whether an answer agrees with the expected one."""

import json
from pathlib import Path

import pytest

from memarch.data.dialogues import generate_dialogue, write_jsonl
from memarch.dialogue.questions import Question, agrees, is_refusal, parse_questions, read_questions

LOCOMO = [
    {
        "sample_id": name,
        "conversation": {},
        "qa": [
            {"question": "When?", "answer": 2022, "evidence": ["D8:6; D9:17"], "category": 2},
            {"question": "Why?", "adversarial_answer": "x", "evidence": ["D:11:26", "D30:05", "D"], "category": 5},
        ],
    }
    for name in ("conv-1", "conv-2")
]


def test_lines_of_text_and_json_may_be_mixed() -> None:
    text = 'Where is Nora?\n\n{"question": "Who?", "answer": "Ann", "evidence": ["a", "b", "a"], "kind": "single"}\n'
    assert parse_questions(text) == [Question("Where is Nora?"), Question("Who?", "Ann", ("a", "b"), "single")]


def test_what_the_generator_writes_is_read(tmp_path: Path) -> None:
    asked = generate_dialogue(120, seed=1).questions
    write_jsonl(tmp_path / "ask.jsonl", asked)
    assert [(q.question, q.answer, q.evidence, q.kind) for q in read_questions(tmp_path / "ask.jsonl")] == [
        (q.question, q.answer, q.evidence, q.kind) for q in asked
    ]


def test_locomos_questions_with_evidence_normalised() -> None:
    text = json.dumps(LOCOMO)
    first, second = parse_questions(text, conversation="conv-2")
    assert first == Question("When?", "2022", ("D8:6", "D9:17"), "temporal")
    assert second == Question("Why?", "", ("D11:26", "D30:5"), "adversarial")
    assert parse_questions(text)[2].evidence == ("conv-2:D8:6", "conv-2:D9:17")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('Why?\n{"question": "a"', "line 2: expected one JSON object"),
        ('Why?\n{"answer": "a"}', "line 2: question is missing"),
        ('Why?\n{"question": "a", "evidence": "S1:1"}', "line 2: evidence should be list; got 'S1:1'"),
        ('Why?\n{"question": "a", "evidence": [3]}', "line 2: evidence should be names of turns; got 3"),
        ('Why?\n{"question": "a", "anwser": "b"}', "line 2: expected the fields .* got 'anwser' too"),
        ('[{"conversation": {}, "qa": [{"question": "a"}]}]', "qa 1 is not in LoCoMo's format"),
    ],
)
def test_bad_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ask.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_questions(path)
    assert str(path) in str(error.value)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ask.txt"
    path.write_bytes("Où ?".encode("latin-1"))
    with pytest.raises(ValueError, match="should be UTF-8; byte 1"):
        read_questions(path)


def test_an_answer_agrees_if_it_has_every_content_word() -> None:
    question = Question("Where?", "the old harbour")
    assert agrees('You said: "We met at the harbour, the old one."', question) is True
    assert agrees("At the harbour.", question) is False
    assert agrees("Anything", Question("Where?")) is None
    assert agrees("It was 7 weeks", Question("How long?", "7")) is True


def test_the_right_answer_to_what_was_never_said_is_a_refusal() -> None:
    question = Question("Which pet?", "never said", (), "never-said")
    assert agrees("I found nothing about that in memory.", question) is True
    assert agrees("A cat.", question) is False
    assert is_refusal("That was NOT MENTIONED.") and not is_refusal("She mentioned that.")
