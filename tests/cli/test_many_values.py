"""`--data a b` as the shell hands it over."""

import pytest

from memarch.cli.many_values import repeat_option


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--data a b --steps 3", "--data a --data b --steps 3"),
        ("--steps 3 --data a b c", "--steps 3 --data a --data b --data c"),
        ("--data=a b --out x", "--data=a --data b --out x"),
        ("--data a --data b c --lr 1", "--data a --data b --data c --lr 1"),
        ("--steps 3 stray", "--steps 3 stray"),
        ("--data", "--data"),
        ("--data a b -- c", "--data a --data b -- c"),
        ("--data - a", "--data - --data a"),
        ("--database a b", "--database a b"),
    ],
)
def test_repeat_option(given: str, expected: str) -> None:
    assert repeat_option(given.split()) == expected.split()
