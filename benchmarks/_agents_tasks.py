"""What benchmarks.agents trains: tasks with their steps, sizes and settings, for two cores and for a GPU."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from memarch.agents import PolicySettings, PPOSettings

MEMORIES = ("hcam", "gtrxl", "gru", "lstm", "trace", "yaad")
Measure = Literal["success", "total_reward"]


@dataclass(frozen=True)
class Task:
    """An environment to learn, and those to be tested in.

    Attributes:
        name: of the task in rows and tables.
        env: its id; "package:id" where a package registers it.
        options: of the environment while training.
        tests: name of a test -> options that differ there. All tests use seeds that no training does.
        measure: what is compared: "success", or "total_reward" where the environment does not tell.
        steps: of all environments together.
        num_envs: environments side by side.
        policy, settings: sizes and training, the same for every memory; the seed is set for each run.
        episode_steps: of the longest episode in a test. GTrXL's attention sees as many, so that it can reach all of it;
            the other memories keep the size in `policy`.
        package: to be installed; "" for none.
        aims: test -> what HCAM is meant to reach there.
    """

    name: str
    env: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tests: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    measure: Measure = "success"
    steps: int = 500_000
    num_envs: int = 16
    policy: PolicySettings = field(default_factory=PolicySettings)
    settings: PPOSettings = field(default_factory=PPOSettings)
    episode_steps: int = 32
    package: str = ""
    aims: Mapping[str, float] = field(default_factory=dict)

    def missing(self) -> str:
        """Why the task cannot be run here; "" if it can."""
        if not self.package:
            return ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theirs, about themselves
                importlib.import_module(self.package)
        except ImportError:
            return f"{self.package} is not installed: pip install -c constraints.txt -e '.[bench]'"
        return ""

    def quick(self) -> Task:
        """The same task in two small rollouts: shows that it runs, not that it is learnt."""
        policy = PolicySettings(d_model=16, num_heads=2, chunk_size=4, top_k=2, num_chunks=4, attention_steps=8)
        settings = replace(self.settings, rollout_steps=16, num_epochs=1, num_minibatches=2, mixed_precision=False)
        return replace(self, steps=64, num_envs=2, policy=policy, settings=settings, episode_steps=8)

    def policy_for(self, memory: str) -> PolicySettings:
        """The sizes of the agent with that memory."""
        if memory != "gtrxl":
            return self.policy
        return replace(self.policy, attention_steps=max(self.episode_steps, self.policy.attention_steps))

    def settings_for(self, seed: int) -> PPOSettings:
        """The training under that seed."""
        return replace(self.settings, seed=seed)

    def describe(self, memory: str, seed: int) -> dict[str, object]:
        """All that decides the result of a run besides the commit."""
        return {
            "task": self.name,
            "env": self.env,
            "options": dict(self.options),
            "steps": self.steps,
            "num_envs": self.num_envs,
            "policy": asdict(self.policy_for(memory)),
            "settings": asdict(self.settings_for(seed)),
        }


def _popgym(name: str) -> Task:
    """What an action was worth shows at once in these three, too."""
    return Task(
        name,
        f"popgym:popgym-{name}-v0",
        measure="total_reward",
        steps=300_000,
        settings=PPOSettings(discount=0.8, gae_lambda=0.8),
        episode_steps=104,
        package="popgym",
    )


# In corridors of one length the agent learns to go right for good before it has ever seen the arms. Whether a step was
# right shows at once there, so a short horizon leaves out noise only.
CORRIDOR = PPOSettings(discount=0.8, gae_lambda=0.8)
# A choice ends all that it has to do with, so nothing later counts. Comparing objects never seen before is learnt from
# the blocks, if they are worth as much as the question. If the local attention saw lessons, chunks would not be used.
BINDING = PPOSettings(rollout_steps=64, discount=0.0, learning_rate=1e-3)
ITEMS = PolicySettings(chunk_size=4, attention_steps=4)
# One choice in an episode of 66 steps, so minibatches are of 60 episodes. Half of the episodes name the dances: what to
# look for is learnt first, and then how to find it without names. Most dances have the same mean place: by a learned
# summary HCAM finds them after about half as many episodes as by the mean.
DANCES = PPOSettings(discount=0.9, gae_lambda=0.9, learning_rate=1e-3, entropy_weight=0.02)
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "tmaze",
            "memarch/PassiveTMaze-v0",
            {"length": 250, "vary_length": True},
            {f"{n} cells": {"length": n, "vary_length": False} for n in (50, 100, 250)},
            steps=600_000,
            settings=CORRIDOR,
            episode_steps=251,
            aims={"250 cells": 0.95},
        ),
        Task(
            "fast-binding",
            "memarch/FastBinding-v0",
            {"num_distractors": 2, "vary_distractors": True, "item_dim": 8, "block_reward": 1.0},
            {f"{n} distractors": {"num_distractors": n, "vary_distractors": False} for n in (0, 2, 5, 10, 20)},
            steps=1_200_000,
            num_envs=32,
            policy=ITEMS,
            settings=BINDING,
            episode_steps=3 + 4 * 20 + 1,
            aims={"10 distractors": 0.9},
        ),
        Task(
            "ballet2",
            "memarch/Ballet-v0",
            {"num_dancers": 2, "delay": 16, "named_share": 0.5},
            {"": {"named_share": 0.0}},
            steps=3_000_000,
            policy=PolicySettings(chunk_summary="learned"),
            settings=DANCES,
            num_envs=128,
            episode_steps=96,
            aims={"": 0.95},
        ),
        Task(
            "paired-inference",
            "memarch/PairedInference-v0",
            {"item_dim": 4, "distance": 1},
            {"shown": {}, "inferred": {"distance": 2}},
            steps=800_000,
            num_envs=32,
            policy=replace(ITEMS, attention_steps=16),
            settings=BINDING,
        ),
        _popgym("RepeatPreviousEasy"),
        _popgym("AutoencodeEasy"),
        _popgym("ConcentrationEasy"),
    )
}


def gpu_tasks() -> dict[str, Task]:
    """Sizes that want a GPU: more environments, wider networks, and Ballet in pixels with eight dancers."""
    tasks = {
        name: replace(
            task,
            num_envs=max(128, 2 * task.num_envs),
            steps=8 * task.steps,
            policy=_wider(task.policy),
            settings=replace(task.settings, num_minibatches=8, learning_rate=3e-4, mixed_precision=True),
        )
        for name, task in TASKS.items()
        if not task.package  # one Python loop over scalar environments: a GPU would wait for it
    }
    ballet = Task(
        "ballet8-pixels",
        "memarch/BalletPixels-v0",
        {"num_dancers": 8, "delay": 48, "named_share": 0.5},
        {"": {"named_share": 0.0}},
        steps=200_000_000,
        num_envs=128,
        policy=_wider(PolicySettings(num_layers=3, chunk_summary="learned")),
        settings=PPOSettings(
            rollout_steps=512,
            window_steps=512,
            num_minibatches=32,
            learning_rate=2e-4,
            reconstruction_weight=0.1,
            mixed_precision=True,
            compile=True,
        ),
        episode_steps=512,
    )
    return {**tasks, ballet.name: ballet}


def _wider(policy: PolicySettings) -> PolicySettings:
    """Four times the width and one layer more; chunks and local attention stay the task's."""
    return replace(policy, d_model=256, num_layers=policy.num_layers + 1, num_heads=8, num_chunks=64)


PRESETS = ("cpu", "gpu")


def tasks_of(preset: str) -> dict[str, Task]:
    """The tasks of one of `PRESETS` by name."""
    return TASKS if preset == "cpu" else gpu_tasks()
