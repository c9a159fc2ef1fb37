"""The demo: every act is there, the acts run end to end at a tiny size."""

import importlib
import io
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from memarch.cli import demo
from memarch.cli.app import app
from memarch.cli.demo import agent, chat, language_model
from memarch.data.dialogues import generate_dialogue
from memarch.dialogue.generators.registry import ModelInfo
from memarch.dialogue.questions import Question
from memarch.models import MemoryLMConfig
from memarch.training import LMSettings

CONFIG = MemoryLMConfig(vocab_size=300, d_model=16, num_layers=2, num_heads=2, mlp_dim=24, tokenizer="bpe")
SETTINGS = LMSettings(num_steps=1, batch_size=2, seq_len=32, max_eval_tokens=200)


def perform(steps: int | None, minutes: float = 1e-4) -> str:
    file = io.StringIO()
    options = demo.DemoOptions(minutes=minutes, steps=steps, seed=0)
    console = Console(file=file, width=100)
    language_model.run(options, console, config=CONFIG, settings=SETTINGS, memory_tokens=(500, 1000))
    return file.getvalue()


def row(text: str, name: str) -> list[str]:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return next(row[1:] for row in cells if row and name in row[0])


def test_the_act_ends_in_a_table_of_equals() -> None:
    text = perform(steps=3)
    yaad, attention = (int(cell.replace(",", "")) for cell in row(text, "parameters"))
    assert abs(yaad - attention) <= 3 * 16 * 2 / 2
    assert row(text, "steps") == ["3", "3"]
    small, large = row(text, "after 500 tokens"), row(text, "after 1,000 tokens")
    assert small[0] == large[0] and small[1] != large[1]
    assert all(float(cell) > 0 for cell in row(text, "bits per byte"))
    for prompt in language_model.PROMPTS:
        assert text.count(f"{prompt} ...") == 2
    assert "PSF-2.0" in text


def test_the_budget_decides_the_steps() -> None:
    assert language_model._steps_in(2.0, 0.3) == 400
    assert language_model._steps_in(2.0, 60.0) == language_model.MIN_STEPS


def test_the_estimate_is_what_was_measured_not_what_was_asked() -> None:
    options = demo.DemoOptions(minutes=2.0, steps=None, seed=0)
    assert language_model._estimate(options, 400, 0.3) == " (about 2.0 minutes for yaad here; --steps 400 repeats them)"
    slow = language_model._estimate(options, 100, 6.0)
    assert "about 10.0 minutes" in slow and "more than the 2 asked for" in slow
    assert language_model._estimate(replace(options, steps=5), 5, 0.0) == ""


def test_the_budget_is_used_when_no_steps_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "MIN_STEPS", 4)
    text = perform(steps=None)
    assert row(text, "steps") == ["4", "4"] and "--steps 4 repeats them" in text


def test_every_act_can_be_performed() -> None:
    for name in demo.ACTS:
        act = importlib.import_module(f"memarch.cli.demo.{name}")
        assert act.TITLE and callable(act.run)


def test_the_command_performs_the_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(language_model, "run", lambda options, console: seen.append(options))
    monkeypatch.setattr(agent, "run", lambda options, console: seen.append("agent"))
    monkeypatch.setattr(chat, "run", lambda options, console: seen.append("chat"))
    result = CliRunner().invoke(app, ["demo", "--minutes", "0.5", "--seed", "7"])
    assert result.exit_code == 0 and "Act 1 of 3: a language model that remembers with Yaad" in result.output
    assert "Act 3 of 3: a chat that remembers" in result.output
    assert seen == [demo.DemoOptions(minutes=0.5, steps=None, seed=7), "agent", "chat"]
    for options, message in ((["--minutes", "0"], "--minutes must be positive"), (["--steps", "0"], "--steps must be")):
        result = CliRunner().invoke(app, ["demo", *options])
        assert result.exit_code == 2 and message in result.stderr


def test_the_real_sizes_are_valid() -> None:
    assert replace(language_model.CONFIG, mixer="attention").d_model == language_model.CONFIG.d_model


def test_the_agent_says_how_well_it_plays_and_draws_what_it_reads(tmp_path: Path) -> None:
    file, figure, threads = io.StringIO(), tmp_path / "runs" / "agent.png", torch.get_num_threads()
    agent.run(demo.DemoOptions(1.0, 1, 0), Console(file=file, width=100), figure=figure, episodes=2)
    text = file.getvalue()
    assert re.search(r"Success in 2 episodes .*: [01]\.\d+ before, [01]\.\d+ after 1,024 steps in \d+ s\.", text)
    assert figure.read_bytes().startswith(b"\x89PNG") and str(figure) in text
    assert torch.get_num_threads() == threads


def test_without_gymnasium_the_demo_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "memarch.agents", None)
    file = io.StringIO()
    agent.run(demo.DemoOptions(1.0, 1, 0), Console(file=file, width=100), figure=tmp_path / "agent.png")
    assert file.getvalue().startswith("No agent: ") and not list(tmp_path.iterdir())


def converse(figure: Path, *, is_terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=is_terminal, color_system=None)
    chat.run(demo.DemoOptions(1.0, None, 0), console, num_turns=180, embedder="none", figure=figure)
    return file.getvalue()


def test_the_chat_asks_ten_questions_and_says_what_they_rest_on(tmp_path: Path) -> None:
    text = converse(tmp_path / "runs" / "chat.png")
    assert "A made-up dialogue of 180 turns" in text and "by words alone" in text
    assert all(f"\n{number}/10  " in text for number in range(1, 11))
    assert text.count("    expected: ") == 10 and "    evidence: S" in text
    assert "All 16 questions about it: recall of the evidence " in text
    assert (tmp_path / "runs" / "chat.png").read_bytes().startswith(b"\x89PNG")
    assert "Talk to this memory" not in text


def test_the_chat_goes_on_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, *_: object, **__: object) -> None:
        raise ImportError("drawing needs matplotlib")

    monkeypatch.setattr("memarch.cli._replay_figure.draw", missing)
    assert "No figure: drawing needs matplotlib." in converse(tmp_path / "chat.png")


@pytest.mark.parametrize(("typed", "talks"), [("y", True), ("", False)])
def test_a_chat_is_offered_on_a_terminal(
    typed: str, talks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def talk(options: Any) -> int:
        assert any(Path(options.path).iterdir())
        seen.append(options)
        return 0

    monkeypatch.setattr("memarch.cli._chat_run.run", talk)
    known = [ModelInfo("smollm2", "ready" if talks else "missing", ""), ModelInfo("extractive", "ready", "")]
    monkeypatch.setattr("memarch.dialogue.generators.registry.available", lambda: known)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed + "\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    text = converse(tmp_path / "chat.png", is_terminal=True)
    assert "Talk to this memory yourself? It answers by quoting" in text and len(seen) == talks
    assert ("/model smollm2 changes" in text) == talks
    if talks:
        assert (seen[0].model, seen[0].embedder) == ("extractive", "none")
        assert not Path(seen[0].path).exists()


def test_questions_are_of_all_kinds_and_from_the_whole_dialogue() -> None:
    asked = [Question(q.question, q.answer, q.evidence, q.kind) for q in generate_dialogue(360, seed=0).questions]
    chosen = chat.choose(asked, 10)
    assert len(chosen) == 10 and set(Counter(q.kind for q in chosen).values()) == {2}
    assert asked.index(chosen[0]) < len(asked) / 4 and [q for q in asked if q in chosen] == chosen
    assert chat.choose(asked[:3], 10) == asked[:3] and chat.choose([], 10) == []
