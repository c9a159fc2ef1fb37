"""Export and import: what comes back, what is refused with its line, what stays erased, what a crash leaves behind."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memarch.data.dialogues import generate_dialogue, write_jsonl
from memarch.dialogue.compact import CompactMemory, ExtractiveSummarizer
from memarch.dialogue.stores import open_store
from memarch.dialogue.stores.base import Store
from memarch.dialogue.transfer import ImportReport, export_jsonl, import_jsonl

from ._stores_with_content import MODEL, FailsAt, content, filled, new_turn


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    folder = tmp_path_factory.mktemp("source")
    store = filled(folder / "store")
    assert export_jsonl(store, folder / "ada.jsonl", vectors=True) == 58
    wanted = content(store)
    store.close()
    return folder / "ada.jsonl", wanted


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "target", user="ada")
    yield opened
    opened.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def rewrite(path: Path, changed: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in changed), "utf-8")


def test_everything_comes_back(exported: tuple[Path, list[Any]], store: Store) -> None:
    path, wanted = exported
    report = import_jsonl(store, path)
    assert (report.num_added, report.num_duplicates, report.num_erased, report.num_vectors) == (58, 0, 0, 58)
    assert content(store) == wanted and store.verify() == []
    assert store.get_setting("compact_blocks") == "20,5" and store.get_setting("forgotten_at") == "48"
    assert import_jsonl(store, path) == ImportReport(0, 58, 0, 0, 0)
    assert content(store) == wanted


def test_the_file_says_what_it_is_and_is_private(exported: tuple[Path, list[Any]]) -> None:
    path, _ = exported
    first, *_, last = lines(path)
    assert (first["type"], first["version"], first["user"]) == ("memarch-memory", 1, "ada")
    assert first["embedder"] == {"name": MODEL, "dim": 5}
    assert last == {"type": "end", "turns": 58, "summaries": 3, "receipts": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.glob(".*")) == []
    assert "SECRET" not in path.read_text("utf-8") and "日本" in path.read_text("utf-8").replace(
        "\\u65e5\\u672c", "日本"
    )


def test_a_second_export_is_the_same_and_vectors_are_optional(exported: tuple[Path, list[Any]], store: Store) -> None:
    path, wanted = exported
    import_jsonl(store, path)
    again = path.with_name("again.jsonl")
    export_jsonl(store, again)
    assert not any("vector" in line for line in again.read_text("utf-8").splitlines())
    assert lines(again)[0]["embedder"] is None
    assert [line["text"] for line in lines(again) if line["type"] == "turn"] == [row[3] for row in wanted[:58]]
    assert [line for line in lines(again) if line["type"] == "receipt"][0]["source_ids"] == ["t7", "t8"]


def test_summaries_come_along_with_their_lineage(tmp_path: Path, store: Store) -> None:
    source = open_store(tmp_path / "source", user="ada")
    source.add_turns([new_turn(f"t{n}", f"I saw {n} birds.", n) for n in range(150)])
    CompactMemory(source, ExtractiveSummarizer()).update()
    export_jsonl(source, tmp_path / "s.jsonl")
    assert import_jsonl(store, tmp_path / "s.jsonl").num_summaries == 9
    assert [(s.level, s.text, s.sources) for s in store.summaries(level=1)] == [
        (s.level, s.text, s.sources) for s in source.summaries(level=1)
    ]
    assert CompactMemory(store, ExtractiveSummarizer()).update() == []
    source.close()


def test_what_was_erased_stays_erased(exported: tuple[Path, list[Any]], store: Store) -> None:
    path, _ = exported
    import_jsonl(store, path)
    number = store.find_turns(source_id="t5")
    store.erase(number, selector={"source_id": "t5"})
    assert import_jsonl(store, path) == ImportReport(0, 57, 1, 0, 0)
    assert store.find_turns(source_id="t5") == []
    assert import_jsonl(store, path, revive=True).num_added == 1
    # A receipt that came with an export counts as well.
    plain = path.with_name("plain.jsonl")
    rewrite(plain, [{"role": "Ada", "text": "SECRET", "source_id": "t7"}])
    assert import_jsonl(store, plain) == ImportReport(0, 0, 1, 0, 0)


def test_a_failure_at_any_write_can_be_taken_up(exported: tuple[Path, list[Any]], tmp_path: Path) -> None:
    path, wanted = exported
    number = 0
    while True:
        store = open_store(tmp_path / str(number), user="ada")
        try:
            import_jsonl(FailsAt(store, number), path)  # type: ignore[arg-type]
            finished = True
        except OSError:
            finished = False
            assert sum(1 for _ in store.turns()) in (0, 58)
        if not finished:
            import_jsonl(store, path)
        assert content(store) == wanted and store.get_setting("import_pending") is None
        store.close()
        if finished:
            break
        number += 1
    assert number > 8


def test_into_a_memory_that_has_turns_already(exported: tuple[Path, list[Any]], store: Store) -> None:
    path, wanted = exported
    store.add_turns([new_turn("own", "My own words."), new_turn("t1", "I met person 1 in town 1.")])
    report = import_jsonl(store, path)
    assert (report.num_added, report.num_duplicates) == (57, 1)
    assert {turn.source_id for turn in store.turns()} == {row[0] for row in wanted[:58]} | {"own"}
    CompactMemory(store, ExtractiveSummarizer()).update()
    covered = [number for summary in store.summaries(level=1) for number in summary.sources]
    assert sorted(covered) == list(range(1, 60))


def test_vectors_of_another_model_are_not_taken(exported: tuple[Path, list[Any]], store: Store) -> None:
    store.use_embedder("other@2", 3)
    assert import_jsonl(store, exported[0]).num_vectors == 0
    assert store.embedder() == ("other@2", 3) and store.stats().num_pending == 60


def test_a_plain_dialogue_is_read(tmp_path: Path, store: Store) -> None:
    dialogue = generate_dialogue(120, seed=1)
    write_jsonl(tmp_path / "d.jsonl", dialogue.turns)
    assert import_jsonl(store, tmp_path / "d.jsonl").num_added == 120
    got = [(turn.role, turn.text, turn.session, turn.time, turn.source_id) for turn in store.turns()]
    assert got == [(turn.role, turn.text, turn.session, turn.time, turn.source_id) for turn in dialogue.turns]
    (tmp_path / "short.jsonl").write_text('\ufeff{"role": "user", "text": "Hi"}\n\n{"role": "assistant", "text": ""}\n')
    assert import_jsonl(store, tmp_path / "short.jsonl").num_added == 2
    assert [turn.source_id for turn in store.turns(last=2)] == ["short:1", "short:3"]


def change(place: int, **fields: Any) -> Any:
    return lambda all_lines: [{**line, **fields} if n == place else line for n, line in enumerate(all_lines, 1)]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(1, version=2), "line 1: expected version 1 of the format; got 2: upgrade memarch"),
        (change(3, text="edited"), "line 3: (the text does not match its sha256|spans of 't2' must cover)"),
        (change(3, turn=1), "line 3: turns should ascend; got turn 1 after 1"),
        (change(3, source_id="t1"), "line 3: source_id 't1' is there twice"),
        (change(3, time="2026-01-01T00:00:00"), "line 3: time needs its zone"),
        (change(3, role=5), "line 3: role must be a string; got 5"),
        (change(3, chunks=[{"span": [0, 3]}]), "line 3: spans of 't2' must cover its text"),
        (change(3, chunks=[{"span": [0]}]), r"line 3: span should be \[start, stop\]"),
        (change(3, surprise=1), "line 3: expected the fields .* got 'surprise' too"),
        (change(3, type="turns"), "line 3: expected a line of type turn, summary, receipt or end; got 'turns'"),
        (lambda x: x[:-1], "line 63: the file is cut off"),
        (lambda x: x[:5] + x[6:], "line 63: expected 58 turns above; there are 57"),
        (lambda x: [*x, x[1]], "line 65: expected nothing after the line that ends the file"),
        (lambda x: [{k: v for k, v in x[0].items() if k != "version"}, *x[1:]], "line 1: 'version' is missing"),
        (lambda x: [{"role": "a", "text": "b"}, *x], "line 2: expected the fields"),
        (lambda x: [{"role": "a", "text": "b"}, {"role": "a"}], "line 2: 'text' is missing"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_stored(
    exported: tuple[Path, list[Any]], tmp_path: Path, store: Store, edit: Any, message: str
) -> None:
    bad = tmp_path / "bad.jsonl"
    rewrite(bad, edit(lines(exported[0])))
    with pytest.raises(ValueError, match=f"bad.jsonl, {message}"):
        import_jsonl(store, bad)
    assert store.last_turn() == 0


def test_bad_vectors_bytes_and_json_are_named(exported: tuple[Path, list[Any]], tmp_path: Path, store: Store) -> None:
    bad = tmp_path / "bad.jsonl"
    for vector in ("!!", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="):
        changed = lines(exported[0])
        changed[1]["chunks"][0]["vector"] = vector
        rewrite(bad, changed)
        with pytest.raises(ValueError, match="line 2: expected a (unit )?vector"):
            import_jsonl(store, bad)
    for raw, message in (
        (b"\xff\xfe", "expected UTF-8"),
        (b"user: hi", "expected one JSON"),
        (b"[1]", "expected a JSON object"),
    ):
        bad.write_bytes(b'{"role": "a", "text": "b"}\n' + raw)
        with pytest.raises(ValueError, match=f"line 2: {message}"):
            import_jsonl(store, bad)
    assert store.last_turn() == 0


def test_a_name_that_stands_for_another_text_is_refused(exported: tuple[Path, list[Any]], store: Store) -> None:
    store.add_turns([new_turn("t2", "Something else.")])
    with pytest.raises(ValueError, match="line 3: source_id 't2' stands for another text in this memory"):
        import_jsonl(store, exported[0])
    assert store.last_turn() == 1


def test_a_failed_export_leaves_the_old_file(exported: tuple[Path, list[Any]], tmp_path: Path) -> None:
    source = filled(tmp_path / "source", num_turns=20)
    path = tmp_path / "old.jsonl"
    path.write_text("old")

    class Broken:
        def __getattr__(self, name: str) -> Any:
            if name == "summaries":
                raise OSError("disk")
            return getattr(source, name)

    with pytest.raises(OSError, match="disk"):
        export_jsonl(Broken(), path)  # type: ignore[arg-type]
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir() if p.is_file()] == ["old.jsonl"]
    source.close()
