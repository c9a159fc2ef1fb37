"""`--data a.txt b.txt`: what the shell makes of `--data *.txt`, which an ordinary option takes for stray arguments."""

from __future__ import annotations

import typer
import typer.core

MANY = ("--data",)


def repeat_option(arguments: list[str], names: tuple[str, ...] = MANY) -> list[str]:
    """`--data a b --steps 3` as `--data a --data b --steps 3`."""
    out: list[str] = []
    open_option, has_value = "", False
    for position, argument in enumerate(arguments):
        if argument == "--":
            return out + arguments[position:]
        name, equals, _ = argument.partition("=")
        if name in names:
            open_option, has_value = name, bool(equals)
            out.append(argument)
        elif argument.startswith("-") and argument != "-":
            open_option = ""
            out.append(argument)
        elif open_option:
            out += [open_option, argument] if has_value else [argument]
            has_value = True
        else:
            out.append(argument)
    return out


class ManyValuesCommand(typer.core.TyperCommand):
    """A command whose options in `MANY` take every value up to the next option."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse after `repeat_option`."""
        return super().parse_args(ctx, repeat_option(args))
