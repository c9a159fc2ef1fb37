"""A shell that types `memarch memory ...` about one memory, in this process."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from memarch.cli.app import app
from memarch.dialogue.memory import DialogueMemory

DIALOGUE = """Ada: My sister Nora moved to Lyon.
Bo: The boiler was repaired on Tuesday.
Ada: I am allergic to hazelnuts,
and to kiwi.
"""


class Shell:
    """Types commands about one memory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.location = str(home / "memories")

    def __call__(self, *arguments: str, stdin: str | bytes = "", code: int = 0, place: bool = True) -> Result:
        typed = ["memory", *arguments, *(["--path", self.location] if place else [])]
        result = CliRunner().invoke(app, typed, input=stdin)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *arguments: str, stdin: str = "", code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", stdin=stdin, code=code).stdout)

    def turns(self, user: str = "default") -> list[tuple[str, str]]:
        with DialogueMemory(self.location, user=user, embedder="none") as memory:
            return [(turn.role, turn.text) for turn in memory.turns()]
