"""kill -9 at random moments: what was acknowledged is there, what was erased is gone from every file."""

import contextlib
import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from memarch.dialogue.stores.sqlite import SQLiteStore

from ._crash_child import vector

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@dataclass
class Expected:
    """What the memory must hold: turns and archived chunks by number, the vectors' seeds, and what was erased."""

    texts: dict[int, str] = field(default_factory=dict)
    chunks: dict[int, int] = field(default_factory=dict)  # to their turns
    seeds: dict[int, int] = field(default_factory=dict)
    archived: set[int] = field(default_factory=set)
    summaries: list[list[int]] = field(default_factory=list)
    erased: list[bytes] = field(default_factory=list)

    def apply(self, step: str, arguments: list, first_turn: int, first_chunk: int) -> None:
        """Do what the child did, or was about to do. New numbers follow the given ones."""
        if step == "add":
            for i, text in enumerate(arguments):
                self.texts[first_turn + i] = text
                self.chunks.update({first_chunk + 2 * i + half: first_turn + i for half in (0, 1)})
        elif step == "put":
            self.seeds.update({chunk: seed for chunk, seed in arguments})
        elif step == "archive":
            self.archived.update(arguments)
        elif step == "restore":
            self.archived.difference_update(arguments)
        elif step == "summary":
            self.summaries.append(sorted(arguments))
        elif step == "erase":
            self.erased += [self.texts.pop(turn).encode()[7:23] for turn in arguments]
            for chunk in [chunk for chunk, turn in self.chunks.items() if turn in arguments]:
                del self.chunks[chunk]
                self.archived.discard(chunk)
                if chunk in self.seeds:
                    self.erased.append(vector(self.seeds.pop(chunk)).tobytes()[:16])
            self.summaries = [sources for sources in self.summaries if not set(sources) & set(arguments)]

    def matches(self, store: SQLiteStore) -> bool:
        """Whether the store holds exactly this."""
        chunks = list(store.chunks())
        numbers, vectors = store.get_vectors([chunk.chunk for chunk in chunks])
        return (
            {turn.turn: turn.text for turn in store.turns()} == self.texts
            and {chunk.chunk: chunk.turn for chunk in chunks} == self.chunks
            and {chunk.chunk for chunk in chunks if chunk.archived_at is not None} == self.archived
            and {n: v.tobytes() for n, v in zip(numbers.tolist(), vectors, strict=True)}
            == {chunk: vector(seed).tobytes() for chunk, seed in self.seeds.items()}
            and sorted(sorted(summary.sources) for summary in store.summaries()) == sorted(self.summaries)
        )


def run_and_kill(zygote: subprocess.Popen, directory: Path, acks: Path, chance: random.Random) -> list[list]:
    """Let a child work, kill it in the middle of some step, and return all that it said."""
    zygote.stdin.write(f"{directory}\t{acks}\t{chance.getrandbits(30)}\n")
    zygote.stdin.flush()
    child, said, patience = int(zygote.stdout.readline()), [], chance.randint(1, 15)
    with acks.open() as pipe:
        for line in pipe:
            said.append(json.loads(line))
            patience -= said[-1][0] == "begin"
            if patience == 0 and said[-1][0] == "begin":
                if chance.random() < 0.7:  # otherwise at once
                    time.sleep(chance.random() * 0.02)  # as long as an erasure takes
                with contextlib.suppress(ProcessLookupError):  # it may be done by now
                    os.kill(child, signal.SIGKILL)
    assert zygote.stdout.readline() == "gone\n"
    return said


def crash_repeatedly(tmp_path: Path, num_kills: int, seed: int) -> None:
    chance, expected = random.Random(seed), Expected()
    acks, memories = tmp_path / "acks", tmp_path / "memories"
    os.mkfifo(acks)
    last_turn = last_chunk = 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("_crash_child.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as zygote:
        for kill in range(num_kills):
            pending = None
            for message in run_and_kill(zygote, memories, acks, chance):
                assert message[0] != "failed", message[1]
                if message[0] == "begin":
                    pending = message[1:]
                else:
                    expected.apply(*pending, last_turn + 1, last_chunk + 1)
                    if pending[0] == "add":
                        assert message[1] == [last_turn + 1 + i for i in range(len(pending[1]))]
                        last_turn, last_chunk = last_turn + len(pending[1]), last_chunk + 2 * len(pending[1])
                    pending = None
            store = SQLiteStore(memories, user="ada")
            done = copy.deepcopy(expected)
            if pending is not None:
                done.apply(*pending, last_turn + 1, last_chunk + 1)
            assert expected.matches(store) or done.matches(store), f"kill {kill} in {pending}"
            if done.matches(store) and pending is not None:
                expected = done
                if pending[0] == "add":
                    last_turn, last_chunk = last_turn + len(pending[1]), last_chunk + 2 * len(pending[1])
            assert store.last_turn() == last_turn and store.verify() == []
            files = {path: path.read_bytes() for path in memories.rglob("*") if path.is_file()}
            for needle in expected.erased[-100:]:
                assert [path for path, data in files.items() if needle in data] == [], f"kill {kill} in {pending}"
            store.close()
        zygote.stdin.close()
    assert expected.erased and expected.seeds and expected.summaries is not None


def test_thirty_kills_lose_nothing(tmp_path):
    crash_repeatedly(tmp_path, num_kills=30, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", (2, 3))
def test_many_kills_lose_nothing(tmp_path, seed):
    crash_repeatedly(tmp_path, num_kills=150, seed=seed)
