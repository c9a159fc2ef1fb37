"""Does forgetting embeddings keep in-context learning alive? The part-of-speech task, four ways to train.

Modes: vanilla; active (the embedding is reset every so many steps), temporary (only at first), probabilistic (at every
other step a tenth of the batch's tokens have fresh rows, and the embedding learns nothing). Resets clear the optimiser
state of the embeddings, of all parameters or of none, and draw rows of standard deviation 0.02 (the model's own) or 1
(the published code's).

Scores, by whole sequences: val; switch and tail_switch (words and rare words in the other class's slots: right by the
context, or by the weights: `_in_weights`); tail; and words that training never shows, with three kinds of rows: as
training left them (holdout: the tied output layer pushes them away), as they were at initialisation (holdout_frozen),
and fresh ones of the trained rows' scale (holdout_matched).

A dual process is: high holdout and tail_switch together with high switch_in_weights and val.

Rows go to benchmarks/results/dual_process.csv as a run ends, learning curves to dual_process_curves.csv. A run whose
rows are there with the same settings is not repeated: an interrupted benchmark continues. Data are drawn from seeds.
Source: arXiv 2406.00053; `--paper` is its size, for a GPU.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks._dual_process_train import ARMS, METRICS, PAPER, Budget, learning_curve, run_settings
from benchmarks._harness import RESULTS, Row, append_rows, interval_text, read_rows, settings_text, single_run, table

NAME = "dual_process"
Curve = list[tuple[int, dict[str, float]]]
SHOWN = ("val", "switch", "switch_in_weights", "tail", "tail_switch", "holdout", "holdout_frozen", "holdout_matched")


def run_one(arm: str, budget: Budget, seed: int, device: str) -> tuple[Curve, float]:
    """A run's learning curve and its seconds; one thread, so that several runs share a machine well."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    return list(learning_curve(ARMS[arm], budget, seed, device)), time.perf_counter() - start


def rows_of(arm: str, budget: Budget, seed: int, curve: Curve, seconds: float) -> list[Row]:
    """The last scores of a run, and its time."""
    settings = settings_text(run_settings(ARMS[arm], budget, seed))
    figures = [(metric, "", curve[-1][1][metric]) for metric in METRICS] + [("training time", "s", seconds)]
    return [single_run(NAME, arm, metric, value, unit=unit, settings=settings) for metric, unit, value in figures]


def append_curve(path: Path, arm: str, budget: Budget, seed: int, curve: Curve) -> None:
    """One line per evaluation: arm, steps of the whole run, seed, step, and every score."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(["arm", "steps", "num_words", "seed", "step", *METRICS])
        for step, scores in curve:
            figures = [f"{scores[metric]:.3f}" for metric in METRICS]
            writer.writerow([arm, budget.steps, budget.num_words, seed, step, *figures])


def finished_runs(path: Path) -> dict[str, dict[str, float]]:
    """{settings: {metric: value}} of the rows that are there."""
    done: dict[str, dict[str, float]] = {}
    for row in read_rows(path):
        done.setdefault(row["settings"], {})[row["metric"]] = float(row["value"])
    return {settings: scores for settings, scores in done.items() if "training time" in scores}


def results(options: argparse.Namespace, budget: Budget, path: Path | None) -> Iterator[tuple[str, dict[str, float]]]:
    """(arm, last scores) of every run, recorded ones first; new ones are written as they end."""
    done = finished_runs(path) if path and not options.again else {}
    todo = []
    for seed in range(options.seeds):
        for arm in options.arms:
            recorded = done.get(settings_text(run_settings(ARMS[arm], budget, seed)))
            if recorded:
                yield arm, recorded
            else:
                todo.append((arm, seed))
    for count, (arm, seed, curve, seconds) in enumerate(_run_all(todo, budget, options), 1):
        if path is not None:
            append_curve(path.with_name(f"{path.stem}_curves.csv"), arm, budget, seed, curve)
            append_rows(path, rows_of(arm, budget, seed, curve, seconds))
        last = curve[-1][1]
        shown = "  ".join(f"{metric} {last[metric]:.2f}" for metric in SHOWN)
        print(f"[{count}/{len(todo)}] {arm} seed {seed}: {shown}  ({seconds:.0f} s)", flush=True)
        yield arm, last


def _run_all(
    todo: list[tuple[str, int]], budget: Budget, options: argparse.Namespace
) -> Iterator[tuple[str, int, Curve, float]]:
    if options.workers == 1:
        for arm, seed in todo:
            yield arm, seed, *run_one(arm, budget, seed, options.device)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        jobs = {pool.submit(run_one, arm, budget, seed, options.device): (arm, seed) for arm, seed in todo}
        for job in concurrent.futures.as_completed(jobs):
            yield *jobs[job], *job.result()


def summary(found: list[tuple[str, dict[str, float]]]) -> str:
    """Mean and 95 % interval over seeds, one line per arm."""
    lines = []
    for arm in dict.fromkeys(arm for arm, _ in found):
        scores = [score for name, score in found if name == arm]
        cells = [interval_text([score[metric] for score in scores], digits=2) for metric in SHOWN]
        lines.append([arm, *cells, str(len(scores))])
    return table(["arm", *SHOWN, "seeds"], lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 (default 3)")
    parser.add_argument("--steps", type=int, help=f"optimiser steps (default {Budget().steps})")
    parser.add_argument("--paper", action="store_true", help="the paper's size: hours without a GPU")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a thread each (default 2)")
    parser.add_argument("--again", action="store_true", help="repeat runs whose rows are there")
    parser.add_argument("--quick", action="store_true", help="4 steps, tiny, one seed, one worker, no rows written")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    budget = PAPER if options.paper else Budget()
    if options.quick:
        budget = replace(
            budget, num_words=40, num_layers=1, hidden_dim=8, mlp_dim=8, batch_size=8, steps=4, active_every=2,
            temporary_every=1, stop_after=2, eval_rows=20, num_evals=2,
        )  # fmt: skip
        options.seeds, options.workers = 1, 1
    if options.steps:
        budget = replace(budget, steps=options.steps)
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    print(summary(list(results(options, budget, path))))
    print(f"rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
