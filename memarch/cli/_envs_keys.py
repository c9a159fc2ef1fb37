"""Which key means which action, and playing by keyboard."""

from __future__ import annotations

import signal
import string
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._envs_game import Game

ARROWS = {name: name for name in ("up", "down", "left", "right")}
COMPASS = {"n": "up", "e": "right", "s": "down", "w": "left", "nw": "y", "ne": "u", "sw": "b", "se": "n"}
MOVES = ARROWS | COMPASS
QUIT = "q"
NUMBERED = (string.digits + string.ascii_lowercase).replace(QUIT, "")


def keys_of(names: Sequence[str]) -> dict[str, int]:
    """The action that each key means: arrows (and y u b n for diagonals) for moves, initials, and numbers for all."""
    keys = {MOVES[name.lower()]: action for action, name in enumerate(names) if name.lower() in MOVES}
    for action, name in enumerate(names):
        if action not in keys.values():
            free = (char for char in name.lower() + NUMBERED if char in NUMBERED and char not in keys)
            keys[next(free)] = action
    for action, key in enumerate(string.digits[: len(names)]):
        keys.setdefault(key, action)
    return keys


def labels_of(names: Sequence[str]) -> list[str]:
    """The keys of each action, as people read them: "right 0"."""
    keys = keys_of(names)
    return [" ".join(key for key, meant in keys.items() if meant == action) for action in range(len(names))]


def read_action(text: str, names: Sequence[str]) -> int:
    """The action of a name, in upper or lower case, or of a number. Raises ValueError for another text."""
    lower = [name.lower() for name in names]
    if text.lower() in lower:
        return lower.index(text.lower())
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    known = f"0..{len(names) - 1}" if lower[0].isdecimal() else f"{', '.join(names)}, or 0..{len(names) - 1}"
    raise ValueError(f"an action is one of {known}; got {text!r}")


def screen(game: Game) -> str:
    """What is on the terminal while somebody plays."""
    lines = [f"{game.title}: {game.summary}", "", *game.text().splitlines(), ""]
    if game.steps:
        lines.append(f"{game.names[game.last_action]}: reward {game.last_reward:.3g}, return {game.total:.3g}")
    else:
        lines.append("")
    if game.over:
        lines += [str(game.results[-1]), "", f"enter another episode   {QUIT} quit"]
    else:
        labels = labels_of(game.names)
        told = [name if name in keys else f"{keys} {name}" for name, keys in zip(game.names, labels, strict=True)]
        lines += ["", f"{'   '.join(told)}   {QUIT} quit"]
    return "\n".join(lines)


def play_by_keys(game: Game, episodes: int | None) -> None:
    """Play until q, or until `episodes` are over; the terminal is as before then, whatever ends it.

    Raises: KeyboardInterrupt for Ctrl-C; ImportError, saying what to install, without prompt_toolkit.
    """
    import asyncio

    try:
        from prompt_toolkit import Application
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.layout import FormattedTextControl, Layout, Window
    except ImportError as error:
        raise ImportError("playing by keyboard needs prompt_toolkit: pip install 'memarch[agents]'") from error

    bindings = KeyBindings()

    def press(action: int) -> Any:
        def handle(event: Any) -> None:
            if not game.over:
                game.step(action)
                if len(game.results) == episodes:
                    event.app.exit()

        return handle

    for key, action in keys_of(game.names).items():
        bindings.add(key)(press(action))

    @bindings.add("enter")
    def _(event: Any) -> None:
        if game.over:
            game.begin()

    @bindings.add(QUIT)
    @bindings.add("c-d")
    def _(event: Any) -> None:
        event.app.exit()

    @bindings.add("c-c")
    def _(event: Any) -> None:
        event.app.exit(exception=KeyboardInterrupt)

    @bindings.add("c-z")
    def _(event: Any) -> None:
        event.app.suspend_to_background()

    window = Window(FormattedTextControl(lambda: screen(game)), wrap_lines=True, always_hide_cursor=True)
    app: Application[None] = Application(layout=Layout(window), key_bindings=bindings, full_screen=True)

    def end(number: int) -> None:
        if app.future is not None and not app.future.done():
            app.exit(exception=SystemExit(128 + number))

    def watch_signals() -> None:
        # Being told to end ends the application in order: raised anywhere, it would leave the terminal half drawn.
        for name in ("SIGTERM", "SIGHUP"):
            with suppress(NotImplementedError, AttributeError):  # Windows
                asyncio.get_running_loop().add_signal_handler(getattr(signal, name), end, getattr(signal, name))

    app.run(pre_run=watch_signals)
