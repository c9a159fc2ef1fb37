"""The process that test_migration_crash.py kills: it moves a memory, and announces and acknowledges every write.

Started once, it has everything imported; for each line `source target acks` on its input it forks a child that moves
until it is killed or done, and prints the child's PID. The child writes JSON lines to the FIFO `acks`: ["begin",
write], ["end", write, new turns] once that is durable, and ["done", turns] when the move is.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import faiss  # noqa: F401
import filelock  # noqa: F401

from memarch.dialogue import _moving
from memarch.dialogue.migration import migrate
from memarch.dialogue.stores import open_store
from memarch.dialogue.stores.base import Store

from ._stores_with_content import WRITES

BATCH_TURNS = 3  # many small steps


class Announcing:
    """A store that says when a write begins and when it is durable."""

    def __init__(self, store: Store, say: Callable[..., None]) -> None:
        self._store, self._say = store, say

    def __getattr__(self, name: str) -> Any:
        found: Callable[..., Any] = getattr(self._store, name)
        if name not in WRITES:
            return found

        def write(*values: Any, **options: Any) -> Any:
            self._say("begin", name)
            result = found(*values, **options)
            self._say("end", name, [turn.source_id for turn in result] if name == "add_turns" else [])
            return result

        return write


def move(source: str, target: str, acks: str) -> None:
    """Until killed or done."""
    pipe = os.open(acks, os.O_WRONLY)

    def say(*message: object) -> None:
        os.write(pipe, (json.dumps(message) + "\n").encode())

    try:
        say("begin", "open")
        old, new = open_store(source, user="ada"), open_store(target, user="ada")
        say("end", "open", [])
        report = migrate(old, Announcing(new, say), progress=None)  # type: ignore[arg-type]
        say("begin", "close")
        new.close()
        old.close()
        say("done", report.num_turns)
    except BaseException:
        say("failed", traceback.format_exc())
    os._exit(0)


def main() -> None:
    """Fork a child a line."""
    _moving._BATCH_TURNS = BATCH_TURNS
    for line in sys.stdin:
        places = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            move(*places)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
