"""Salience by hand, the sign both ways, and what forgetting chooses and spares."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memarch.dialogue.records import Marks
from memarch.dialogue.salience import ForgettingPolicy, choose, salience


class Row(NamedTuple):
    """What `Marks.of` takes of a chunk."""

    chunk: int
    turn: int
    pinned: bool
    archived: bool
    retrieved_at: int


def chunk(number: int, turn: int, *, pinned: bool = False, used: int | None = None, archived: int | None = None) -> Row:
    return Row(number, turn, pinned, archived is not None, used or 0)


def test_values_by_hand() -> None:
    turns, used = np.array([1000, 500, 500, 500, 1200]), np.array([0, 900, 899, 0, 0])
    old = math.exp(-0.002 * 500)
    np.testing.assert_allclose(salience(turns, used, 1000), [1.0, old + 0.5, old, old, 1.0])
    published = salience(turns, used, 1000, ForgettingPolicy(as_published=True))
    np.testing.assert_allclose(published, [1.5, old, old + 0.5, old + 0.5, 1.5])
    other = salience(turns[:1], used[:1], 1010, ForgettingPolicy(lambda_=2, gamma=0.1, beta=0))
    np.testing.assert_allclose(other, [2 * math.exp(-1)])


def test_the_least_salient_fraction_goes_first_and_retrieved_ones_stay() -> None:
    chunks = [chunk(i, i, used=950 if i in (1, 3) else None) for i in range(1, 601)]
    report = choose(Marks.of(chunks), 1000)
    assert report.chunks == (2, 4, 5) and report.num_considered == 600
    assert list(report.salience) == sorted(report.salience)
    np.testing.assert_allclose(report.salience[0], math.exp(-0.002 * 998))
    published = choose(Marks.of(chunks), 1000, ForgettingPolicy(as_published=True))
    assert published.chunks == (1, 3, 2)


def test_pins_youth_and_archived_ones_are_respected() -> None:
    chunks = [chunk(1, 1, pinned=True), chunk(2, 2, archived=7), chunk(3, 3), chunk(4, 950), chunk(5, 900)]
    report = choose(Marks.of(chunks), 1000, ForgettingPolicy(fraction=1.0), dry_run=True)
    assert report.chunks == (3, 5)
    assert (report.num_considered, report.num_pinned, report.num_young, report.dry_run) == (4, 1, 1, True)


def test_ties_go_to_the_older_chunk_in_any_order_given() -> None:
    chunks = [chunk(number, 5) for number in (9, 4, 7, 1)]
    assert choose(Marks.of(chunks), 500, ForgettingPolicy(fraction=0.5)).chunks == (1, 4)
    assert choose(Marks.of(chunks[::-1]), 500, ForgettingPolicy(fraction=0.5)).chunks == (1, 4)


@pytest.mark.parametrize(
    ("alive", "fraction", "expected"), [(199, 0.005, 0), (200, 0.005, 1), (100, 0.29, 29), (0, 1, 0)]
)
def test_how_many(alive: int, fraction: float, expected: int) -> None:
    chunks = [chunk(i, i) for i in range(1, alive + 1)]
    assert len(choose(Marks.of(chunks), 10_000, ForgettingPolicy(fraction=fraction)).chunks) == expected


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300), st.booleans()), max_size=40), st.floats(0, 1))
def test_nothing_spared_is_less_salient_than_what_goes(drawn: list[tuple[int, int, bool]], fraction: float) -> None:
    chunks = [chunk(i, turn, pinned=pin, used=used) for i, (turn, used, pin) in enumerate(drawn)]
    policy = ForgettingPolicy(fraction=fraction, min_age_turns=20)
    gone = set(choose(Marks.of(chunks), 300, policy).chunks)
    free = [c for c in chunks if not c.pinned and 300 - c.turn >= 20]
    assert gone <= {c.chunk for c in free}
    assert len(gone) == min(len(free), math.floor(fraction * len(chunks) + 1e-9))
    values = salience(np.array([c.turn for c in free]), np.array([c.retrieved_at for c in free]), 300, policy)
    stay = [v for c, v in zip(free, values, strict=True) if c.chunk not in gone]
    go = [v for c, v in zip(free, values, strict=True) if c.chunk in gone]
    assert not stay or not go or max(go) <= min(stay)


def test_schedule() -> None:
    policy = ForgettingPolicy()
    assert not policy.is_due(99, 0) and policy.is_due(100, 0)
    assert not policy.is_due(199, 100) and policy.is_due(230, 100)


def test_errors_name_the_field() -> None:
    for field, value in (("gamma", -0.1), ("beta", math.nan), ("lambda_", math.inf)):
        with pytest.raises(ValueError, match=f"{field} must be a finite number >= 0; got {value}"):
            replace(ForgettingPolicy(), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fraction must be between 0 and 1; got 1.5"):
        ForgettingPolicy(fraction=1.5)
    with pytest.raises(ValueError, match="every_turns must be at least 1; got 0"):
        ForgettingPolicy(every_turns=0)
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(1,\)"):
        salience(np.array([1, 2]), np.array([1]), 5)
