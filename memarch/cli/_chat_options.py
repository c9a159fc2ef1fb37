"""What a chat was asked for on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

# Without one small models chat about themselves instead of answering.
DEFAULT_SYSTEM = "You are a helpful assistant who remembers earlier conversations. Answer briefly, in your own words."


@dataclass(frozen=True)
class Options:
    """The options of `memarch chat`. ValueError for two that exclude each other, and for what is out of range."""

    message: str | None = None
    go_on: bool = False
    session: str | None = None
    model: str | None = None
    system: str = DEFAULT_SYSTEM
    budget_tokens: int = 3500
    model_summaries: bool = False
    timeout_seconds: float = 120.0
    no_log: bool = False
    stream: bool = True
    yes: bool = False
    as_json: bool = False
    replay: Path | None = None
    ask: Path | None = None
    plot: Path | None = None
    path: str | None = None
    path_is_typed: bool = True
    user: str = "default"
    vectors: str | None = None
    embedder: str | None = None
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.go_on and self.session is not None:
            raise ValueError("--continue goes on with the latest session, --session names one: give one of them")
        if self.session is not None and not self.session.strip():
            raise ValueError("--session is empty: give a name")
        if self.ask is not None and self.replay is None:
            raise ValueError("--ask needs the dialogue that the questions are about: add --replay FILE")
        if self.plot is not None and self.replay is None:
            raise ValueError("--plot draws what a replay found: add --replay FILE")
        if self.replay is not None and self.message is not None:
            raise ValueError("--replay takes its questions from --ask; got a message too: drop one of them")
        if self.budget_tokens < 1:
            raise ValueError(f"--budget must be at least 1 token; got {self.budget_tokens}")
        if not self.timeout_seconds > 0:
            raise ValueError(f"--timeout must be above 0 seconds; got {self.timeout_seconds:g}")
