"""`memarch memory verify | repair | change-key`: whether a memory is sound, mending what is not, another passphrase."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import _memory_show as show
from ._memory_open import (
    NOTHING,
    JsonOption,
    KeyFileOption,
    NewKeyFileOption,
    PathOption,
    UserOption,
    VectorsOption,
    opened,
    read_key,
)


def verify(
    quick: Annotated[bool, typer.Option("--quick", help="Compare counts only: no hashes, no reading of all.")] = False,
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare records, vectors and index; changes nothing. Exit code 1 if something is wrong.

    In a pipe, a line a problem, between tabs: kind, whether `repair` can mend it, what it is.
    """
    with opened(path, user, vectors, key_file=key_file) as memory:
        report = memory.verify(deep=not quick)
    checked = ", ".join(show.count_of(count, name.rstrip("s")) for name, count in report.num_checked.items())
    if as_json:
        show.emit_json({"ok": report.ok, "problems": report.problems, "num_checked": report.num_checked})
    elif report.ok:
        show.emit(f"fine: {checked}")
    else:
        rows = [[p.kind, "repair mends it" if p.repairable else "beyond repair", p.detail] for p in report.problems]
        show.emit_table(("problem", "", "what"), rows)
        print(
            f"found {show.count_of(len(rows), 'problem')} in {checked or 'records too damaged to count'}",
            file=sys.stderr,
        )
    if not report.ok:
        raise typer.Exit(NOTHING)


def repair(
    path: PathOption = None,
    user: UserOption = "default",
    vectors: VectorsOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mend what can be mended without losing anything. Exit code 1 if something is still wrong.

    In a pipe, a line a problem, between tabs: kind, "mended" or "left", what it is.
    """
    with opened(path, user, vectors, key_file=key_file, mode="write") as memory:
        mended = memory.repair().problems
        left = memory.verify().problems
    if as_json:
        show.emit_json({"mended": mended, "left": left})
    elif mended or left:
        rows = [[p.kind, state, p.detail] for state, found in (("mended", mended), ("left", left)) for p in found]
        show.emit_table(("problem", "", "what"), rows)
    else:
        show.emit("nothing to mend")
    if left:
        raise typer.Exit(NOTHING)


def change_key(
    new_key_file: NewKeyFileOption = None,
    path: PathOption = None,
    user: UserOption = "default",
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encrypt a memory, which is encrypted already, with another passphrase. `migrate` encrypts one that is not."""
    with opened(path, user, None, key_file=key_file, mode="write") as memory:
        key = read_key(new_key_file, variable="MEMARCH_NEW_KEY")
        if key is None:
            raise ValueError("expected the new passphrase in --new-key-file FILE or MEMARCH_NEW_KEY; got neither")
        memory.change_key(key)
    if as_json:
        show.emit_json({"user": user, "changed": True})
    else:
        show.emit(f"the memory of {show.one_line(user)} has the new passphrase")
