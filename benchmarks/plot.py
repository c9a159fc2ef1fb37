"""Draw the figures of benchmarks/results/*.csv again: speed ratios, recall with intervals.

Of each figure's rows the newest measurement per arm and setting counts. Writes miras_cpu.png, recall.png and
recall_op.png beside the CSV files; a file that is missing is skipped with a line that says how to make it.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._harness import RESULTS, read_rows, t_interval

Rows = list[dict[str, str]]


def newest(rows: Rows, *, ignore: Sequence[str] = ()) -> Rows:
    """The last row of each (arm, metric, settings), settings compared without the keys in `ignore`."""
    kept: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        settings = {k: v for k, v in json.loads(row["settings"]).items() if k not in ignore}
        kept[row["arm"], row["metric"], json.dumps(settings, sort_keys=True)] = row
    return list(kept.values())


def speed_figure(rows: Rows) -> Any:
    """Bars of titans / ours for time and memory, one group per length and chunk size."""
    figure, axes = _figure(2, 2, width=11, height=7)
    for axis, metric in zip(axes.flat, SPEED_METRICS, strict=True):
        chosen = [r for r in newest(rows) if r["metric"] == metric and r["arm"] != r["baseline"]]
        sizes = sorted({_size(r) for r in chosen})
        arms = list(dict.fromkeys(r["arm"] for r in chosen))
        for i, arm in enumerate(arms):
            by_size = {_size(r): r for r in chosen if r["arm"] == arm}
            present = [s for s in sizes if s in by_size]
            heights = [float(by_size[s]["ratio"]) for s in present]
            lows = [float(by_size[s]["ratio_low"] or by_size[s]["ratio"]) for s in present]
            highs = [float(by_size[s]["ratio_high"] or by_size[s]["ratio"]) for s in present]
            error = [
                [h - low for h, low in zip(heights, lows, strict=True)],
                [high - h for h, high in zip(heights, highs, strict=True)],
            ]
            at = [sizes.index(s) + (i - (len(arms) - 1) / 2) * 0.8 / len(arms) for s in present]
            axis.bar(at, heights, 0.8 / len(arms), yerr=error, capsize=2, label=arm)
        axis.axhline(1.0, color="black", linewidth=1)
        axis.set_xticks(range(len(sizes)), [f"T={t}, C={c}" for t, c in sizes])
        axis.set_title(metric)
        axis.set_ylabel("titans-pytorch / ours (above 1: ours needs less)")
        if chosen:
            axis.legend(fontsize=8)
    first = rows[-1]
    figure.suptitle(
        f"NeuralMemory against memarch: {first['device']}, {first['threads']} threads, torch {first['torch']}"
    )
    return figure


def recall_figure(rows: Rows) -> Any:
    """Score against the number of pairs, mean and 95 % interval over seeds, one panel per task."""
    scored = [r for r in newest(rows) if "@" in r["metric"]]
    # Runs of other budgets are other experiments: only the budget of the newest row is drawn.
    budget = _budget(scored[-1])
    scored = [r for r in scored if _budget(r) == budget]
    tasks = list(dict.fromkeys(json.loads(r["settings"])["task"] for r in scored))
    figure, axes = _figure(1, len(tasks), width=5 * len(tasks), height=4.5)
    for axis, task in zip(axes.flat, tasks, strict=True):
        here = [r for r in scored if json.loads(r["settings"])["task"] == task]
        arms = sorted({r["arm"] for r in here})
        for i, arm in enumerate(arms):
            values: dict[int, list[float]] = {}
            for row in here:
                if row["arm"] == arm:
                    values.setdefault(int(row["metric"].split("@")[1]), []).append(float(row["value"]))
            loads = sorted(values)
            means, halves = [], []
            for load in loads:
                mean, _, high = t_interval(values[load])
                means.append(mean)
                halves.append(high - mean if len(values[load]) > 1 else 0.0)
            shift = 1 + 0.015 * (i - (len(arms) - 1) / 2)
            axis.errorbar([n * shift for n in loads], means, halves, marker="o", capsize=3, label=arm)
        axis.set_xscale("log", base=2)
        axis.set_xticks(loads, [str(n) for n in loads])
        axis.set_xlabel("pairs to remember")
        axis.set_ylabel(here[0]["metric"].split("@")[0])
        axis.set_title(task)
        axis.legend(fontsize=8)
    return figure


def operator_figure(rows: Rows) -> Any:
    """Cosine of every rule without outliers and with them, one panel per scenario."""
    chosen = [r for r in newest(rows) if r["metric"] == "cosine"]
    described = [(json.loads(r["settings"]), r) for r in chosen]
    scenarios = list(dict.fromkeys(s["name"] for s, _ in described))
    conditions = list(dict.fromkeys(s["condition"] for s, _ in described))
    figure, axes = _figure(1, len(scenarios), width=6.5 * len(scenarios), height=6)
    for axis, scenario in zip(axes.flat, scenarios, strict=True):
        arms = list(dict.fromkeys(r["arm"] for s, r in described if s["name"] == scenario))
        for i, condition in enumerate(conditions):
            here = {r["arm"]: r for s, r in described if (s["name"], s["condition"]) == (scenario, condition)}
            values = [float(here[a]["value"]) for a in arms]
            halves = [float(here[a]["high"]) - float(here[a]["value"]) for a in arms]
            at = [j + (i - 1) * 0.27 for j in range(len(arms))]
            axis.barh(at, values, 0.27, xerr=halves, capsize=2, label=condition)
        axis.set_yticks(range(len(arms)), arms)
        axis.invert_yaxis()
        axis.set_xlabel("cosine to the clean value")
        axis.set_title(scenario)
        axis.legend(fontsize=8)
    return figure


SPEED_METRICS = ("forward time", "forward+backward time", "forward peak memory", "forward+backward peak memory")
FIGURES: dict[str, tuple[Callable[[Rows], Any], str]] = {
    "miras_cpu": (speed_figure, "python -m benchmarks.miras_cpu"),
    "recall": (recall_figure, "python -m benchmarks.recall"),
    "recall_op": (operator_figure, "python -m benchmarks.recall --op"),
}


def _size(row: dict[str, str]) -> tuple[int, int]:
    settings = json.loads(row["settings"])
    return settings["T"], settings["C"]


def _budget(row: dict[str, str]) -> tuple[object, ...]:
    settings = json.loads(row["settings"])
    return tuple(settings[k] for k in ("steps", "lr", "d_model", "num_params", "batch_size", "chunk_size"))


def _figure(num_rows: int, num_columns: int, *, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, squeeze=False)


def main(arguments: list[str] | None = None) -> None:
    """Draw every figure whose rows exist."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files (default results/)")
    folder = parser.parse_args(arguments).results
    for name, (draw, command) in FIGURES.items():
        rows = read_rows(folder / f"{name}.csv")
        if not rows:
            print(f"{name}: no rows in {folder / f'{name}.csv'}; make them with {command}")
            continue
        target = folder / f"{name}.png"
        draw(rows).savefig(target, dpi=150)
        print(f"{name}: {target}")


if __name__ == "__main__":
    main()
