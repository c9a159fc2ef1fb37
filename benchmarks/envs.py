"""Steps a second of the environments on one core, beside Minigrid's and POPGym's.

Measured with gymnasium.utils.performance.benchmark_vector_step: uniform actions, resets and the sampling of actions
included, steps that only reset not counted. Ours are measured as native VectorEnv and, "sync", as gymnasium's
SyncVectorEnv over the scalar form; Minigrid and POPGym have no vector form of their own, so theirs is SyncVectorEnv.
Default options of every environment, autoreset NEXT_STEP.

Arms take turns in every round. Value: median over rounds; ratio: the median of per-round ratios to the peer at the same
number of environments (RepeatPreviousEasy of POPGym; MemoryS7 of Minigrid for pixels); above 1 ours makes more steps.
Peers are optional: pip install -c constraints.txt -e '.[bench]'. Two cores, of which it takes one: 8 minutes.
"""

import argparse
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium.utils.performance import benchmark_vector_step
from gymnasium.vector import VectorEnv

from benchmarks._envs_arms import Arm, our_arms, peer_arms
from benchmarks._harness import RESULTS, Row, append_rows, settings_text, table, time_rounds

NAME = "envs"
NUM_ENVS = (1, 16, 64, 256, 1024)
METRIC = "steps per second"


def measure(arms: Sequence[Arm], num_envs: int, *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of one step of one environment, for each arm and round."""
    envs = {arm.name: arm.make(num_envs) for arm in arms}
    try:
        clocks = {name: _seconds_per_step(env, seconds) for name, env in envs.items()}
        # benchmark_vector_step warms up by itself.
        return time_rounds(clocks, rounds=rounds, warmup=0, clock=lambda run: float(run()))  # type: ignore[arg-type]
    finally:
        for env in envs.values():
            env.close()


def rows_of(
    arms: Sequence[Arm], measured: Mapping[str, Sequence[float]], num_envs: int, settings: Mapping[str, object]
) -> list[Row]:
    """Steps a second of each arm, and its ratio to its baseline where that was measured."""
    rows = []
    for arm in arms:
        rates = [1 / seconds for seconds in measured[arm.name]]
        against = measured.get(arm.baseline, ())
        ratios = [theirs / ours for ours, theirs in zip(measured[arm.name], against, strict=False)]
        rows.append(
            Row(
                benchmark=NAME,
                arm=arm.name,
                baseline=arm.baseline if ratios else "",
                metric=METRIC,
                unit="1/s",
                value=statistics.median(rates),
                low=min(rates),
                high=max(rates),
                samples=len(rates),
                ratio=statistics.median(ratios) if ratios else None,
                ratio_low=min(ratios, default=None),
                ratio_high=max(ratios, default=None),
                settings=settings_text({**settings, "num_envs": num_envs, "env_id": arm.env_id, "form": arm.form}),
            )
        )
    return rows


def summary(arms: Sequence[Arm], found: Mapping[tuple[str, int], Row], sizes: Sequence[int]) -> str:
    """Steps a second in thousands by number of environments, the ratios, and whether one of them reaches the aim."""
    lines = []
    for arm in arms:
        rows = [found[arm.name, size] for size in sizes]
        ratios = sorted(row.ratio for row in rows if row.ratio is not None)
        ends = dict.fromkeys(f"{ratio:.{2 if ratio < 1 else 1}f}x" for ratio in ratios[:1] + ratios[-1:])
        best = max(row.value for row in rows)
        aim = "" if arm.aim is None else f"{arm.aim / 1000:,.0f} {'reached' if best >= arm.aim else 'missed'}"
        cells = [f"{row.value / 1000:,.1f}" for row in rows]
        lines.append([arm.name, *cells, " to ".join(ends), aim])
    header = ["1000 steps/s, environments:", *map(str, sizes), "times its peer", "aim"]
    return table(header, lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, record; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, nargs="+", help=f"default: {' '.join(map(str, NUM_ENVS))}")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only arms whose name has one of these in it")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement (default: %(default)s)")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    parser.add_argument(
        "--quick", action="store_true", help="16 environments, briefly; writes no rows unless --results is given"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.num_envs, options.rounds, options.seconds = options.num_envs or [16], 2, 0.02
    sizes = options.num_envs or list(NUM_ENVS)
    arms = available([*our_arms(), *peer_arms()], options.only)
    versions = {"gymnasium": gymnasium.__version__} | {arm.package: arm.version() for arm in arms if arm.package}
    settings = {"seconds": options.seconds, "autoreset": "NEXT_STEP", "versions": versions}
    found: dict[tuple[str, int], Row] = {}
    torch.set_num_threads(1)  # what the rows say; nothing here uses more
    with one_core() as core:
        for size in sizes:
            measured = measure(arms, size, rounds=options.rounds, seconds=options.seconds)
            found |= {(row.arm, size): row for row in rows_of(arms, measured, size, settings | {"core": core})}
            print(f"measured with {size} environments", flush=True)
    print(summary(arms, found, sizes))
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    if path is not None:
        append_rows(path, list(found.values()))
    print(f"\n{NAME}: {len(found)} rows; written to {path or 'nowhere'}")


def available(arms: Sequence[Arm], only: Sequence[str] | None) -> list[Arm]:
    """The arms that were asked for and can be made; says what is missing."""
    kept, missing = [], set()
    for arm in arms:
        if only and not any(text.lower() in arm.name.lower() for text in only):
            continue
        try:
            arm.make(1).close()
            kept.append(arm)
        except ImportError:
            missing.add(arm.package)
    for package in sorted(missing):
        print(f"{package} is not installed, so it is left out: pip install -c constraints.txt -e '.[bench]'")
    if not kept:
        raise SystemExit(f"no environment has {' or '.join(map(repr, only or []))} in its name")
    return kept


@contextmanager
def one_core() -> Iterator[int | None]:
    """Keep this process on one core meanwhile; its number, None where the system has no such call."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)


def _seconds_per_step(env: VectorEnv[Any, Any, Any], seconds: float) -> Callable[[], float]:
    return lambda: 1 / benchmark_vector_step(env, seconds, seed=0)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
