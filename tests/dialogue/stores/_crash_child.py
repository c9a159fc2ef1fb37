"""The process that test_sqlite_crash.py kills: random work on a memory, each step announced and acknowledged.

Started once, it has everything imported; for each line `directory acks seed` on its input it forks a child that works
until it is killed, and prints the child's PID. The child writes JSON lines to the FIFO `acks`: ["begin", step,
arguments], then ["end", result] once the step is durable.
"""

import json
import os
import random
import sys
import traceback

import faiss  # noqa: F401
import filelock  # noqa: F401
import numpy as np

from memarch.dialogue.records import NewTurn, utc_now
from memarch.dialogue.stores.sqlite import SQLiteStore

DIM = 8


def vector(seed: int) -> np.ndarray:
    """A unit vector `[DIM]` that only this seed gives."""
    values = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return values / np.linalg.norm(values)


class Worker:
    """Random steps; each method takes what its name announces and returns what the store gave."""

    def __init__(self, directory: str, seed: int) -> None:
        self.directory, self.random = directory, random.Random(seed)
        self.store = self.open()

    def open(self) -> SQLiteStore:
        store = SQLiteStore(self.directory, user="ada")
        store.use_embedder("model", DIM)
        return store

    def plan(self) -> tuple[str, list]:
        """The next step and its arguments."""
        turns, chunks = [t.turn for t in self.store.turns()], [c.chunk for c in self.store.chunks()]
        step = self.random.choice(
            ["add"] * 4 + ["put"] * 4 + ["erase"] * 3 + ["archive", "restore", "summary", "cache", "reopen", "look"]
        )
        few = self.random.randint(1, 3)
        if step == "add" or len(turns) < 5:
            return "add", [f"secret-{self.random.getrandbits(64):016x}-of-this-turn" for _ in range(few)]
        if step == "put":
            pending = [c.chunk for c in self.store.without_vector(limit=few)]
            return "put", [(chunk, self.random.getrandbits(40)) for chunk in pending]
        if step == "erase":
            return "erase", self.random.sample(turns, few)
        if step in ("archive", "restore"):
            return step, self.random.sample(chunks, few)
        return (step, self.random.sample(turns, 2)) if step == "summary" else (step, [])

    def add(self, texts: list) -> list:
        halves = [((0, len(text) // 2), (len(text) // 2, len(text))) for text in texts]
        # The receipt of an erasure keeps source_ids, so they must not repeat the text.
        pairs = zip(texts, halves, strict=True)
        new = [NewTurn("s", "user", text, utc_now(), text[::-1], spans) for text, spans in pairs]
        return [turn.turn for turn in self.store.add_turns(new)]

    def put(self, pairs: list) -> None:
        chunks = np.array([chunk for chunk, _ in pairs], dtype=np.int64)
        self.store.put_vectors(chunks, np.array([vector(seed) for _, seed in pairs]).reshape(-1, DIM))

    def erase(self, turns: list) -> list:
        return list(self.store.erase(turns, selector={"turns": "some"}).chunks)

    def archive(self, chunks: list) -> None:
        self.store.archive(np.array(chunks), self.store.last_turn())

    def restore(self, chunks: list) -> None:
        self.store.restore(np.array(chunks))

    def summary(self, turns: list) -> None:
        texts = "+".join(turn.text for turn in self.store.turns(numbers=turns))
        self.store.put_summary(
            level=1, text=texts, first_turn=min(turns), last_turn=max(turns), sources=turns, summarizer="test"
        )

    def cache(self, _: list) -> None:
        self.store.put_cache("words", "+".join(turn.text for turn in self.store.turns()).encode())

    def reopen(self, _: list) -> None:
        self.store.close()
        self.store = self.open()

    def look(self, _: list) -> None:
        self.store.nearest(vector(1), 5)


def work(directory: str, acks: str, seed: int) -> None:
    """Until killed."""
    pipe = os.open(acks, os.O_WRONLY)

    def say(*message: object) -> None:
        os.write(pipe, (json.dumps(message) + "\n").encode())

    try:
        say("begin", "open", [])
        worker = Worker(directory, seed)
        say("end", None)
        while True:
            step, arguments = worker.plan()
            say("begin", step, arguments)
            say("end", getattr(worker, step)(arguments))
    except BaseException:
        say("failed", traceback.format_exc())
    os._exit(1)


if __name__ == "__main__":
    for line in sys.stdin:
        target, fifo, number = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            work(target, fifo, int(number))
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)
