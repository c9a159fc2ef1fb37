"""`memarch memory`: look after a dialogue memory from the command line."""

from __future__ import annotations

from collections.abc import Callable

import typer

from ._memory_health import change_key, repair, verify
from ._memory_move import add, export, import_, migrate
from ._memory_read import search, sessions, stats, where
from ._memory_remove import erase, forget, restore

EXIT_CODES = (
    "Exit codes: 0 fine; 1 nothing found, nothing done, or verify found problems; 2 bad usage; "
    "3 the store or a file could not be used; 130 interrupted."
)

memory = typer.Typer(
    help="Keep, search and erase what was said in long dialogues.", epilog=EXIT_CODES, no_args_is_help=True
)
COMMANDS: dict[str, Callable[..., None]] = {
    "search": search,
    "add": add,
    "import": import_,
    "export": export,
    "sessions": sessions,
    "stats": stats,
    "forget": forget,
    "restore": restore,
    "erase": erase,
    "verify": verify,
    "repair": repair,
    "migrate": migrate,
    "change-key": change_key,
    "path": where,
}
for name, command in COMMANDS.items():
    memory.command(name, epilog=EXIT_CODES)(command)
