from datetime import UTC, datetime

import pytest

from memarch.dialogue.cues import cue_text, embedding_text, first_person, roles_asked_about

TALKERS = ("Ada", "Ben de Vries")
CHAT = ("user", "assistant")


def test_cues_and_embedded_text_by_hand():
    assert cue_text("Ben", datetime(2024, 5, 6, 9, tzinfo=UTC)) == "Ben Monday 6 May 2024"
    assert embedding_text("Ben", "hello") == "Ben: hello"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        ("Thanks!", 0),
        ("It is mine", 1 / 3),
        ("I'm here, WE met", 2 / 3),
        ("I saw my aunt; we sang, I cried", 1),
    ],
)
def test_first_person(text, share):
    assert first_person(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("query", "roles", "named"),
    [
        ("What does ADA's cat eat?", TALKERS, {"Ada"}),
        ("Where did Ben de Vries go?", TALKERS, {"Ben de Vries"}),
        ("Where did Ben go?", TALKERS, set()),
        ("Did Ada meet Ben de Vries?", TALKERS, set()),
        ("Where did I park my car?", CHAT, {"user"}),
        ("Which soup did you suggest?", CHAT, {"assistant"}),
        ("What did you tell me?", CHAT, set()),
        ("Where is the car?", CHAT, set()),
        ("Where did I go?", TALKERS, set()),
        ("anything", ("", "\x00"), set()),
    ],
)
def test_roles_asked_about(query, roles, named):
    assert roles_asked_about(query, roles) == named
