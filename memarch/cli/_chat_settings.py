"""Commands of a chat that set how answers are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._chat_screen import Result
from ._chat_state import Chat


def model(chat: Chat, argument: str) -> Result:
    """[MODEL]: show or change the model; `memarch models` lists them."""
    from memarch.dialogue.generators.registry import open_generator

    if argument:
        chat.use(open_generator(argument, timeout_seconds=chat.options.timeout_seconds))
    name = chat.session.generator.name
    return Result({"model": name, "state": chat.loader.state}, f"{name} ({chat.loader.state})")


def system(chat: Chat, argument: str) -> Result:
    """[TEXT | none]: show or change what the model is told first."""
    if argument:
        chat.session.system = "" if argument == "none" else argument
    text = chat.session.system
    return Result({"system": text}, text or "there is no system prompt")


def _integer(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ValueError(f"a whole number of at least {least}")
        return int(text)

    return read


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise ValueError("a number from 0 to 10")
    return value


# Name, attribute of the session, how a value is read.
SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "budget": ("budget_tokens", _integer(1)),
    "max_tokens": ("max_tokens", _integer(1)),
    "temperature": ("temperature", _temperature),
    "memories": ("num_retrieved", _integer(1)),
    "recent": ("num_recent", _integer(1)),
}


def set_(chat: Chat, argument: str) -> Result:
    """[NAME VALUE]: show or change budget, temperature and others."""
    name, _, value = argument.partition(" ")
    if name:
        if name not in SETTINGS:
            raise ValueError(f"expected one of {', '.join(SETTINGS)}; got {name[:40]!r}")
        attribute, read = SETTINGS[name]
        try:
            setattr(chat.session, attribute, read(value.strip()))
        except ValueError as error:
            raise ValueError(f"{name} takes {error}; got {value[:40]!r}") from None
    values = {name: getattr(chat.session, attribute) for name, (attribute, _) in SETTINGS.items()}
    return Result(values, "\n".join(f"{name:<11}  {value}" for name, value in values.items()))
