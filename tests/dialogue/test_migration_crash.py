"""kill -9 at random moments of a move: the source is as it was, what was taken stays, and the same call finishes."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from memarch.dialogue.errors import StoreUnavailable
from memarch.dialogue.migration import MOVING
from memarch.dialogue.stores import open_store

from ._stores_with_content import content, filled

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
NUM_TURNS = 60  # of which two are erased


class Mover:
    """Starts moves in a process of their own and kills them."""

    def __init__(self, directory: Path) -> None:
        self.acks = directory / "acks"
        os.mkfifo(self.acks)
        root = Path(__file__).parents[2]
        self.zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.dialogue._crash_migrate_child"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path]), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, source: Path, target: Path, *, patience: int, seconds: float) -> list[list[Any]]:
        """All that a move said until it was killed, `seconds` after it began its n-th write, or was done."""
        assert self.zygote.stdin is not None and self.zygote.stdout is not None
        self.zygote.stdin.write(f"{source}\t{target}\t{self.acks}\n")
        self.zygote.stdin.flush()
        child, said = int(self.zygote.stdout.readline()), []
        with self.acks.open() as pipe:
            for line in pipe:
                said.append(json.loads(line))
                assert said[-1][0] != "failed", said[-1][1]
                patience -= said[-1][0] == "begin"
                if patience == 0 and said[-1][0] == "begin":
                    time.sleep(seconds)
                    with contextlib.suppress(ProcessLookupError):  # it may be done by now
                        os.kill(child, signal.SIGKILL)
        assert self.zygote.stdout.readline() == "gone\n"
        return said

    def __enter__(self) -> "Mover":
        return self

    def __exit__(self, *_: object) -> None:
        self.zygote.communicate()


def crash_repeatedly(tmp_path: Path, num_kills: int, seed: int) -> None:
    chance = random.Random(seed)
    source, target = tmp_path / "source", tmp_path / "target"
    store = filled(source, num_turns=NUM_TURNS)
    expected = content(store)
    store.close()
    steps: set[str] = set()
    with Mover(tmp_path) as mover:
        whole = mover.run(source, target, patience=-1, seconds=0)  # to its end, which tells how many writes there are
        num_writes = sum(message[0] == "begin" for message in whole)
        assert whole[-1] == ["done", NUM_TURNS - 2] and num_writes > 40
        kills, taken = 0, set()
        while kills < num_kills:
            if not taken or chance.random() < 0.3:  # begin anew; otherwise go on with what the last kill left
                shutil.rmtree(target, ignore_errors=True)
                taken = set()
            sleep = 0.0 if chance.random() < 0.3 else chance.random() * 0.01
            said = mover.run(source, target, patience=chance.randint(1, num_writes), seconds=sleep)
            done = said[-1][0] == "done"
            taken.update(name for message in said if message[0] == "end" for name in message[2])
            check(source, target, expected, taken, done=done)
            kills += not done
            steps.add(said[-1][1] if not done else "done")
            if done:
                taken = set()
        if taken:
            assert mover.run(source, target, patience=-1, seconds=0)[-1] == ["done", NUM_TURNS - 2]
            check(source, target, expected, taken, done=True)
    assert len(steps) > 4  # kills met writes of many kinds


def check(source: Path, target: Path, expected: list[Any], taken: set[str], *, done: bool) -> None:
    """Source as ever, target sound, holding all that it acknowledged; and all there is once done."""
    store = open_store(source, user="ada", read_only=True)
    assert content(store) == expected and store.verify() == []
    store.close()
    try:
        copy = open_store(target, user="ada")
    except StoreUnavailable:
        assert not taken
        return
    there = {turn.source_id for turn in copy.turns()}
    assert taken <= there and copy.verify() == []
    if done:
        assert content(copy) == expected and copy.get_setting(MOVING) is None
    elif there:
        # Half a memory is never taken for a whole one; a kill after the last write leaves the whole.
        assert copy.get_setting(MOVING) is not None or content(copy) == expected
    copy.close()


def test_fifteen_kills_lose_nothing(tmp_path: Path) -> None:
    crash_repeatedly(tmp_path, num_kills=15, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_many_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    crash_repeatedly(tmp_path, num_kills=60, seed=seed)
