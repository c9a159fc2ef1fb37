"""Dialogues in others' formats become the turns that were said."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memarch.dialogue.formats import as_jsonl, guess_format, parse_lines, parse_locomo
from memarch.dialogue.memory import DialogueMemory

SAMPLE: dict[str, Any] = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ada",
        "speaker_b": "Bo",
        "session_10": [{"speaker": "Bo", "dia_id": "D10:1", "text": "Later."}],
        "session_10_date_time": "12:05 am on 1 June, 2023",
        "session_2": [
            {"speaker": "Ada", "dia_id": "D2:1", "text": "Look!", "blip_caption": "a dog"},
            {"speaker": "Bo", "dia_id": "D2:2", "text": "Nice: very."},
        ],
        "session_2_date_time": "1:56 pm on 8 May, 2023",
        "session_3": [],
    },
}


def test_locomo_sessions_in_order_with_times_captions_and_ids() -> None:
    assert parse_locomo(json.dumps([SAMPLE])) == [
        ("Ada", "Look! [shows a picture: a dog]", "session_2", datetime(2023, 5, 8, 13, 56, 0, tzinfo=UTC), "D2:1"),
        ("Bo", "Nice: very.", "session_2", datetime(2023, 5, 8, 13, 56, 1, tzinfo=UTC), "D2:2"),
        ("Bo", "Later.", "session_10", datetime(2023, 6, 1, 0, 5, tzinfo=UTC), "D10:1"),
    ]


def test_several_conversations_keep_apart_and_one_can_be_named() -> None:
    both = json.dumps([SAMPLE, {**SAMPLE, "sample_id": "conv-2"}])
    ids = [entry[4] for entry in parse_locomo(both)]
    assert ids == [f"{name}:{turn}" for name in ("conv-1", "conv-2") for turn in ("D2:1", "D2:2", "D10:1")]
    assert {entry[2] for entry in parse_locomo(both)} >= {"conv-1:session_2", "conv-2:session_2"}
    assert parse_locomo(both, conversation="conv-2") == parse_locomo(json.dumps(SAMPLE))
    with pytest.raises(ValueError, match="no conversation 'conv-3'; there are conv-1, conv-2"):
        parse_locomo(both, conversation="conv-3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "got something else at line 1"),
        ("[1]", "item 0 has none"),
        ('[{"conversation": {"session_1": 3}}]', "session_1 of conversation 1 should be a list of turns; got int"),
        ('[{"conversation": {"session_1": [{"speaker": "A"}]}}]', 'turn 1 of session_1 .* needs "speaker" and "text"'),
        (
            '[{"conversation": {"session_1": [{"speaker": "A", "text": "x"}], "session_1_date_time": "soon"}}]',
            "should look like .* got 'soon'",
        ),
    ],
)
def test_what_is_not_locomo_says_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_locomo(text)


def test_lines_with_and_without_a_name() -> None:
    text = "\ufeff\nuser: hello\n\nassistant:\n  two lines\nhttps://example.org: here\nÄnne Müller: ja: so\n"
    assert parse_lines(text, session="s") == [
        ("user", "hello", "s", None, None),
        ("assistant", "two lines\nhttps://example.org: here", "s", None, None),
        ("Änne Müller", "ja: so", "s", None, None),
    ]
    assert parse_lines("") == []
    with pytest.raises(ValueError, match="line 2 should begin with who speaks.*got 'no name'"):
        parse_lines("\nno name\nuser: x")


def test_the_format_is_guessed_by_the_beginning() -> None:
    assert guess_format(json.dumps([SAMPLE])) == guess_format(json.dumps(SAMPLE)) == "locomo"
    assert guess_format(json.dumps(SAMPLE, indent=1)) == "locomo"
    assert guess_format('{"format": "memarch"}\n{"turn": 1}\n') == "jsonl"
    assert guess_format("user: {x}") == guess_format("") == "lines"


def test_entries_are_imported_once(tmp_path: Path) -> None:
    with DialogueMemory(tmp_path, embedder="none") as memory:
        lines = as_jsonl(parse_locomo(json.dumps(SAMPLE)))
        assert memory.import_(lines, label="a").num_added == 3 and memory.import_(lines, label="a").num_duplicates == 3
        assert [(turn.role, turn.source_id, turn.session) for turn in memory.turns()][:2] == [
            ("Ada", "D2:1", "session_2"),
            ("Bo", "D2:2", "session_2"),
        ]
        assert memory.turns()[2].time == datetime(2023, 6, 1, 0, 5, tzinfo=UTC)
        assert memory.import_(as_jsonl(parse_lines("Cy: é\ud800")), label="b").num_added == 1
        assert (memory.turns()[3].text, memory.turns()[3].source_id) == ("é\ud800", "b:1")
