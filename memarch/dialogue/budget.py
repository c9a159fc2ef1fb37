"""How many tokens a prompt may have, how its parts share them, and the report of what each part got."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Tokens of a whole prompt and the shares of its memory.

    tokens: of everything, templates included; the answer's tokens are the caller's to reserve. compact, retrieved,
    recent: shares; a float is a fraction of what the system prompt and the user's message leave, an int is tokens (1.0
    is all of it, 1 one token). per_message, per_prompt: what a chat template adds to a message and to the whole, for
    counters that see texts only; the defaults cover the usual templates. passes_on: what a part does not need goes to
    the others.

    Raises: ValueError naming the field, or if the fractions add up to more than 1.
    """

    tokens: int = 3500
    compact: float | int = 0.25
    retrieved: float | int = 0.5
    recent: float | int = 0.25
    per_message: int = 6
    per_prompt: int = 8
    passes_on: bool = True

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("per_message", 0), ("per_prompt", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}")
        shares = {name: getattr(self, name) for name in ("compact", "retrieved", "recent")}
        for name, value in shares.items():
            if isinstance(value, bool) or not (value >= 0 and (isinstance(value, int) or value <= 1.0)):
                raise ValueError(f"{name} must be a fraction from 0.0 to 1.0, or a number of tokens; got {value!r}")
        fractions = sum(value for value in shares.values() if isinstance(value, float))
        if fractions > 1 + 1e-9:
            raise ValueError(
                f"the fractions of compact, retrieved and recent must add up to at most 1; got {fractions}"
            )

    def share(self, part: str, room: int) -> int:
        """Tokens of `part` ("compact", "retrieved", "recent") when `room` are left for memory."""
        value: float | int = {"compact": self.compact, "retrieved": self.retrieved, "recent": self.recent}[part]
        return int(value * room) if isinstance(value, float) else min(value, room)


@dataclass(frozen=True)
class Trimmed:
    """Something that was left out or shortened: its name, "dropped" or "cut", and why."""

    what: str
    action: str
    why: str


@dataclass(frozen=True)
class PartReport:
    """One part of a prompt: tokens it was allowed and uses, names of what is in it, what was trimmed."""

    name: str
    allowed_tokens: int
    used_tokens: int
    kept: tuple[str, ...] = ()
    trimmed: tuple[Trimmed, ...] = ()


@dataclass(frozen=True)
class PromptReport:
    """The parts in their order; `used_tokens` counts the whole with its templates and never exceeds the budget."""

    budget_tokens: int
    used_tokens: int
    parts: tuple[PartReport, ...]

    @property
    def overhead_tokens(self) -> int:
        """What templates, tags and the note on memory add to the parts."""
        return self.used_tokens - sum(part.used_tokens for part in self.parts)

    @property
    def trimmed(self) -> bool:
        """Whether anything was left out or shortened."""
        return any(part.trimmed for part in self.parts)

    def part(self, name: str) -> PartReport:
        """The part "system", "compact", "retrieved", "recent" or "user"."""
        return next(part for part in self.parts if part.name == name)
