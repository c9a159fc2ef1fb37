"""Budgets: shares as fractions and as tokens, and what is refused."""

import pytest

from memarch.dialogue.budget import Budget, PartReport, PromptReport, Trimmed


def test_shares() -> None:
    budget = Budget(compact=100, retrieved=0.5, recent=0.25)
    assert [budget.share(part, 1000) for part in ("compact", "retrieved", "recent")] == [100, 500, 250]
    assert budget.share("compact", 60) == 60
    assert Budget(compact=1.0, retrieved=0, recent=0).share("compact", 77) == 77
    assert Budget(compact=1, retrieved=0, recent=0).share("compact", 77) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens must be a whole number of at least 1; got 0"),
        ({"tokens": 99.5}, "tokens must be a whole number of at least 1; got 99.5"),
        ({"per_message": -1}, "per_message must be a whole number of at least 0; got -1"),
        ({"compact": 1.5}, "compact must be a fraction from 0.0 to 1.0, or a number of tokens; got 1.5"),
        ({"recent": -3}, "recent must be a fraction .* got -3"),
        ({"recent": True}, "recent must be a fraction .* got True"),
        ({"retrieved": float("nan")}, "retrieved must be a fraction .* got nan"),
        ({"compact": 0.5, "retrieved": 0.5, "recent": 0.5}, "must add up to at most 1; got 1.5"),
    ],
)
def test_errors(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**options)


def test_report() -> None:
    dropped = Trimmed("t1", "dropped", "why")
    report = PromptReport(100, 60, (PartReport("system", 100, 10), PartReport("recent", 20, 30, ("t2",), (dropped,))))
    assert report.overhead_tokens == 20 and report.trimmed and report.part("recent").kept == ("t2",)
    assert not PromptReport(100, 60, ()).trimmed
