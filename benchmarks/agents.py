"""Agents: steps a second of their training beside sb3-contrib's RecurrentPPO, and what each memory learns.

--part speed     PPO with LSTM, GRU, GTrXL and HCAM against RecurrentPPO: 16 CartPoles, layers of the same width,
                 rollouts, epochs and minibatches, one thread. Arms take turns; a ratio is the median over rounds, above
                 1 ours makes more steps. The peer is optional: pip install -c constraints.txt -e '.[bench]'.
--part learning  Passive T-Maze trained in corridors of up to 250 cells, most of them short, and tested in 50, 100 and
                 250; FastBinding trained with at most 2 distractors and tested with up to 20; Ballet with two dancers
                 (symbolic); PairedInference trained on pairs as they were shown, and tested on those and on pairs to be
                 inferred; three easy tasks of POPGym (the extra bench again). Every memory gets the same steps, sizes
                 and settings, and is then tested on seeds that no training uses. GTrXL's attention sees a whole
                 episode; HCAM's the last 4 to 32 steps, and chunks. Sizes and settings are data:
                 benchmarks/_agents_tasks.py. --preset gpu takes sizes for a GPU, and adds Ballet with eight dancers in
                 pixels.

Rows go to benchmarks/results/agents.csv as soon as a run ends, curves to agents_curves.csv; `python -m benchmarks.plot`
draws them. A run whose row is there with the same settings and commit is not repeated, so an interrupted benchmark
continues.
"""

import argparse
import concurrent.futures
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import _agents_speed as speed
from benchmarks._agents_learning import NAME, Outcome, curve_rows, finished, rows_of, run_one, summary
from benchmarks._agents_tasks import MEMORIES, PRESETS, Task, tasks_of
from benchmarks._harness import RESULTS, append_rows, settings_text, time_rounds

PARTS = ("speed", "learning")
Run = tuple[Task, str, int]
"""Task, memory, seed."""


def measure_speed(options: argparse.Namespace, path: Path | None) -> None:
    """Part `speed`: time, print, record."""
    sizes = speed.Sizes(rollout_steps=16, num_epochs=1, rollouts=1) if options.quick else speed.Sizes()
    names = [name for name in options.memories or speed.MEMORIES if name in speed.MEMORIES]
    arms = speed.available([*names, speed.BASELINE], sizes)
    if not arms:
        raise SystemExit(f"nothing to time: --memories of this part are {', '.join(speed.MEMORIES)}")
    torch.set_num_threads(1)
    seconds = time_rounds({arm.name: arm.run for arm in arms}, rounds=options.rounds)
    for arm in arms:
        arm.close()
    rows = speed.rows_of(arms, seconds, sizes)
    if path is not None:
        append_rows(path, rows)
    print(speed.summary(rows, arms))
    print(f"rows: {path or 'not written'}")


def measure_learning(options: argparse.Namespace, path: Path | None) -> None:
    """Part `learning`: train what is not recorded, print the table."""
    tasks = _tasks(options)
    memories = options.memories or list(MEMORIES)
    done = finished(path, reuse=options.reuse) if path else {}
    scores: dict[tuple[str, str, str], dict[int, float]] = {}
    todo: list[Run] = []
    for seed in range(options.seeds):
        for task in tasks:
            for memory in memories:
                key = memory, settings_text({**task.describe(memory, seed), "episodes": options.episodes})
                for test, measures in done.get(key, {}).items():
                    scores.setdefault((task.name, test, memory), {})[seed] = measures[task.measure]
                if key not in done:
                    todo.append((task, memory, seed))
    for count, ((task, memory, seed), outcome) in enumerate(_run_all(todo, options), 1):
        if path is not None:
            append_rows(_curves(path), curve_rows(task, memory, seed, options.episodes, outcome))
            append_rows(path, rows_of(task, memory, seed, options.episodes, outcome))
        shown = []
        for test, (success, total_reward) in outcome.tests.items():
            value = success if task.measure == "success" else total_reward
            scores.setdefault((task.name, test, memory), {})[seed] = value
            shown.append(f"{test} {task.measure} {value:.2f}".strip())
        print(f"[{count}/{len(todo)}] {task.name} {memory} seed {seed}: {', '.join(shown)} ({outcome.seconds:.0f} s)")
    print(summary(scores, tasks, memories))
    print(f"rows: {path or 'not written'}")


def _tasks(options: argparse.Namespace) -> list[Task]:
    """Those asked for that can be run here; says why the others cannot."""
    known = tasks_of(options.preset)
    unknown = [name for name in options.tasks or () if name not in known]
    if unknown:
        raise SystemExit(f"--tasks of the preset {options.preset} are {', '.join(known)}; got {unknown[0]!r}")
    tasks = []
    for task in (known[name] for name in options.tasks or known):
        if missing := task.missing():
            print(f"{task.name} is left out: {missing}")
            continue
        task = task.quick() if options.quick else task
        tasks.append(replace(task, steps=options.steps) if options.steps else task)
    if not tasks:
        raise SystemExit("no task is left to run")
    return tasks


def _run_all(todo: list[Run], options: argparse.Namespace) -> Iterator[tuple[Run, Outcome]]:
    if options.workers == 1:
        for run in todo:
            yield run, run_one(*run, options.episodes, options.device)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        jobs = {pool.submit(run_one, *run, options.episodes, options.device): run for run in todo}
        for job in concurrent.futures.as_completed(jobs):
            yield jobs[job], job.result()


def _curves(path: Path) -> Path:
    return path.with_name(f"{path.stem}_curves.csv")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS, help="default: both")
    parser.add_argument("--preset", default="cpu", choices=PRESETS, help="sizes of part learning (default cpu)")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="default: all of the preset")
    parser.add_argument("--memories", nargs="+", choices=MEMORIES, help="default: all of the part")
    parser.add_argument("--seeds", type=int, help="seeds 0 .. N-1 (default 3; 1 with --quick)")
    parser.add_argument("--steps", type=int, help="of a training (default: the task's)")
    parser.add_argument("--episodes", type=int, help="of a test (default 128; 2 with --quick)")
    parser.add_argument("--rounds", type=int, help="of part speed (default 5; 2 with --quick)")
    parser.add_argument("--workers", type=int, help="trainings at a time, a thread each (default 2; 1 on a GPU)")
    parser.add_argument("--device", help="of part learning (default: cpu; cuda with --preset gpu)")
    parser.add_argument("--reuse", choices=("commit", "any", "none"), default="commit", help="which rows count as done")
    parser.add_argument(
        "--quick", action="store_true", help="shows that it runs: tiny sizes, one seed, no rows written"
    )
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    options = parser.parse_args(arguments)
    quick, gpu = options.quick, options.preset == "gpu"
    options.seeds = options.seeds or (1 if quick else 3)
    options.episodes = options.episodes or (2 if quick else 128)
    options.rounds = options.rounds or (2 if quick else 5)
    options.workers = options.workers or (1 if quick or gpu else 2)
    options.device = options.device or ("cuda" if gpu and not quick else "cpu")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    if "speed" in options.part:
        measure_speed(options, path)
    if "learning" in options.part:
        measure_learning(options, path)


if __name__ == "__main__":
    main()
