"""Whether rewriting the cache makes a transformer recurrent: state tracking beyond the trained length.

One element of a group (parity, Z5, S3, S5) a line; at every newline the product so far is due, and is never fed back.
Trained on 1 to 8 lines, scored on lines 5 to 8, 9 to 16, 17 to 32 and 33 to 64 of longer texts (accuracy@8, @16, @32,
@64). And multiplication of two digits by two, where the whole cache is rewritten every other token (version 1 of
arXiv 2505.16950). 300 steps are enough for parity; the other tasks want --steps 1200 or more.

Regimes, of a two-layer Llama from scratch
  joint   backbone and arm learn together: vanilla, vanilla-larger (as many parameters as with the processor), pause,
          mean-shift, random-selection, causal, values-only, processor
  frozen  the backbone alone first, then the arm on the frozen backbone: identity (the backbone), sft (more of it),
          lora (of the processor's size; needs peft), and the same from pause on. State tracking only.

Each rewriting takes the newest four entries, which are this line's and the last one's, and of earlier ones those
attended to most. With --window step only this line's are sure to be taken; attention then has to select the entry that
holds the state of the last line.

Of a trained processor the scores "random rewrite" are those with changes of the same size in directions by lot.

Rows go to benchmarks/results/cache_mechanism.csv as soon as a run ends. A run whose row is there with the same settings
and commit is not repeated, so an interrupted benchmark continues. Data are drawn from seeds: nothing is downloaded.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks._cache_mechanism_train import FROZEN, JOINT, REGIMES, TASKS, Budget, Task, run_settings, train_run
from benchmarks._harness import RESULTS, Row, append_rows, interval_text, settings_text, single_run, table
from benchmarks.recall import finished_runs

NAME = "cache_mechanism"
TIME = "training time"
ARMS = tuple(dict.fromkeys((*JOINT[:2], *FROZEN)))


class Run(NamedTuple):
    """What one run is."""

    regime: str
    arm: str
    task: Task
    seed: int


def run_one(run: Run, budget: Budget) -> tuple[dict[str, float], float]:
    """Scores of one run and its seconds; one thread, so that several runs share a machine well."""
    torch.set_num_threads(1)
    # peft asks transformers for something by its old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    start = time.perf_counter()
    return train_run(*run[:3], budget, run.seed), time.perf_counter() - start


def rows_of(run: Run, budget: Budget, scores: dict[str, float], seconds: float) -> list[Row]:
    """One row per score, and one for the run's time."""
    settings = settings_text(run_settings(run.regime, run.task, budget, run.seed))
    figures = [(metric, "", value) for metric, value in scores.items()] + [(TIME, "s", seconds)]
    return [single_run(NAME, run.arm, metric, value, unit=unit, settings=settings) for metric, unit, value in figures]


def all_runs(options: argparse.Namespace) -> list[Run]:
    """Seed by seed, so that an interrupted benchmark has every arm."""
    tasks = [replace(TASKS[name], test_lines=(8, 16)) if options.quick else TASKS[name] for name in options.tasks]
    return [
        Run(regime, arm, task, seed)
        for seed in range(options.seeds)
        for task in tasks
        for regime in options.regimes
        for arm in REGIMES[regime]
        # Version 1 trains end to end and rewrites everything: nothing is selected there.
        if arm in options.arms and (task.group or (regime == "joint" and arm != "random-selection"))
    ]


def results(options: argparse.Namespace, budget: Budget, path: Path | None) -> Iterator[tuple[Run, dict[str, float]]]:
    """Every run with its scores, the recorded ones first; new ones are written to `path` as they end."""
    done = finished_runs(path, reuse=options.reuse) if path else {}
    todo = []
    for run in all_runs(options):
        recorded = done.get((run.arm, settings_text(run_settings(run.regime, run.task, budget, run.seed))))
        if recorded and TIME in recorded:
            yield run, {k: v for k, v in recorded.items() if k != TIME}
        else:
            todo.append(run)
    for count, (run, scores, seconds) in enumerate(_run_all(todo, budget, options.workers), 1):
        if path is not None:
            append_rows(path, rows_of(run, budget, scores, seconds))
        shown = "  ".join(f"{metric} {value:.3f}" for metric, value in scores.items())
        print(
            f"[{count}/{len(todo)}] {run.task.name} {run.regime} {run.arm} seed {run.seed}: {shown}  ({seconds:.0f} s)",
            flush=True,
        )
        yield run, scores


def _run_all(todo: list[Run], budget: Budget, workers: int) -> Iterator[tuple[Run, dict[str, float], float]]:
    if workers == 1:
        for run in todo:
            yield run, *run_one(run, budget)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = {pool.submit(run_one, run, budget): run for run in todo}
        for job in concurrent.futures.as_completed(jobs):
            yield jobs[job], *job.result()


def summary(scores: list[tuple[Run, dict[str, float]]]) -> str:
    """A table a task and regime: mean over seeds and 95 % interval."""
    grouped: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    for run, found in scores:
        for metric, value in found.items():
            base, _, control = metric.partition(", ")
            arm = f"{run.arm}, {control}" if control else run.arm
            cells = grouped.setdefault((run.task.name, run.regime), {}).setdefault(arm, {})
            cells.setdefault(base, []).append(value)
    parts = []
    for (task, regime), arms in grouped.items():
        metrics = list(dict.fromkeys(metric for cells in arms.values() for metric in cells))
        lines = [
            [arm, *(interval_text(cells.get(metric, [])) for metric in metrics), str(max(map(len, cells.values())))]
            for arm, cells in sorted(arms.items(), key=lambda item: _place(item[0]))
        ]
        parts.append(table([f"{task}, {regime}: mean +- 95 % half-width", *metrics, "seeds"], lines))
    return "\n\n".join(parts)


def _place(arm: str) -> tuple[int, bool]:
    name, _, control = arm.partition(", ")
    return ARMS.index(name), bool(control)


def _window(text: str) -> str | int:
    return text if text == "step" else int(text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    default = Budget()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), help="default: all")
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=list(REGIMES), help="default: both")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 (default 3)")
    parser.add_argument("--steps", type=int, default=default.steps, help=f"optimiser steps (default {default.steps})")
    parser.add_argument("--lr", type=float, default=default.lr, help=f"peak learning rate (default {default.lr})")
    parser.add_argument(
        "--window", type=_window, default=default.window, help=f"'step', or entries (default {default.window})"
    )
    parser.add_argument("--top-k", type=int, default=default.top_k, help=f"earlier entries (default {default.top_k})")
    parser.add_argument("--bptt-steps", type=int, default=default.bptt_steps, help=f"default {default.bptt_steps}")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a thread each (default 2)")
    parser.add_argument("--reuse", choices=("commit", "any", "none"), default="commit", help="which rows count as done")
    parser.add_argument("--quick", action="store_true", help="2 steps, 16 lines, one seed, no rows written")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    budget = Budget(
        steps=options.steps, lr=options.lr, window=options.window, top_k=options.top_k, bptt_steps=options.bptt_steps
    )
    if options.quick:
        budget = replace(budget, steps=2, batch_size=4, d_model=16, processor_dim=8, mlp_dim=8, eval_rows=4)
        options.seeds, options.workers = 1, 1
    torch.set_num_threads(1)
    scores = list(results(options, budget, path))
    print(summary(scores))
    print(f"{json.dumps(budget.__dict__)}; rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
