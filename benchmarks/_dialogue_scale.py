"""Cost at 1k, 10k and 100k chunks: writes, searches, opening, memory and disk, ours beside FAISS flat, mem0 and txtai.

Each arm fills a store in one process and serves it in another, so that memory is that of a process that only serves.
The serving processes of one size live at the same time and take turns, round by round. Vectors of the stores are drawn
from texts' checksums (the cost of an exact search does not depend on them), queries are embedded the same way or, in
"query embedded", by MiniLM. In the last case, "MiniLM all through", every arm embeds as its users would.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._dialogue_scale_arms import ARMS, DURABLE, EMBEDDED, PEERS, VOLATILE
from benchmarks._harness import RESULTS, Row, settings_text, table

BASELINE = "FAISS flat"
SIZES = (1_000, 10_000, 100_000)
OWN_MODEL_SIZE = 1_000
ROUNDS, PER_ROUND, WRITES_PER_ROUND = 10, 10, 4
WRITE_LIMIT_SECONDS = 1.0
TIMEOUT_SECONDS = 1200.0
GIVEN, WITH_MODEL = "search, query vector given", "search, query embedded"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "MEM0_TELEMETRY": "False",
    "ANONYMIZED_TELEMETRY": "False",
}


class ArmError(RuntimeError):
    """An arm could not do what it was told."""


@dataclass
class Figures:
    """What was measured of one arm at one size; seconds by metric and round, bytes by metric."""

    seconds: dict[str, list[list[float]]] = field(default_factory=dict)
    once: dict[str, float] = field(default_factory=dict)
    size: dict[str, float] = field(default_factory=dict)


class Process:
    """A child that serves one arm; see `_dialogue_scale_child`."""

    def __init__(self, arm: str, folder: Path, own_model: bool, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._arm, self._timeout = arm, timeout_seconds
        self._log = tempfile.TemporaryFile()
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks._dialogue_scale_child", arm, str(folder)]
        home = folder.parent / f"{folder.name}-home"
        home.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [*command, "own" if own_model else "given"],
            cwd=RESULTS.parent.parent,
            env={**os.environ, **ENVIRONMENT, "MEM0_DIR": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def do(self, what: str, **arguments: object) -> dict[str, Any]:
        """Give an order and wait for the answer. Raises: ArmError, also after the timeout."""
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = threading.Timer(self._timeout, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self._log.seek(0)
            end = self._log.read().decode("utf-8", "replace").strip()[-500:]
            raise ArmError(f"{self._arm} ended at {what!r} (limit {self._timeout:.0f} s): {end}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ArmError(f"{self._arm}, {what}: {answer['error']}")
        return answer

    def end(self) -> None:
        """Let it go, whatever it does."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(20)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


def measure(
    folder: Path, size: int, arms: Sequence[str], *, own_model: bool = False, with_model: bool = True,
    rounds: int = ROUNDS, per_round: int = PER_ROUND,
) -> tuple[dict[str, Figures], dict[str, str]]:  # fmt: skip
    """Figures of the arms that could be measured, and why the others could not (peers only: ArmError for ours)."""
    figures: dict[str, Figures] = {}
    missing: dict[str, str] = {}
    serving: dict[str, Process] = {}

    def attempt(arm: str, work: Any) -> bool:
        try:
            work()
            return True
        except ArmError as error:
            if arm not in PEERS:
                raise
            missing[arm] = str(error)
            figures.pop(arm, None)
            if arm in serving:
                serving.pop(arm).end()
            return False

    def each(work: Any) -> None:
        for arm in list(serving):
            attempt(arm, lambda arm=arm: work(arm, serving[arm], figures[arm]))

    try:
        for arm in arms:
            figures[arm] = Figures()
            if attempt(arm, lambda arm=arm: _fill(arm, folder / arm, size, own_model, figures[arm])):
                serving[arm] = Process(arm, folder / arm, own_model)
                attempt(arm, lambda arm=arm: _open(serving[arm], figures[arm]))
                print(f"{size} chunks, {arm}: {'filled and opened' if arm in serving else missing[arm]}", flush=True)
        searches = WITH_MODEL if own_model else GIVEN
        _searches(each, searches, 1, rounds, per_round)
        each(lambda arm, process, found: found.size.update({"peak memory": process.do("peak")["bytes"]}))
        if with_model and not own_model:
            each(lambda arm, process, found: process.do("load_model"))
            _searches(each, WITH_MODEL, 2, rounds, per_round)
        each(_upkeep)
        _writes(each, size, rounds)
    finally:
        for process in serving.values():
            process.end()
    return figures, missing


def _fill(arm: str, folder: Path, size: int, own_model: bool, found: Figures) -> None:
    process = Process(arm, folder, own_model)
    try:
        process.do("load")
        process.do("open")
        found.once["fill, per turn"] = process.do("fill", count=size)["seconds"] / size
        process.do("close")
    finally:
        process.end()
    found.size["disk"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _open(process: Process, found: Figures) -> None:
    found.once["imports"] = process.do("load")["seconds"]
    found.size["memory of imports"] = process.do("peak")["bytes"]
    opened = process.do("open")
    found.seconds |= {how: [] for how in opened["writes"]}
    found.once["open"] = opened["seconds"]
    first = process.do("search", first=0, count=1)
    found.once["open to first answer"] = opened["seconds"] + first["seconds"][0]


def _searches(each: Any, metric: str, kind: int, rounds: int, per_round: int) -> None:
    for number in range(-1, rounds):  # the first is a warm-up

        def ask(arm: str, process: Process, found: Figures, number: int = number) -> None:
            first = 1 + (kind * 1000 + number + 1) * per_round
            seconds = process.do("search", first=first, count=per_round)["seconds"]
            if number >= 0 and not (kind == 2 and arm == "ours, words only"):
                found.seconds.setdefault(metric, []).append(seconds)

        each(ask)


def _upkeep(arm: str, process: Process, found: Figures) -> None:
    if arm.startswith("ours"):
        found.once["forgetting, once in 100 turns"] = process.do("upkeep")["seconds"]


def _writes(each: Any, size: int, rounds: int) -> None:
    ways = (DURABLE, EMBEDDED, VOLATILE)
    for number in range(-1, rounds):
        for place, how in enumerate(ways):

            def store(
                arm: str, process: Process, found: Figures, number: int = number, how: str = how, place: int = place
            ) -> None:
                if how not in found.seconds:
                    return
                first = size + ((number + 1) * len(ways) + place) * WRITES_PER_ROUND
                # FAISS and mem0 rewrite their files at each turn: at 100k few turns are enough.
                limit = WRITE_LIMIT_SECONDS if number >= 0 else 0.0
                seconds = process.do("write", how=how, first=first, count=WRITES_PER_ROUND, limit_seconds=limit)
                if number >= 0:
                    found.seconds[how].append(seconds["seconds"])

            each(store)


def rows_of(figures: Mapping[str, Figures], settings: Mapping[str, object]) -> list[Row]:
    """Rows of one size; seconds with the ratio FAISS flat / arm where both do the same."""
    text = settings_text(settings)
    rows: list[Row] = []
    for arm, found in figures.items():
        for metric, by_round in found.seconds.items():
            if not by_round:
                continue
            every = [second for each in by_round for second in each]
            low, high = np.percentile(every, [5, 95])
            ratios = _ratios(figures.get(BASELINE), metric, by_round)
            rows.append(
                Row(
                    benchmark="dialogue", arm=arm, metric=metric, unit="s", value=statistics.median(every),
                    low=float(low), high=float(high), samples=len(every), spread="5%..95%", settings=text,
                    baseline=BASELINE if ratios else "", ratio=statistics.median(ratios) if ratios else None,
                    ratio_low=min(ratios, default=None), ratio_high=max(ratios, default=None),
                )
            )  # fmt: skip
        for unit, values in (("s", found.once), ("bytes", found.size)):
            rows += [
                Row(
                    benchmark="dialogue", arm=arm, metric=metric, unit=unit, value=value, low=value, high=value,
                    samples=1, statistic="once", settings=text,
                )
                for metric, value in values.items()
            ]  # fmt: skip
    return rows


def _ratios(baseline: Figures | None, metric: str, by_round: Sequence[Sequence[float]]) -> list[float]:
    base = [] if baseline is None else baseline.seconds.get(metric, [])
    return [statistics.median(b) / statistics.median(a) for b, a in zip(base, by_round, strict=False)]


def show(rows: Sequence[Row], missing: Mapping[str, str]) -> str:
    """One table of a size: milliseconds and MB, with how often FAISS flat's time it takes."""
    arms = list(dict.fromkeys(row.arm for row in rows))
    metrics = sorted({row.metric: row.unit for row in rows}.items(), key=lambda pair: (pair[1] == "bytes", pair[0]))
    cells = {(row.arm, row.metric): _cell(row) for row in rows}
    lines = [[f"{m}, {'MB' if u == 'bytes' else 'ms'}", *(cells.get((arm, m), "") for arm in arms)] for m, u in metrics]
    notes = [f"{arm}: not measured ({why})" for arm, why in missing.items()]
    return "\n".join([table(["", *arms], lines), *notes])


def _cell(row: Row) -> str:
    if row.unit == "bytes":
        return f"{row.value / 1e6:.1f}"
    text = f"{1e3 * row.value:.2f}"
    if row.samples > 1:
        text += f" ({1e3 * row.low:.2f}..{1e3 * row.high:.2f})"
    return text if row.ratio is None or row.arm == BASELINE else f"{text} {1 / row.ratio:.1f}x"


def run(
    options: argparse.Namespace,
    *,
    sizes: Sequence[int] = SIZES,
    arms: Sequence[str] = tuple(ARMS),
    own_model_size: int | None = OWN_MODEL_SIZE,
    with_model: bool = True,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Print a table a size and return the rows; of `options.sizes` if given, of small stores if `options.quick`."""
    sizes = options.sizes or sizes
    if options.quick:
        sizes, own_model_size, rounds = (200,), None, 2
    versions = {name: _version(package) for name, package in {**PEERS, BASELINE: "faiss-cpu"}.items()}
    print("versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()), flush=True)
    with_model = with_model and options.embedder != "none"
    cases = [(size, False) for size in sizes]
    if own_model_size is not None and with_model:
        cases.append((own_model_size, True))
    rows: list[Row] = []
    for size, own_model in cases:
        folder = Path(tempfile.mkdtemp(prefix="memarch-scale-"))
        try:
            chosen = [arm for arm in arms if not (own_model and arm == "ours, words only")]
            figures, missing = measure(folder, size, chosen, own_model=own_model, with_model=with_model, rounds=rounds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        settings = {
            "part": "scale",
            "num_chunks": size,
            "vectors": "MiniLM all through" if own_model else "random unit vectors",
            "texts": "18 words a turn by Zipf's law",
            "k": 10,
            "omp_threads": 1,
            "versions": versions,
        }
        new = rows_of(figures, settings)
        rows += new
        print(f"\n{size} chunks, {settings['vectors']}\n\n{show(new, missing)}\n", flush=True)
    return rows


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
