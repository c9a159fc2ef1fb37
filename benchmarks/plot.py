"""Draw the figures of benchmarks/results/*.csv again: speed ratios, recall with intervals, how a memory ages, answers.

Of each figure's rows the newest measurement per arm and setting counts. Writes miras_cpu.png, recall.png,
recall_op.png, dialogue.png, dialogue_qa.png, agents_curves.png, dual_process_curves.png and forgetting_probe.png beside
the CSV files; what has no rows is skipped with a line that says how to make them.
"""

import argparse
import json
import math
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


def ageing_figure(rows: Rows) -> Any:
    """Recall at 10 by the age of the evidence, and prompt tokens per turn of the dialogue."""
    described = [(json.loads(r["settings"]), r) for r in rows if json.loads(r["settings"])["part"] == "ageing"]
    # A run of other sizes is another experiment: only that of the newest row is drawn.
    run = {k: v for k, v in described[-1][0].items() if k not in ("of", "budget", "step")}
    rows = newest([r for s, r in described if run.items() <= s.items()])
    described = [(json.loads(r["settings"]), r) for r in rows]
    figure, axes = _figure(1, 2, width=13, height=5)
    recall, tokens = axes.flat
    aged = [(s["of"], r) for s, r in described if r["metric"] == "R@10" and s["of"].startswith("age ")]
    ages = sorted({of for of, _ in aged}, key=lambda of: int(of[4:].split("..")[0]))
    arms = list(dict.fromkeys(r["arm"] for _, r in aged))
    for i, arm in enumerate(arms):
        own = {of: r for of, r in aged if r["arm"] == arm}
        present = [age for age in ages if age in own]
        means = [float(own[age]["value"]) for age in present]
        # Of one seed there is no interval.
        halves = [_finite(float(own[age]["high"]) - float(own[age]["value"])) for age in present]
        at = [ages.index(age) + 0.06 * (i - (len(arms) - 1) / 2) for age in present]
        recall.errorbar(at, means, halves, marker="o", capsize=2, label=arm)
    recall.set_xticks(range(len(ages)), [age[4:].replace("..", "\u2013") for age in ages])
    recall.set_xlabel("age of the evidence in turns")
    recall.set_ylabel("evidence among the first 10, percent")
    recall.legend(fontsize=8)
    curves = [(s, r) for s, r in described if r["metric"] == "prompt tokens" and s["of"] != "all"]
    for arm in dict.fromkeys(r["arm"] for _, r in curves):
        points = sorted((int(s["of"]), r) for s, r in curves if r["arm"] == arm)
        middle = [start + curves[0][0]["step"] / 2 for start, _ in points]
        tokens.plot(middle, [float(r["value"]) for _, r in points], label=arm)
        lows, highs = ([float(r[end]) for _, r in points] for end in ("low", "high"))
        tokens.fill_between(middle, lows, highs, alpha=0.2)
    budget = curves[0][0]["budget"]
    tokens.axhline(budget, color="black", linewidth=1, linestyle="--", label=f"budget of {budget:,}")
    tokens.set_ylim(0, 2 * budget)
    tokens.set_xlabel("turn of the dialogue")
    tokens.set_ylabel("tokens of the prompt, mean and range")
    tokens.legend(fontsize=8)
    figure.suptitle(f"Generated dialogues of {run['num_turns']:,} turns, {len(run['seeds'])} seeds")
    return figure


def answers_figure(rows: Rows) -> Any:
    """Token F1, tokens told and evidence in the prompt by what the prompt holds, a bar a model."""
    budget = json.loads(rows[-1]["settings"])["budget"]
    described = [(json.loads(r["settings"]), r) for r in newest(rows, ignore=("system", "conversations"))]
    described = [(s, r) for s, r in described if s["split"] == "all" and s["budget"] == budget]
    panels = (("F1", "answerable"), ("told", "answerable"), ("evidence in the prompt", "all"))
    arms = list(dict.fromkeys(r["arm"] for _, r in described))
    models = list(dict.fromkeys(s["model"] for s, _ in described))
    figure, axes = _figure(1, len(panels), width=15, height=4.5)
    for axis, (metric, subject) in zip(axes.flat, panels, strict=True):
        for i, model in enumerate(models):
            own = {r["arm"]: r for s, r in described if (s["model"], s["of"], r["metric"]) == (model, subject, metric)}
            here = [arm for arm in arms if arm in own]
            values = [float(own[arm]["value"]) for arm in here]
            lows, highs = ([float(own[arm][end]) for arm in here] for end in ("low", "high"))
            error = [
                [v - low for v, low in zip(values, lows, strict=True)],
                [high - v for v, high in zip(values, highs, strict=True)],
            ]
            at = [arms.index(arm) + (i - (len(models) - 1) / 2) * 0.8 / len(models) for arm in here]
            label = f"{model} ({own[here[0]]['samples']} questions)" if here else model
            axis.barh(at, values, 0.8 / len(models), xerr=error, capsize=2, label=label)
        axis.set_yticks(range(len(arms)), arms)
        axis.invert_yaxis()
        axis.set_xlabel(f"{metric}, percent")
        axis.legend(fontsize=8)
    figure.suptitle(f"Questions about LoCoMo's dialogues, prompts of at most {budget:,} tokens")
    return figure


def curves_figure(rows: Rows) -> Any:
    """What agents reach against the steps of their training: mean over seeds and their range, one panel per task."""
    described = [(json.loads(r["settings"]), r) for r in newest(rows)]
    tasks = list(dict.fromkeys(s["task"] for s, _ in described))
    columns = min(3, len(tasks))
    figure, axes = _figure(
        math.ceil(len(tasks) / columns), columns, width=5 * columns, height=4 * math.ceil(len(tasks) / columns)
    )
    for axis in axes.flat[len(tasks) :]:
        axis.remove()
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = [(s, r) for s, r in described if s["task"] == task]
        # A training of other sizes is another experiment: only that of each memory's newest row is drawn.
        for arm in dict.fromkeys(r["arm"] for _, r in here):
            own = [(s, r) for s, r in here if r["arm"] == arm]
            budget = _training(own[-1][0])
            points: dict[int, list[float]] = {}
            for settings, row in own:
                if _training(settings) == budget:
                    points.setdefault(settings["step"], []).append(float(row["value"]))
            steps = sorted(points)
            axis.plot(steps, [sum(points[n]) / len(points[n]) for n in steps], label=arm)
            axis.fill_between(steps, [min(points[n]) for n in steps], [max(points[n]) for n in steps], alpha=0.15)
        axis.set_title(task)
        axis.set_xlabel("steps of all environments")
        axis.set_ylabel(here[-1][1]["metric"].replace("_", " ") + ", training")
        axis.legend(fontsize=8)
    return figure


def probe_figure(rows: Rows) -> Any:
    """Recall and recognition by times studied, then by updates since: mean over seeds and range, by pre-training."""
    rows = newest(rows)
    # Runs of another size or text are other experiments: only those of the newest row are drawn.
    sizes = _without(rows[-1], "arm", "seed")
    rows = [row for row in rows if _without(row, "arm", "seed") == sizes]
    figure, axes = _figure(1, 2, width=13, height=4.5)
    for axis, asked in zip(axes.flat, ("recall", "recognition, novel"), strict=True):
        here = [row for row in rows if row["metric"].startswith(f"{asked}@")]
        times = list(dict.fromkeys(row["metric"].split("@")[1] for row in here))
        for arm in dict.fromkeys(row["arm"] for row in here):
            values = [
                [float(r["value"]) for r in here if r["arm"] == arm and r["metric"].endswith(f"@{t}")] for t in times
            ]
            axis.plot(range(len(times)), [sum(each) / len(each) for each in values], "o-", label=arm)
            axis.fill_between(
                range(len(times)), [min(each) for each in values], [max(each) for each in values], alpha=0.15
            )
        axis.set_xticks(range(len(times)), times)
        axis.set_xlabel("times studied + updates with other text since")
        axis.set_ylabel(asked)
        axis.legend(fontsize=8)
    return figure


def forgetting_figure(rows: Rows) -> Any:
    """Scores of the part-of-speech task against training steps: mean over seeds, one panel a score."""
    # Runs of another size are other experiments: only those of the newest row are drawn.
    rows = [row for row in rows if (row["steps"], row["num_words"]) == (rows[-1]["steps"], rows[-1]["num_words"])]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(_without_deviation(arm) for arm in arms))}
    figure, axes = _figure(2, 3, width=15, height=8)
    for axis, (metric, title) in zip(axes.flat, FORGETTING_PANELS.items(), strict=True):
        for arm in arms:
            points: dict[int, list[float]] = {}
            for row in rows:
                if row["arm"] == arm:
                    points.setdefault(int(row["step"]), []).append(float(row[metric]))
            means = [sum(values) / len(values) for values in points.values()]
            style = "--" if arm.endswith("-1") else "-"
            axis.plot(list(points), means, style, color=colors[_without_deviation(arm)], label=arm, linewidth=1)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.set_ylim(-0.02, 1.02)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    return figure


FORGETTING_PANELS = {
    "val": "val",
    "switch_in_weights": "switch, answered from the weights",
    "tail_switch": "tail_switch, answered from the context",
    "holdout": "holdout, rows as training left them",
    "holdout_frozen": "holdout, rows as at initialisation",
    "holdout_matched": "holdout, fresh rows of the trained scale",
}
SPEED_METRICS = ("forward time", "forward+backward time", "forward peak memory", "forward+backward peak memory")
FIGURES: dict[str, tuple[Callable[[Rows], Any], str]] = {
    "miras_cpu": (speed_figure, "python -m benchmarks.miras_cpu"),
    "recall": (recall_figure, "python -m benchmarks.recall"),
    "recall_op": (operator_figure, "python -m benchmarks.recall --op"),
    "dialogue": (ageing_figure, "python -m benchmarks.dialogue --part ageing"),
    "agents_curves": (curves_figure, "python -m benchmarks.agents --part learning"),
    "dual_process_curves": (forgetting_figure, "python -m benchmarks.dual_process"),
    "forgetting_probe": (probe_figure, "python -m benchmarks.forgetting_probe"),
    "dialogue_qa": (answers_figure, "python -m benchmarks.dialogue_qa --data locomo10.json"),
}


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _size(row: dict[str, str]) -> tuple[int, int]:
    settings = json.loads(row["settings"])
    return settings["T"], settings["C"]


def _budget(row: dict[str, str]) -> tuple[object, ...]:
    settings = json.loads(row["settings"])
    return tuple(settings[k] for k in ("steps", "lr", "d_model", "num_params", "batch_size", "chunk_size"))


def _without(row: dict[str, str], *keys: str) -> dict[str, object]:
    return {name: value for name, value in json.loads(row["settings"]).items() if name not in keys}


def _without_deviation(arm: str) -> str:
    return arm.removesuffix("-1").removesuffix("-0.02")


def _training(settings: dict[str, Any]) -> str:
    """A training's settings without its seed and step."""
    kept = {k: v for k, v in settings.items() if k != "step"}
    kept["settings"] = {k: v for k, v in settings["settings"].items() if k != "seed"}
    return json.dumps(kept, sort_keys=True)


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
        if name == "dialogue":  # other parts of that benchmark are tables
            rows = [row for row in rows if '"part": "ageing"' in row["settings"]]
        if not rows:
            print(f"{name}: no rows in {folder / f'{name}.csv'}; make them with {command}")
            continue
        target = folder / f"{name}.png"
        draw(rows).savefig(target, dpi=150)
        print(f"{name}: {target}")


if __name__ == "__main__":
    main()
