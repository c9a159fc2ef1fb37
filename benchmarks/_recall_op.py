"""What an untrained memory keeps, by loss and link, when some values are far too long: `benchmarks.recall --op`."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks._harness import RESULTS, Row, append_rows, settings_text, t_interval, table
from memarch.data.recall import VectorRecall, noisy_vector_recall
from memarch.layers.miras import Miras
from memarch.ops import MEMORA, MONETA, MirasRule, miras_memory

NAME = "recall_op"
HEAD_DIM = 32
TUNING_SEED, SCORING_SEED = 1_000, 0
# Step sizes in units of the step that corrects a fresh memory's error at once, to first order.
STEPS = tuple(2.0**e for e in range(-9, 3))
# In units of a clean value's root mean square, which is 1.
THRESHOLDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

RULES: Mapping[str, MirasRule] = {
    "mlp l2": MirasRule(),
    "mlp huber mixture (yaad)": MirasRule(bias="huber", huber="mixture"),
    "mlp huber coordinate": MirasRule(bias="huber", huber="coordinate"),
    "mlp huber norm": MirasRule(bias="huber", huber="norm"),
    "mlp huber pseudo": MirasRule(bias="huber", huber="pseudo"),
    "mlp lp p=1.5": MirasRule(bias="lp", p=1.5),
    "mlp lp p=3": MirasRule(bias="lp", p=3.0),
    "mlp lp p=3, lq (moneta)": MONETA,
    "mlp l2, softmax (memora)": MEMORA,
    "matrix l2 (delta rule)": MirasRule(memory="matrix"),
    "matrix huber norm": MirasRule(memory="matrix", bias="huber", huber="norm"),
    "matrix huber coordinate": MirasRule(memory="matrix", bias="huber", huber="coordinate"),
    "matrix lp p=3": MirasRule(memory="matrix", bias="lp", p=3.0),
}


@dataclass(frozen=True)
class Scenario:
    """What is written. With one write per key only keys whose write was clean are scored, else all keys."""

    name: str
    num_pairs: int
    num_writes: int
    outlier_fraction: float
    outlier_scale: float = 10.0

    def draw(self, num_seeds: int, first_seed: int) -> VectorRecall:
        """One row per seed, each from its own generator, so that seed s is the same however many are drawn."""
        rows = [
            noisy_vector_recall(
                1,
                num_pairs=self.num_pairs,
                key_dim=HEAD_DIM,
                value_dim=HEAD_DIM,
                num_writes=self.num_writes,
                outlier_fraction=self.outlier_fraction,
                outlier_scale=self.outlier_scale,
                generator=torch.Generator().manual_seed(first_seed + seed),
            )
            for seed in range(num_seeds)
        ]
        return VectorRecall(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    @property
    def clean(self) -> "Scenario":
        """The same without outliers."""
        return Scenario(f"{self.name}, no outliers", self.num_pairs, self.num_writes, 0.0)


SCENARIOS = (
    Scenario("16 pairs once, 1/8 outliers", 16, 1, 1 / 8),
    Scenario("16 pairs 5 times, 1/5 outliers", 16, 5, 1 / 5),
)


@dataclass(frozen=True)
class Recall:
    """Per step size and seed, `[number of steps, seeds]`: means over the scored keys."""

    cosine: Tensor
    relative_error: Tensor


def initial_memory(rule: MirasRule, num_seeds: int, seed: int) -> tuple[tuple[Tensor, ...], float]:
    """The layers' own initial weights, one head per seed, and the unit of their step size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = Miras(1, num_seeds, rule=rule, head_dim=HEAD_DIM)
    return tuple(w.detach() for w in layer.initial_weights()), float(layer.step_unit)


@torch.no_grad()
def recall(
    rule: MirasRule,
    scenario: Scenario,
    *,
    steps: tuple[float, ...],
    threshold: float | None,
    num_seeds: int,
    first_seed: int,
) -> Recall:
    """Write the scenario's pairs one token at a time without decay, then read every key with the memory held still.

    Heads are seeds, batch rows are step sizes.
    """
    drawn = scenario.draw(num_seeds, first_seed)
    weights, unit = initial_memory(rule, num_seeds, first_seed)

    def rows(x: Tensor) -> Tensor:
        return x.transpose(0, 1).expand(len(steps), -1, -1, -1)

    def gate(length: int, value: float) -> Tensor:
        return torch.full((len(steps), length, num_seeds), value)

    keys, values, queries = rows(drawn.keys), rows(drawn.values), rows(drawn.queries)
    step_size = gate(keys.shape[1], unit) * torch.tensor(steps)[:, None, None]
    state = None
    output = torch.empty(0)
    for k, v, step in ((keys, values, step_size), (queries, queries, gate(scenario.num_pairs, 0.0))):
        length = k.shape[1]
        delta = None if threshold is None else gate(length, threshold)
        output, state = miras_memory(
            k, k, v, gate(length, 0.0), step, rule=rule, weights=weights, threshold=delta, chunk_size=1, state=state
        )
    targets = rows(drawn.targets)
    scored = drawn.num_outliers.T == 0 if scenario.num_writes == 1 else torch.ones_like(drawn.num_outliers.T) > 0
    share = scored / scored.sum(0)
    cosine = (F.cosine_similarity(output, targets, dim=-1) * share).sum(1)
    error = ((output - targets).norm(dim=-1) / targets.norm(dim=-1) * share).sum(1)
    # A diverged memory has recalled nothing.
    return Recall(torch.nan_to_num(cosine, nan=0.0), torch.nan_to_num(error, nan=torch.inf))


def tune(rule: MirasRule, scenario: Scenario, *, num_seeds: int) -> tuple[float, float | None]:
    """The step size and threshold with the best mean cosine on the tuning seeds."""
    best: tuple[float, float, float | None] = (-2.0, STEPS[0], None)
    for threshold in THRESHOLDS if rule.needs_threshold else (None,):
        found = recall(
            rule, scenario, steps=STEPS, threshold=threshold, num_seeds=num_seeds, first_seed=TUNING_SEED
        ).cosine.mean(1)
        top = int(found.argmax())
        if found[top].item() > best[0]:
            best = (found[top].item(), STEPS[top], threshold)
    return best[1:]


def measure(scenario: Scenario, *, num_seeds: int, rules: Mapping[str, MirasRule]) -> dict[str, dict[str, Recall]]:
    """{rule: {condition: per-seed results}}: no outliers; outliers under that tuning; outliers tuned for."""
    found: dict[str, dict[str, Recall]] = {}
    for name, rule in rules.items():
        for_clean = tune(rule, scenario.clean, num_seeds=num_seeds)
        for_noise = tune(rule, scenario, num_seeds=num_seeds)
        found[name] = {
            condition: recall(
                rule, where, steps=(step,), threshold=threshold, num_seeds=num_seeds, first_seed=SCORING_SEED
            )
            for condition, where, (step, threshold) in (
                ("no outliers", scenario.clean, for_clean),
                ("outliers, tuned without", scenario, for_clean),
                ("outliers, tuned with", scenario, for_noise),
            )
        }
    return found


def rows_of(scenario: Scenario, found: Mapping[str, Mapping[str, Recall]], num_seeds: int) -> list[Row]:
    """Mean and 95 % interval over seeds of both metrics."""
    rows = []
    for name, conditions in found.items():
        for condition, result in conditions.items():
            settings = settings_text({**scenario.__dict__, "condition": condition, "head_dim": HEAD_DIM})
            for metric, values in (("cosine", result.cosine), ("relative error", result.relative_error)):
                mean, low, high = t_interval(values[0].tolist())
                rows.append(
                    Row(
                        benchmark=NAME,
                        arm=name,
                        metric=metric,
                        unit="",
                        value=mean,
                        statistic="mean",
                        low=low,
                        high=high,
                        spread="95% t interval",
                        samples=num_seeds,
                        settings=settings,
                    )  # fmt: skip
                )
    return rows


def show(found: Mapping[str, Mapping[str, Recall]]) -> str:
    """Cosine by condition, and the paired difference to the l2 loss of the same memory under outliers."""
    conditions = list(next(iter(found.values())))
    header = ["cosine to the clean value", *conditions, "minus l2, tuned with", "relative error, tuned with"]
    lines = []
    for name, results in found.items():
        cells = [_interval(results[c].cosine[0].tolist()) for c in conditions]
        reference = next((r for r in found if r.startswith(name.split()[0] + " l2") and "," not in r), None)
        last = results[conditions[-1]]
        difference = "" if reference in (None, name) else _difference(last, found[str(reference)][conditions[-1]])
        lines.append([name, *cells, difference, f"{statistics.median(last.relative_error[0].tolist()):.2f}"])
    return table(header, lines)


def _difference(result: Recall, reference: Recall) -> str:
    return _interval((result.cosine[0] - reference.cosine[0]).tolist(), sign="+")


def _interval(values: list[float], *, sign: str = "") -> str:
    mean, _, high = t_interval(values)
    return f"{mean:{sign}.3f} +- {high - mean:.3f}"


def run(*, num_seeds: int, path: Path | None, quick: bool) -> None:
    """Measure every scenario, append the rows, print the tables."""
    rules = dict(list(RULES.items())[:2]) if quick else RULES
    for scenario in SCENARIOS[:1] if quick else SCENARIOS:
        found = measure(scenario, num_seeds=num_seeds, rules=rules)
        if path is not None:
            append_rows(path, rows_of(scenario, found, num_seeds))
        print(f"\n{scenario.name} (norm x {scenario.outlier_scale:g}), head width {HEAD_DIM}, {num_seeds} seeds")
        print(show(found))
    print(
        f"\nrows: {path or 'not written'}; settings {json.dumps({'steps': len(STEPS), 'thresholds': len(THRESHOLDS)})}"
    )


def default_path() -> Path:
    """Where rows go unless told otherwise."""
    return RESULTS / f"{NAME}.csv"
