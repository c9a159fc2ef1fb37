"""What the tests of the SQLite store share."""

import os
import sqlite3
import sys
from pathlib import Path

from memarch.dialogue.stores import Store

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def edit(home: Path, *statements: str) -> None:
    """Change the database behind the store's back."""
    with sqlite3.connect(home / "memory.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def kinds(store: Store) -> list[str]:
    """What `verify` finds."""
    return sorted(problem.kind for problem in store.verify())
