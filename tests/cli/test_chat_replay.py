"""`memarch chat --replay`: what it prints as text and as JSON, what it stores, and how it ends."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from memarch.cli import _replay_figure
from memarch.cli._chat_replay import replay
from memarch.cli.app import app
from memarch.dialogue.errors import GeneratorError
from memarch.dialogue.generators.base import Generator
from memarch.dialogue.generators.extractive import ExtractiveGenerator
from memarch.dialogue.memory import DialogueMemory

from ..dialogue._scripted import ScriptedGenerator

TALK = [
    {
        "role": "user",
        "text": "My kite is crimson.",
        "session": "1",
        "time": "2025-03-01T18:00:00+00:00",
        "source_id": "a",
    },
    {"role": "assistant", "text": "Lovely.", "session": "1", "time": "2025-03-01T18:01:00+00:00"},
    {"role": "user", "text": "My sister Nora moved to Lyon.", "session": "2", "time": "2025-03-08T18:00:00+00:00"},
    {"role": "assistant", "text": "Far away.", "session": "2", "time": "2025-03-08T18:01:00+00:00"},
]
ASK = [
    {"question": "Which colour is my kite?", "answer": "crimson", "evidence": ["a", "gone"]},
    {"question": "Who plays the harp?", "answer": "never said", "kind": "never-said"},
]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[DialogueMemory]:
    with DialogueMemory(tmp_path / "memory", embedder="none") as memory:
        yield memory


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    return written(tmp_path / "talk.jsonl", TALK)


def written(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def run(
    memory: DialogueMemory, file: Path, ask: Path | None = None, generator: Generator | None = None, **options: object
) -> int:
    return replay(memory, generator or ExtractiveGenerator(), file, ask, console=Console(), **options)  # type: ignore[arg-type]


def test_answers_evidence_and_totals(
    memory: DialogueMemory, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(memory, talk, written(tmp_path / "ask.jsonl", ASK)) == 0
    out = capsys.readouterr().out
    assert "talk.jsonl: 4 turns stored; the memory has 4 turns in 2 sessions." in out
    assert "1/2  Which colour is my kite?\n    You said on 1 March 2025" in out
    assert "    expected: crimson: said\n" in out
    assert "    evidence: a, 3 turns ago, found as number 1: \u201cMy kite is crimson.\u201d\n" in out
    assert "    evidence: gone: the memory has no turn of this name\n" in out
    assert (
        "2/2  Who plays the harp?\n    I found nothing about that in memory.\n    expected: never said: said\n" in out
    )
    assert "evidence in the prompts: 1 of 1, recall 100 % over questions; by age: 0 to 29 turns 1 of 1" in out
    assert "expected answers: 2 of 2 said" in out and "of 3,500, while the dialogue grew to" in out
    assert [turn.source_id for turn in memory.turns()] == ["a", "talk:2", "talk:3", "talk:4"]


def test_a_second_replay_says_that_all_is_there(
    memory: DialogueMemory, talk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(memory, talk)
    capsys.readouterr()
    assert run(memory, talk) == 0
    assert "0 turns stored (4 were there or had been erased); the memory has 4 turns" in capsys.readouterr().out


def test_json_is_an_object_a_line(
    memory: DialogueMemory, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(memory, talk, written(tmp_path / "ask.jsonl", ASK), json=True, budget_tokens=900) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["replayed", "answer", "answer", "totals"]
    assert (lines[0]["num_added"], lines[0]["num_turns"], lines[0]["user"]) == (4, 4, "default")
    first = lines[1]
    assert first["agrees"] is True and first["recall"] == 1 and first["prompt_tokens"] <= 900
    assert first["evidence"][0] == {
        "source_id": "a", "turn": 1, "age_turns": 3, "rank": 1, "part": "retrieved", "text": "My kite is crimson.",
    }  # fmt: skip
    assert lines[3]["recall"] == 1 and lines[3]["evidence_unknown"] == 1 and lines[3]["agreeing"] == 2
    assert [turn for turn, _, _ in lines[3]["prompt_tokens"]] == [2]


def test_a_failing_model_ends_it_with_what_came(
    memory: DialogueMemory, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = ScriptedGenerator("Crimson.", [GeneratorError("the model is gone")])
    assert run(memory, talk, written(tmp_path / "ask.jsonl", ASK), generator) == 1
    captured = capsys.readouterr()
    assert "error: the model is gone" in captured.err and "expected answers: 1 of 1 said" in captured.out


def test_ctrl_c_ends_it_with_what_came(
    memory: DialogueMemory, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = ScriptedGenerator("Crimson.", [KeyboardInterrupt()])
    assert run(memory, talk, written(tmp_path / "ask.jsonl", ASK), generator) == 130
    captured = capsys.readouterr()
    assert "interrupted after 1 of 2 questions" in captured.err and "expected answers: 1 of 1" in captured.out


def test_locomos_own_questions_are_asked(
    memory: DialogueMemory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [{"speaker": "Ann", "dia_id": "D1:1", "text": "My kite is crimson."}]
    asked = [{"question": "Which colour is Ann's kite?", "answer": "crimson", "evidence": ["D1:1"], "category": 4}]
    later = [{"speaker": "Bob", "dia_id": "D2:1", "text": "Good night."}]
    talk = {"session_1": said, "session_2": later}
    samples = [{"sample_id": f"conv-{i}", "conversation": talk, "qa": asked} for i in (1, 2)]
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps(samples), encoding="utf-8")
    with pytest.raises(ValueError, match="choose one of its 2 conversations"):
        run(memory, path)
    assert run(memory, path.with_name("locomo.json#conv-2")) == 0
    out = capsys.readouterr().out
    assert "1/1  Which colour is Ann's kite?" in out and "expected: crimson: said" in out


def test_what_was_recorded_cannot_steer_a_terminal(
    memory: DialogueMemory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = written(tmp_path / "talk.jsonl", [{"role": "user", "text": "My \x1b[31mkite\x07 is red.\nAnd blue."}])
    ask = written(tmp_path / "ask.jsonl", [{"question": "Kite\x1b?", "evidence": ["talk:1"]}])
    assert run(memory, talk, ask) == 0
    assert "\x1b" not in (out := capsys.readouterr().out) and "\x07" not in out


def test_the_figure_is_a_png(
    memory: DialogueMemory, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "new" / "replay.png"
    assert run(memory, talk, written(tmp_path / "ask.jsonl", ASK), plot=figure) == 0
    assert figure.read_bytes().startswith(b"\x89PNG") and f"figure: {figure}" in capsys.readouterr().out


def test_without_matplotlib_nothing_is_stored(
    memory: DialogueMemory, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_replay_figure.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"drawing needs matplotlib .*pip install 'memarch\[chat\]'"):
        run(memory, talk, plot=tmp_path / "replay.png")
    assert memory.stats().num_turns == 0


def test_the_command_keeps_a_memory_only_where_path_says(
    talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("MEMARCH_MEMORY", str(home / "mine"))
    command = ["chat", "--model", "extractive", "--embedder", "none", "--replay", str(talk)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "4 turns stored" in result.output and not home.exists()
    kept = ["--path", str(tmp_path / "kept")]
    assert "4 turns stored;" in CliRunner().invoke(app, [*command, *kept]).output
    assert "0 turns stored (4 were there" in CliRunner().invoke(app, [*command, *kept]).output
    assert "4 turns stored;" in CliRunner().invoke(app, [*command, *kept, "--no-log"]).output


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--plot", "a.png"], 2, "--plot draws what a replay found"),
        (["--replay", "nothing.jsonl"], 3, "nothing.jsonl: No such file"),
        (["--replay", "{talk}", "--ask", "{talk}"], 2, "line 1: expected the fields question, answer, evidence, kind"),
        (["--replay", "{talk}", "--budget", "20"], 0, ""),
    ],
)
def test_bad_options_and_files(
    options: list[str], code: int, message: str, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    filled = [option.format(talk=talk) for option in options]
    result = CliRunner().invoke(app, ["chat", "--model", "extractive", "--embedder", "none", *filled])
    assert result.exit_code == code and message in result.stderr, result.output
