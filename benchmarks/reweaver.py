"""Whether a reweaver helps a frozen backbone recall over length and on rare tokens.

Key-value pairs come first, then keys are asked between blanks (MQAR, arXiv 2312.04927); the values' frequencies follow
Zipf's law. A two-layer backbone learns it in texts of at most 32 tokens and is frozen; an arm learns on texts four
times as long. Scored at 1, 2, 4 and 8 times the backbone's length with as many pairs, by the values' frequency.

Backbones
  length  a Llama, which attends to everything but knows short texts only
  span    a Mistral, whose attention sees the newest 16 tokens only, in each of its two layers

Arms
  backbone          as it was frozen
  sft               all of its weights go on learning
  lora              LoRA of the reweaver's size on the frozen backbone (needs peft)
  random-selection  a reweaver that reads tokens drawn by lot
  reweaver          the second layer reads the first one's states of the most similar tokens, however far back
                    (memarch.Reweaver, inspired by arXiv 2502.02046, which has no formulas)

Rows go to benchmarks/results/reweaver.csv as a run ends. A run whose rows are there with the same settings is not
repeated: an interrupted benchmark continues. Data are drawn from seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks._harness import RESULTS, Row, append_rows, interval_text, read_rows, settings_text, single_run, table
from benchmarks._reweaver_train import ARMS, BACKBONES, BUCKETS, Budget, run_settings, train_run, trained_backbone

NAME = "reweaver"
TIME = "training time"
Run = tuple[str, str, int]
"""Backbone, arm, seed."""


def rows_of(run: Run, budget: Budget, scores: dict[str, float], seconds: float) -> list[Row]:
    """One row per score, and one for the time of the arm's training and scoring."""
    kind, arm, seed = run
    settings = settings_text(run_settings(kind, budget, seed))
    figures = [(metric, "nats" if metric.startswith("nats") else "", value) for metric, value in scores.items()]
    return [
        single_run(NAME, arm, metric, value, unit=unit, settings=settings)
        for metric, unit, value in [*figures, (TIME, "s", seconds)]
    ]


def finished_runs(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """{(arm, settings): {metric: value}} of the rows that are there."""
    done: dict[tuple[str, str], dict[str, float]] = {}
    for row in read_rows(path):
        done.setdefault((row["arm"], row["settings"]), {})[row["metric"]] = float(row["value"])
    return {key: scores for key, scores in done.items() if TIME in scores}


def results(options: argparse.Namespace, budget: Budget, path: Path | None) -> Iterator[tuple[Run, dict[str, float]]]:
    """Every run with its scores, recorded ones first; new ones are written as they end."""
    done = finished_runs(path) if path and not options.again else {}
    todo = []
    for seed in range(options.seeds):
        for kind in options.backbones:
            for arm in options.arms:
                recorded = done.get((arm, settings_text(run_settings(kind, budget, seed))))
                if recorded:
                    yield (kind, arm, seed), {k: v for k, v in recorded.items() if k != TIME}
                else:
                    todo.append((kind, arm, seed))
    for count, (kind, arm, seed) in enumerate(todo, 1):
        trained_backbone(kind, budget, seed)
        start = time.perf_counter()
        scores = train_run(kind, arm, budget, seed)
        seconds = time.perf_counter() - start
        if path is not None:
            append_rows(path, rows_of((kind, arm, seed), budget, scores, seconds))
        shown = "  ".join(f"{n}x {scores[f'accuracy@{n}x, all']:.3f}" for n in budget.lengths)
        print(f"[{count}/{len(todo)}] {kind} {arm} seed {seed}: {shown}  ({seconds:.0f} s)", flush=True)
        yield (kind, arm, seed), scores


def summary(found: list[tuple[Run, dict[str, float]]], budget: Budget) -> str:
    """Mean and 95 % interval over seeds: two tables a backbone, accuracy over length and figures by frequency."""
    ends = dict.fromkeys((1, max(budget.lengths)))
    over_length = [f"accuracy@{n}x, all" for n in budget.lengths]
    by_frequency = [f"accuracy@{n}x, {b}" for n in ends for b in BUCKETS[1:]] + [f"nats@1x, {b}" for b in BUCKETS[1:]]
    parts = []
    for kind in dict.fromkeys(run[0] for run, _ in found):
        for metrics in (over_length, by_frequency):
            lines = []
            for arm in ARMS:
                scores = [score for run, score in found if run[:2] == (kind, arm)]
                if scores:
                    cells = [interval_text([score[metric] for score in scores]) for metric in metrics]
                    lines.append([arm, *cells, str(len(scores))])
            parts.append(table([f"backbone {kind}", *metrics, "seeds"], lines))
    return "\n\n".join(parts)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    default = Budget()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="default: all")
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=BACKBONES, help="default: both")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 (default 3)")
    parser.add_argument("--steps", type=int, default=default.steps, help=f"of an arm (default {default.steps})")
    parser.add_argument("--arm-times", type=int, default=default.arm_times, help=f"default {default.arm_times}")
    parser.add_argument("--top-k", type=int, default=default.top_k, help=f"tokens read (default {default.top_k})")
    parser.add_argument("--again", action="store_true", help="repeat runs whose rows are there")
    parser.add_argument("--quick", action="store_true", help="2 steps, tiny, one seed, no rows written")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    budget = Budget(steps=options.steps, top_k=options.top_k, arm_times=options.arm_times)
    if options.quick:
        budget = replace(
            budget, num_pairs=(2, 4), num_keys=5, num_values=80, d_model=16, mlp_dim=16, batch_size=8, eval_rows=32,
            arm_times=2, backbone_steps=2, steps=2, width=8, lengths=(1, 2),
        )  # fmt: skip
        options.seeds = 1
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    torch.set_num_threads(1)
    print(summary(list(results(options, budget, path)), budget))
    print(f"rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
