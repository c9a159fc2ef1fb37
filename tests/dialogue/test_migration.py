"""Migration: everything arrives and is compared, a failure at any write can be taken up, nothing is mixed up."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from memarch.dialogue import migration
from memarch.dialogue.compact import CompactMemory, ExtractiveSummarizer
from memarch.dialogue.errors import MigrationError
from memarch.dialogue.migration import MOVING, migrate
from memarch.dialogue.stores import open_store
from memarch.dialogue.stores.base import Store
from memarch.dialogue.transfer import export_jsonl, import_jsonl

from ._stores_with_content import FailsAt, content, fill, filled, ids, new_turn
from .stores._stores import MilvusWorld, PostgresWorld, World


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Store]:
    store = filled(tmp_path / "source")
    yield store
    store.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "target", user="ada")
    yield store
    store.close()


def test_everything_arrives(source: Store, target: Store) -> None:
    before = content(source)
    steps: list[tuple[int, int]] = []
    report = migrate(source, target, progress=lambda done, total: steps.append((done, total)))
    assert content(target) == before == content(source)
    assert (report.num_turns, report.num_chunks, report.renumbered) == (58, 60, True)
    assert report.num_vectors == 58 and steps[-1] == (116, 116)
    assert target.get_setting(MOVING) is None and target.verify() == []
    assert target.get_setting("compact_blocks") == "20,5" and target.get_setting("forgotten_at") == "48"
    (receipt,) = json.loads(target.get_setting("imported_receipts") or "[]")
    assert receipt["source_ids"] == ["t7", "t8"]
    query = source.get_vectors(ids(20))[1][0]
    near = [store.nearest(query, 5) for store in (source, target)]
    np.testing.assert_allclose(near[0][1], near[1][1], atol=1e-5)


def test_a_finished_move_may_be_asked_for_again(source: Store, target: Store) -> None:
    report = migrate(source, target)
    assert migrate(source, target) == report  # the process may have been killed before it could say so
    source.add_turns([new_turn("later", "One more.")])
    with pytest.raises(MigrationError, match="has other turns"):
        migrate(source, target)


def test_summaries_fit_the_new_numbers(source: Store, target: Store) -> None:
    migrate(source, target)
    CompactMemory(target, ExtractiveSummarizer()).update()
    covered = [number for summary in target.summaries(level=1) for number in summary.sources]
    assert sorted(covered) == list(range(1, 59))
    assert CompactMemory(target, ExtractiveSummarizer()).update() == []


def test_without_gaps_summaries_come_along(tmp_path: Path, target: Store) -> None:
    source = open_store(tmp_path / "plain", user="ada")
    source.add_turns([new_turn(f"t{n}", f"I saw {n} birds.", n) for n in range(150)])
    CompactMemory(source, ExtractiveSummarizer()).update()
    report = migrate(source, target)
    assert not report.renumbered and report.num_summaries == 9
    assert [(s.level, s.text, s.sources) for s in target.summaries(level=1)] == [
        (s.level, s.text, s.sources) for s in source.summaries(level=1)
    ]
    assert CompactMemory(target, ExtractiveSummarizer()).update() == []
    source.close()


def test_a_failure_at_any_write_can_be_taken_up(tmp_path: Path, source: Store) -> None:
    wanted = content(source)
    number = 0
    while True:
        target = open_store(tmp_path / f"target{number}", user="ada")
        try:
            migrate(source, FailsAt(target, number))  # type: ignore[arg-type]
            finished = True
        except OSError:
            finished = False
        if not finished:
            assert number == 0 or target.get_setting(MOVING) is not None
            migrate(source, target)
        assert content(target) == wanted and target.get_setting(MOVING) is None
        target.close()
        if finished:
            break
        number += 1
    assert number > 8


def test_a_target_with_other_memories_is_left_alone(source: Store, target: Store) -> None:
    target.add_turns([new_turn("mine", "My own turn.")])
    with pytest.raises(MigrationError, match="expected an empty memory to move to"):
        migrate(source, target)
    assert [turn.text for turn in target.turns()] == ["My own turn."]


def test_a_half_done_move_from_elsewhere_is_named(source: Store, target: Store) -> None:
    target.put_setting(MOVING, '["elsewhere", "ada"]')
    with pytest.raises(MigrationError, match="half-done move from .*elsewhere"):
        migrate(source, target)


def test_a_difference_is_found_and_the_target_stays_marked(
    source: Store, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_states = migration.put_states

    def without_pins(store: Store, entries: list, *rest: object, **options: object) -> int:  # type: ignore[type-arg]
        return put_states(store, [], *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(migration, "put_states", without_pins)
    with pytest.raises(MigrationError, match="marks or vectors of turn 1 differ"):
        migrate(source, target)
    assert target.get_setting(MOVING) is not None
    monkeypatch.undo()
    assert migrate(source, target).num_vectors == 58


@pytest.mark.parametrize(
    ("start", "goal"), [(World, PostgresWorld), (PostgresWorld, MilvusWorld), (MilvusWorld, World)]
)
def test_from_any_store_to_any_other(tmp_path: Path, start: type[World], goal: type[World]) -> None:
    worlds = []
    for name, kind in (("from", start), ("to", goal)):
        (tmp_path / name).mkdir()
        worlds.append(kind(tmp_path / name))
    source, target = (world.open() for world in worlds)
    try:
        fill(source)
        assert migrate(source, target).num_vectors == 58
        assert content(target) == content(source) and target.verify() == []
        export_jsonl(target, tmp_path / "copy.jsonl", vectors=True)
        third = worlds[0].open("ben")
        assert import_jsonl(third, tmp_path / "copy.jsonl").num_vectors == 58
        assert content(third) == content(source)
    finally:
        for world in worlds:
            world.close()


def test_an_empty_memory_moves_too(tmp_path: Path, target: Store) -> None:
    source = open_store(tmp_path / "empty", user="ada")
    assert migrate(source, target).num_turns == 0
    source.close()
