"""Reported speech: simple sentences are turned, everything else is quoted with its speaker."""

import pytest

from memarch.dialogue.speech import reported


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("I have a cat, and I love my garden.", "Ada has a cat, and Ada loves Ada's garden."),
        ("I'm moving to Bern.", "Ada is moving to Bern."),
        ("I’ve got two sons.", "Ada has got two sons."),
        ("My sister is called Ann.", "Ada's sister is called Ann."),
        ("Oh well, I moved last week.", "Ada moved last week."),
        ("I really prefer tea.", "Ada really prefers tea."),
        ("I will study law.", "Ada will study law."),
        # Not simple: another person's pronoun, an unknown verb, a question, a negation, no first person at all.
        ("I told you.", "Ada: I told you."),
        ("We went out.", "Ada: We went out."),
        ("I vex people.", "Ada: I vex people."),
        ("Can I come?", "Ada: Can I come?"),
        ("I don't like it.", "Ada: I don't like it."),
        ("It rained.", "Ada: It rained."),
        ("She gave me a book.", "Ada: She gave me a book."),
    ],
)
def test_sentences(said: str, expected: str) -> None:
    assert reported(said, "Ada") == expected


def test_roles_and_names() -> None:
    assert reported("I love jazz and my dog.", "user") == "The user loves jazz and the user's dog."
    assert reported("I have my coat.", "Jonas") == "Jonas has Jonas' coat."
    assert reported("Hello.", "assistant") == "The assistant: Hello."
    assert reported("I am tall.", "Mary\nAnn \\1") == "Mary Ann \\1 is tall."
