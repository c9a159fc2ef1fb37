"""The demo: every act is there, the act on language models runs end to end at a tiny size."""

import importlib
import io
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from memarch.cli import demo
from memarch.cli.app import app
from memarch.cli.demo import language_model
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
    result = CliRunner().invoke(app, ["demo", "--minutes", "0.5", "--seed", "7"])
    assert result.exit_code == 0 and "Act 1 of 1: a language model that remembers with Yaad" in result.output
    assert seen == [demo.DemoOptions(minutes=0.5, steps=None, seed=7)]
    for options, message in ((["--minutes", "0"], "--minutes must be positive"), (["--steps", "0"], "--steps must be")):
        result = CliRunner().invoke(app, ["demo", *options])
        assert result.exit_code == 2 and message in result.stderr


def test_the_real_sizes_are_valid() -> None:
    assert replace(language_model.CONFIG, mixer="attention").d_model == language_model.CONFIG.d_model
