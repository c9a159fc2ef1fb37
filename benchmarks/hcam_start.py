"""How HCAM starts, and what its MLP is: episodes until fast binding is learnt from the oracle's choices.

An agent's network is told the right choice at every block and question of `memarch/FastBinding-v0` (at most 2 blocks,
items of 8 numbers), on whole windows of 32 steps from 32 environments; what is scored is the question alone, whose word
and objects were never seen before (chance 1/3), after half of the training and all of it, and then with 10 and 20
blocks. No reinforcement: this asks what a layer can learn to recall, and from how many episodes.

Arms: "recall, swiglu" (HCAM's defaults: keys start as queries, value and output as the identity; the MLP has products),
each of the two alone, "random, gelu" (as released), and GTrXL, whose attention sees every step of all tests.

Rows go to benchmarks/results/hcam_start.csv as soon as a run ends. A run whose row is there with the same settings and
commit is not repeated. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._harness import RESULTS, append_rows, interval_text, settings_text, single_run, table
from benchmarks.recall import finished_runs
from memarch.agents import PolicySettings
from memarch.agents._states import map_state
from memarch.agents.memories import MemoryStack
from memarch.agents.policy import MemoryPolicy
from memarch.layers import HCAM, GTrXL

NAME, ENV = "hcam_start", "memarch_envs:memarch/FastBinding-v0"  # importing registers it
ARMS = {
    "recall, swiglu": {"start": "recall", "mlp": "swiglu"},
    "recall, gelu": {"start": "recall", "mlp": "gelu"},
    "random, swiglu": {"start": "random", "mlp": "swiglu"},
    "random, gelu": {"start": "random", "mlp": "gelu"},
    "gtrxl": {},
}
TIME = "training time"
TESTS = (2, 10, 20)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What all arms have in common."""

    updates: int = 600
    num_envs: int = 32
    window_steps: int = 32
    learning_rate: float = 1e-3
    d_model: int = 64
    num_heads: int = 4
    chunk_size: int = 4
    item_dim: int = 8
    test_episodes: int = 512

    def options(self, blocks: int) -> dict[str, Any]:
        """Of an environment that is tested."""
        return {"num_distractors": blocks, "item_dim": self.item_dim}


class Lessons:
    """Windows of episodes played by the oracle: what was seen, where episodes begin, the right choices and where."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        self.sizes = sizes
        options = {**sizes.options(2), "vary_distractors": True}
        self.env = gymnasium.make_vec(ENV, sizes.num_envs, vectorization_mode="vector_entry_point", **options)
        self.seen = self.env.reset(seed=seed)[0]
        self.begins, self.over = np.ones(sizes.num_envs, bool), np.zeros(sizes.num_envs, bool)

    def window(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x `[B, T, F]`, reset, right, choice and question `[B, T]`."""
        parts: list[tuple[np.ndarray[Any, Any], ...]] = []
        task: Any = self.env.unwrapped.task  # type: ignore[attr-defined]
        for _ in range(self.sizes.window_steps):
            seen, right = self.seen, task.expert()
            # The step after an end only begins the next episode: what is seen there is over already.
            choice = (seen[:, -1] > 0.5) & ~self.over
            self.seen, _, terminated, _, _ = self.env.step(right)
            parts.append((seen.copy(), self.begins, right, choice, choice & terminated))
            self.begins, self.over = self.over, terminated
        x, reset, answer, choices, question = (torch.from_numpy(np.stack(part, 1)) for part in zip(*parts, strict=True))
        return x, reset, answer, choices, question


def build(arm: str, sizes: Sizes, env: Any) -> MemoryPolicy:
    """An agent's network with the arm's layer."""
    layer: nn.Module
    if arm == "gtrxl":
        layer = GTrXL(sizes.d_model, sizes.num_heads, window_tokens=3 + 4 * max(TESTS) + 1)
    else:
        layer = HCAM(
            sizes.d_model,
            sizes.num_heads,
            chunk_size=sizes.chunk_size,
            top_k=4,
            num_chunks=32,
            local_window=sizes.chunk_size,
            gradient_window=True,
            **ARMS[arm],  # type: ignore[arg-type]
        )
    memory = MemoryStack([layer], residual=False)
    settings = PolicySettings(d_model=sizes.d_model)
    return MemoryPolicy(env.single_observation_space, env.single_action_space, memory=memory, settings=settings)


def train_run(arm: str, sizes: Sizes, seed: int) -> dict[str, float]:
    """{"half way": ..., "at the end": ..., "10 blocks": ..., ...}: share of right choices."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    lessons = Lessons(sizes, 1_000 * seed)
    policy = build(arm, sizes, lessons.env)
    optimizer = torch.optim.Adam(policy.parameters(), lr=sizes.learning_rate)
    name, state, hits = policy.reader.leaves[0].name, None, []
    for _ in range(sizes.updates):
        x, reset, right, choice, question = lessons.window()
        out, state = policy({name: x}, state, reset=reset)
        state = map_state(Tensor.detach, state)
        loss = nn.functional.cross_entropy(out.outputs[choice], right[choice])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        hits.append((out.outputs.argmax(-1) == right)[question].double().mean().item())
    lately = max(1, sizes.updates // 12)
    half = hits[: sizes.updates // 2][-lately:]
    scores = {"half way": sum(half) / len(half), "at the end": sum(hits[-lately:]) / lately}
    return scores | {f"{blocks} blocks": evaluate(policy, sizes, blocks) for blocks in TESTS}


@torch.no_grad()
def evaluate(policy: MemoryPolicy, sizes: Sizes, blocks: int) -> float:
    """Share of questions answered rightly in episodes that no training saw, all arms the same."""
    num = sizes.test_episodes
    env = gymnasium.make_vec(ENV, num, vectorization_mode="vector_entry_point", **sizes.options(blocks))
    seen, _ = env.reset(seed=10_000_000)
    name, state = policy.reader.leaves[0].name, None
    while True:
        out, state = policy({name: torch.from_numpy(seen)[:, None]}, state)
        seen, _, terminated, _, infos = env.step(out.outputs[:, 0].argmax(-1).numpy())
        if terminated.all():
            return float(infos["success"].mean())


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 (default 3)")
    parser.add_argument("--updates", type=int, default=Sizes.updates, help=f"default {Sizes.updates}")
    parser.add_argument("--reuse", choices=("commit", "any", "none"), default="commit", help="which rows count as done")
    parser.add_argument("--quick", action="store_true", help="2 updates, few tests, one seed, no rows written")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    sizes = Sizes(updates=options.updates)
    if options.quick:
        sizes, options.seeds = replace(sizes, updates=2, num_envs=2, d_model=16, test_episodes=4), 1
    done = finished_runs(path, reuse=options.reuse) if path else {}
    scores: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.seeds):
        settings = settings_text({**asdict(sizes), "seed": seed})
        for arm in options.arms:
            found = done.get((arm, settings), {})
            if TIME not in found:
                start = time.perf_counter()
                found = train_run(arm, sizes, seed)
                found |= {TIME: time.perf_counter() - start}
                rows = [
                    single_run(NAME, arm, m, v, unit="s" if m == TIME else "", settings=settings)
                    for m, v in found.items()
                ]
                if path is not None:
                    append_rows(path, rows)
                shown = "  ".join(f"{metric} {value:.3f}" for metric, value in found.items() if metric != TIME)
                print(f"{arm} seed {seed}: {shown}  ({found[TIME]:.0f} s)", flush=True)
            for metric, value in found.items():
                scores.setdefault(arm, {}).setdefault(metric, []).append(value)
    metrics = [metric for metric in next(iter(scores.values())) if metric != TIME]
    lines = [[arm, *(interval_text(cells[metric]) for metric in metrics)] for arm, cells in scores.items()]
    print(table(["right answers: mean +- 95 % half-width", *metrics], lines))
    print(f"rows: {path or 'not written'}")


if __name__ == "__main__":
    main()
