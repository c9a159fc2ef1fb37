"""Does forgetting during pre-training change what a language model retains? The probe of recall, by training.

A causal language model of 0.9 M parameters is pre-trained on a text by one of five arms: vanilla; vanilla-short (half
the steps: what a higher loss alone does); active (the embedding is reset every 100 steps); temporary (every 10 steps,
in the first quarter); probabilistic (at every other step a tenth of the batch's tokens have fresh rows). Then
forgetting is over: the model studies 64 windows of 24 tokens that it has not seen, 1, 3 and 10 times, and takes 1 to
400 updates with other windows of the same text. Asked after each: recognition beside another window ("novel") and
beside the same tokens shuffled ("random"); change, the same by growth of familiarity; recall of the second half of a
window given the first.

A metric is named by what was asked, times studied and updates since: "recall@10+30". Arms of one seed share initial
weights, batches, windows and foils. The tables show means with 95 % intervals over seeds, of each arm and of its
differences to vanilla, seed by seed.

--data takes text files; WikiText-2's are at github.com/pytorch/examples, word_language_model. Without it the text is
the Python language reference. Rows go to benchmarks/results/forgetting_probe.csv as a run ends; a run whose rows are
there with the same settings is not repeated. Source of the probe: arXiv 2303.17557.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks._forgetting_probe_run import ARMS, Budget, Corpus, run_one, run_settings
from benchmarks._harness import RESULTS, Row, append_rows, interval_text, read_rows, settings_text, single_run, table
from memarch.data.text import default_text, load_text
from memarch.probes import ProbeReport

NAME = "forgetting_probe"
LOSS, SECONDS = "validation loss", "time"
Scores = dict[str, float]


def metrics_of(loss: float, report: ProbeReport) -> Scores:
    """Every figure of a run by its name."""
    found = {LOSS: loss}
    for row in report.rows:
        when = f"{row.exposures}+{row.updates}"
        for name in ("recognition", "change"):
            found |= {f"{name}, {kind}@{when}": value for kind, value in getattr(row, name).items()}
        found |= {f"recall@{when}": row.recall, f"exact@{when}": row.recall_exact}
    return found


def rows_of(arm: str, settings: str, scores: Scores) -> list[Row]:
    """One row a figure."""
    units = {LOSS: "nats", SECONDS: "s"}
    return [
        single_run(NAME, arm, metric, value, unit=units.get(metric, ""), settings=settings)
        for metric, value in scores.items()
    ]


def finished_runs(path: Path | None) -> dict[str, Scores]:
    """{settings: scores} of the rows that are there."""
    done: dict[str, Scores] = {}
    for row in read_rows(path) if path else []:
        done.setdefault(row["settings"], {})[row["metric"]] = float(row["value"])
    return {settings: scores for settings, scores in done.items() if SECONDS in scores}


def results(options: argparse.Namespace, budget: Budget, path: Path | None) -> Iterator[tuple[str, int, Scores]]:
    """(arm, seed, scores) of every run; new ones are written as they end."""
    source = load_text(options.data) if options.data else default_text()
    text = " ".join(file.name for file in options.data) if options.data else "Python language reference"
    corpus = Corpus(source, budget)
    done = {} if options.again else finished_runs(path)
    for seed in range(options.seeds):
        for arm in options.arms:
            settings = settings_text(run_settings(arm, budget, corpus, seed, text))
            scores = done.get(settings)
            if scores is None:
                began = time.perf_counter()
                scores = metrics_of(*run_one(arm, budget, corpus, seed))
                scores[SECONDS] = time.perf_counter() - began
                if path is not None:
                    append_rows(path, rows_of(arm, settings, scores))
                print(f"{arm} seed {seed}: loss {scores[LOSS]:.3f}, {scores[SECONDS]:.0f} s", flush=True)
            yield arm, seed, scores


def summary(found: list[tuple[str, int, Scores]], budget: Budget) -> str:
    """Means with intervals over seeds: recognition, change and recall, then differences to vanilla."""
    by_arm: dict[str, dict[int, Scores]] = {}
    for arm, seed, scores in found:
        by_arm.setdefault(arm, {})[seed] = scores
    most = max(budget.exposures)
    times = [f"{count}+0" for count in budget.exposures] + [f"{most}+{count}" for count in budget.updates]
    parts = []
    for asked in ("recall", "recognition, novel", "change, novel", "recognition, random"):
        wanted = ([LOSS] if asked == "recall" else []) + [f"{asked}@{when}" for when in times]
        for base in (None, "vanilla"):
            lines = []
            for arm, runs in by_arm.items():
                if base is not None and (arm == base or base not in by_arm):
                    continue
                beside = by_arm[base] if base else None
                cells = [
                    interval_text([_figure(runs, beside, seed, metric) for seed in runs], digits=2) for metric in wanted
                ]
                lines.append([arm if base is None else f"{arm} - {base}", *cells])
            if lines:
                parts.append(table([asked, *(metric.split("@")[-1] for metric in wanted)], lines))
    return "\n\n".join(parts)


def _figure(runs: dict[int, Scores], beside: dict[int, Scores] | None, seed: int, metric: str) -> float:
    return runs[seed][metric] - (beside[seed][metric] if beside else 0.0)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, help="text files (default: the Python language reference)")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 (default 3)")
    parser.add_argument("--again", action="store_true", help="repeat runs whose rows are there")
    parser.add_argument("--quick", action="store_true", help="4 steps, tiny, one seed, no rows written")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    torch.set_num_threads(1)
    budget = Budget()
    if options.quick:
        budget = replace(
            budget, vocab_size=300, d_model=16, num_layers=1, num_heads=2, seq_len=16, batch_size=4, steps=4,
            short_steps=2, active_every=2, temporary_every=1, stop_after=2, num_items=4, item_tokens=8, probe_batch=2,
            exposures=(0, 1), updates=(1, 2),
        )  # fmt: skip
        options.seeds = 1
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    print(summary(list(results(options, budget, path)), budget))
    print(f"rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
