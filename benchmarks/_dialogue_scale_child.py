"""One arm of the scale benchmark in a process of its own: reads orders as JSON lines, answers with JSON lines.

It may reach no network: whatever tries ends with an error that the parent shows.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._dialogue_scale_arms import ARMS, PACKAGES, Arm
from benchmarks._dialogue_scale_data import TextVectors, queries, texts

_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname")


class Worker:
    """Does what it is told; see the methods."""

    def __init__(self, arm: str, folder: Path, own_model: bool) -> None:
        self._name, self._make, self._folder = arm, ARMS[arm], folder
        self._vectors = None if own_model else TextVectors()
        self._arm: Arm | None = None

    @property
    def arm(self) -> Arm:
        assert self._arm is not None, "open first"
        return self._arm

    def load(self) -> dict[str, Any]:
        """Import what the arm needs."""
        start = time.perf_counter()
        for package in PACKAGES[self._name]:
            importlib.import_module(package)
        return {"seconds": time.perf_counter() - start}

    def open(self) -> dict[str, Any]:
        """Open the store; seconds, and the ways in which it writes."""
        start = time.perf_counter()
        self._arm = self._make(self._folder, self._vectors)
        opened = time.perf_counter() - start
        return {"seconds": opened, "writes": list(self.arm.writes)}

    def fill(self, count: int) -> dict[str, Any]:
        """Store the first `count` turns."""
        said = texts(0, count)
        start = time.perf_counter()
        self.arm.fill(said)
        return {"seconds": time.perf_counter() - start}

    def search(self, first: int, count: int) -> dict[str, Any]:
        """Ask `count` questions; seconds of each."""
        found, seconds = 0, []
        for query in queries(first, count):
            start = time.perf_counter()
            found += self.arm.search(query)
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "found": found}

    def write(self, how: str, first: int, count: int, limit_seconds: float) -> dict[str, Any]:
        """Store turns one by one, at least one, none begun after the limit; seconds of each."""
        seconds: list[float] = []
        began = time.perf_counter()
        for number, text in enumerate(texts(first, count), first):
            if seconds and time.perf_counter() - began > limit_seconds:
                break
            start = time.perf_counter()
            self.arm.writes[how](number, text)
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def upkeep(self) -> dict[str, Any]:
        """Run what the arm does once in a while."""
        start = time.perf_counter()
        self.arm.upkeep()
        return {"seconds": time.perf_counter() - start}

    def load_model(self) -> dict[str, Any]:
        """Have MiniLM embed queries."""
        if self._vectors is not None:
            self._vectors.load_model()
        return {}

    def peak(self) -> dict[str, Any]:
        """The process's greatest resident memory so far."""
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return {"bytes": int(line.split()[1]) * 1024}
        raise RuntimeError("/proc/self/status has no VmHWM: peak memory is measured on Linux only")

    def close(self) -> dict[str, Any]:
        """Close the store."""
        if self._arm is not None:
            self._arm.close()
        return {}


def _no_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _NETWORK:
        raise OSError(f"the benchmark lets nobody reach the network; {event} was tried with {arguments[1:]}")


def main() -> None:
    """Obey until the input ends."""
    orders, answers = sys.stdin, os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    sys.addaudithook(_no_network)
    arm, folder, own_model = sys.argv[1:]
    worker = Worker(arm, Path(folder), own_model == "own")
    for line in orders:
        order = json.loads(line)
        gc.collect()
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except Exception as error:  # peers raise anything; the parent decides what it means
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
