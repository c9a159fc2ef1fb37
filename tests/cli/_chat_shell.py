"""Types `memarch chat` in this process, with a model that says what a test tells it to."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from memarch.cli.app import app
from memarch.dialogue.memory import DialogueMemory

from ..dialogue._scripted import ScriptedGenerator


class ChatShell:
    """Types into one chat after another about one memory. model: answers, one after the other."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.location = str(home / "memories")
        self.model = ScriptedGenerator()
        self.opened: list[str | None] = []

        def open_generator(spec: str | None = None, *, timeout_seconds: float = 1.0) -> ScriptedGenerator:
            del timeout_seconds
            self.opened.append(spec)
            return self.model

        monkeypatch.setattr("memarch.dialogue.generators.registry.open_generator", open_generator)

    def __call__(
        self, typed: str | bytes, *options: str, answers: tuple[Any, ...] = (), code: int = 0, path: str | None = None
    ) -> Result:
        self.model.answers = list(answers)
        arguments = ["chat", *options, "--embedder", "none", "--path", path or self.location]
        result = CliRunner().invoke(app, arguments, input=typed)
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        assert self.model.answers == [], "an answer that nobody asked for"
        return result

    def events(self, typed: str, *options: str, answers: tuple[Any, ...] = (), code: int = 0) -> list[dict[str, Any]]:
        shown = self(typed, *options, "--json", answers=answers, code=code).stdout
        return [json.loads(line) for line in shown.splitlines()]

    def command(self, typed: str, *options: str, answers: tuple[Any, ...] = ()) -> dict[str, Any]:
        """What the last command found."""
        return [event for event in self.events(typed, *options, answers=answers) if event["event"] == "command"][-1]

    def turns(self, session: str | None = None) -> list[tuple[str, str]]:
        with DialogueMemory(self.location, embedder="none") as memory:
            return [(turn.role, turn.text) for turn in memory.turns(session=session)]
