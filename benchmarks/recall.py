"""Recall of Miras memories, trained: MQAR, noisy MQAR and noisy vectors, several seeds, 95 % intervals.

Arms: moneta, yaad (Huber by norm, Eq. 15), yaad-mixture (as printed, Eq. 26), memora, memora-exact (exact reads),
l2-memory, gated-deltanet, attention. Each is a two-layer pre-norm model of the same parameter count (within 2 %, by the
width of its MLPs), trained for the same steps on the same batches at one learning rate. Few pairs come first.

Tasks
  mqar           multi-query associative recall (arXiv 2312.04927): 4, 8 and 16 pairs, four tokens a pair
  noisy-mqar     4 and 8 pairs, every key written three times, 30 % of the writes with a wrong value of the ordinary
                 vocabulary; the majority is right
  noisy-vectors  vectors into one bare layer: every key written three times, 20 % of the writes an unrelated vector of
                 ten times the length; the score is the cosine to the clean value. Parameters are the layer's own
                 here.

--op measures the operators instead, untrained: pairs are written into the memory once, a share of the values ten times
too long, and clean keys are read back. Each rule has its step size tuned on other seeds, with and without outliers.

Rows go to benchmarks/results/recall.csv as soon as a run ends. A run whose row is there with the same settings and
commit is not repeated, so an interrupted benchmark continues. Data are drawn from seeds: nothing is downloaded.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import _recall_op
from benchmarks._harness import (
    RESULTS,
    Row,
    append_rows,
    interval_text,
    machine,
    read_rows,
    settings_text,
    single_run,
    table,
)
from benchmarks._recall_train import ARMS, TASKS, Budget, Task, run_settings, train_run

NAME = "recall"
REFERENCE = "l2-memory"
DEFAULT_ARMS = tuple(arm for arm in ARMS if arm != "memora-exact")
Scores = dict[tuple[str, str, str], dict[int, float]]
"""(task, metric, arm) -> {seed: value}."""


def run_one(arm: str, task: Task, budget: Budget, seed: int) -> tuple[dict[str, float], float]:
    """Scores of one run and its seconds; one thread, so that several runs share a machine well."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    return train_run(arm, task, budget, seed), time.perf_counter() - start


def rows_of(arm: str, task: Task, budget: Budget, seed: int, scores: dict[str, float], seconds: float) -> list[Row]:
    """One row per score, and one for the run's time."""
    settings = settings_text(run_settings(task, budget, seed))
    figures = [(metric, "", value) for metric, value in scores.items()] + [("training time", "s", seconds)]
    return [single_run(NAME, arm, metric, value, unit=unit, settings=settings) for metric, unit, value in figures]


def finished_runs(path: Path, *, reuse: str) -> dict[tuple[str, str], dict[str, float]]:
    """{(arm, settings): {metric: value}} of the rows that `reuse` lets count: "commit", "any" or "none"."""
    done: dict[tuple[str, str], dict[str, float]] = {}
    here = machine()
    for row in read_rows(path) if reuse != "none" else []:
        if reuse == "any" or (row["commit"], row["dirty"]) == (here.commit, here.dirty):
            done.setdefault((row["arm"], row["settings"]), {})[row["metric"]] = float(row["value"])
    return done


def results(
    options: argparse.Namespace, budget: Budget, path: Path | None
) -> Iterator[tuple[str, Task, int, dict[str, float]]]:
    """(arm, task, seed, scores) of every run, the recorded ones first; new ones are written to `path` as they end."""
    done = finished_runs(path, reuse=options.reuse) if path else {}
    todo = []
    for seed in range(options.seeds):
        for task in (TASKS[name] for name in options.tasks):
            for arm in options.arms:
                recorded = done.get((arm, settings_text(run_settings(task, budget, seed))))
                if recorded and "training time" in recorded:
                    yield arm, task, seed, {k: v for k, v in recorded.items() if k != "training time"}
                else:
                    todo.append((arm, task, seed))
    for count, (arm, task, seed, scores, seconds) in enumerate(_run_all(todo, budget, options.workers), 1):
        if path is not None:
            append_rows(path, rows_of(arm, task, budget, seed, scores, seconds))
        shown = "  ".join(f"{metric} {value:.3f}" for metric, value in scores.items())
        print(f"[{count}/{len(todo)}] {task.name} {arm} seed {seed}: {shown}  ({seconds:.0f} s)", flush=True)
        yield arm, task, seed, scores


def _run_all(
    todo: list[tuple[str, Task, int]], budget: Budget, workers: int
) -> Iterator[tuple[str, Task, int, dict[str, float], float]]:
    if workers == 1:
        for arm, task, seed in todo:
            yield arm, task, seed, *run_one(arm, task, budget, seed)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = {pool.submit(run_one, arm, task, budget, seed): (arm, task, seed) for arm, task, seed in todo}
        for job in concurrent.futures.as_completed(jobs):
            yield *jobs[job], *job.result()


def summary(scores: Scores, arms: list[str]) -> str:
    """Mean and 95 % interval over seeds, one column per score; below, the paired difference to the l2 memory."""
    columns = list(dict.fromkeys((task, metric) for task, metric, _ in scores))
    header = ["mean +- 95 % half-width", *(f"{task} {metric}" for task, metric in columns), "seeds"]
    lines, differences = [], []
    for arm in arms:
        found = [scores.get((*column, arm), {}) for column in columns]
        seeds = max(map(len, found))
        lines.append([arm, *(interval_text(list(values.values())) for values in found), str(seeds)])
        if arm == REFERENCE:
            continue
        cells = []
        for column, values in zip(columns, found, strict=True):
            other = scores.get((*column, REFERENCE), {})
            cells.append(interval_text([values[s] - other[s] for s in values if s in other], sign="+"))
        differences.append([f"{arm} - {REFERENCE}", *cells, str(seeds)])
    text = table(header, lines)
    return text + "\n\n" + table(header, differences) if REFERENCE in arms and differences else text


def parse(arguments: list[str] | None) -> argparse.Namespace:
    default = Budget()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", action="store_true", help="measure the untrained operators instead")
    parser.add_argument(
        "--arms", nargs="+", default=list(DEFAULT_ARMS), choices=ARMS, help="default: all but memora-exact"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), help="default: all")
    parser.add_argument("--seeds", type=int, help="seeds 0 .. N-1 (default 5; 20 with --op)")
    parser.add_argument("--steps", type=int, default=default.steps, help=f"optimiser steps (default {default.steps})")
    parser.add_argument("--lr", type=float, default=default.lr, help=f"peak learning rate (default {default.lr})")
    parser.add_argument("--params", type=int, default=default.num_params, help=f"default {default.num_params}")
    parser.add_argument("--chunk-size", type=int, default=default.chunk_size, help=f"default {default.chunk_size}")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a thread each (default 2)")
    parser.add_argument("--reuse", choices=("commit", "any", "none"), default="commit", help="which rows count as done")
    parser.add_argument("--quick", action="store_true", help="20 steps, 2 seeds, one worker, no rows written")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    if options.op:
        seeds = options.seeds or (3 if options.quick else 20)
        op_path = options.results or (None if options.quick else _recall_op.default_path())
        _recall_op.run(num_seeds=seeds, path=op_path, quick=options.quick)
        return
    budget = Budget(steps=options.steps, lr=options.lr, num_params=options.params, chunk_size=options.chunk_size)
    options.seeds = options.seeds or (2 if options.quick else 5)
    if options.quick:
        budget, options.workers = replace(budget, steps=min(20, options.steps), eval_rows=32), 1
    torch.set_num_threads(1)
    scores: Scores = {}
    for arm, task, seed, result in results(options, budget, path):
        for metric, value in result.items():
            scores.setdefault((task.name, metric, arm), {})[seed] = value
    order = {name: i for i, name in enumerate(options.tasks)}
    scores = dict(sorted(scores.items(), key=lambda item: order[item[0][0]]))
    print(summary(scores, options.arms))
    print(f"{json.dumps(budget.__dict__)}; rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
