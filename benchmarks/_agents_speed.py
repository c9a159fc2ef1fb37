"""Speed in benchmarks.agents: trainings of equal size, ours and sb3-contrib's RecurrentPPO, that take turns."""

from __future__ import annotations

import importlib
import importlib.metadata
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from benchmarks._harness import Row, settings_text, table
from memarch.agents import PPO, PolicySettings, PPOSettings

NAME = "agents"
ENV, NUM_ENVS, EPISODE_STEPS = "CartPole-v1", 16, 500
BASELINE, PACKAGE = "RecurrentPPO", "sb3-contrib"
MEMORIES = ("lstm", "gru", "gtrxl", "hcam")
METRIC = "training steps per second"
AIM = 10.0


@dataclass(frozen=True)
class Sizes:
    """What all arms have in common.

    Attributes:
        d_model: width of the encoder, the memory, and the layers before action and value.
        rollout_steps, num_epochs, num_minibatches: as in `PPOSettings`.
        rollouts: of one measurement, each with its update.
    """

    d_model: int = 64
    rollout_steps: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    rollouts: int = 2

    @property
    def steps(self) -> int:
        """Of one measurement, all environments together."""
        return NUM_ENVS * self.rollout_steps * self.rollouts


@dataclass(frozen=True)
class Arm:
    """A training to time: `run` goes on with it for `Sizes.steps` steps."""

    name: str
    num_parameters: int
    run: Callable[[], object]
    close: Callable[[], None]


def our_arm(memory: str, sizes: Sizes) -> Arm:
    """`PPO` with that memory, on gymnasium's own vector of CartPoles."""
    agent = PPO(
        ENV,
        memory=memory,
        num_envs=NUM_ENVS,
        policy=PolicySettings(d_model=sizes.d_model),
        settings=PPOSettings(
            rollout_steps=sizes.rollout_steps,
            num_epochs=sizes.num_epochs,
            num_minibatches=sizes.num_minibatches,
            schedule="constant",
        ),
        env_options={"max_episode_steps": EPISODE_STEPS},
        device="cpu",
    )
    count = sum(p.numel() for p in agent.policy.parameters())
    return Arm(memory, count, lambda: agent.learn(sizes.steps), agent.close)


def sb3_arm(sizes: Sizes) -> Arm:
    """RecurrentPPO with one LSTM for actor and critic, on its own vector of CartPoles.

    Raises: ImportError if the package is missing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about themselves
        contrib: Any = importlib.import_module("sb3_contrib")
        common: Any = importlib.import_module("stable_baselines3.common.env_util")
        layers: Any = importlib.import_module("stable_baselines3.common.torch_layers")
    envs = common.make_vec_env(ENV, NUM_ENVS, seed=0)
    width = sizes.d_model

    class Encoder(layers.BaseFeaturesExtractor):
        """As wide and as deep as ours."""

        def __init__(self, space: Any) -> None:
            super().__init__(space, width)
            inner, outer = nn.Linear(space.shape[0], width), nn.Linear(width, width)
            self.layers = nn.Sequential(inner, nn.Tanh(), outer, nn.Tanh())

        def forward(self, x: Tensor) -> Any:
            return self.layers(x)

    model = contrib.RecurrentPPO(
        "MlpLstmPolicy",
        envs,
        n_steps=sizes.rollout_steps,
        batch_size=NUM_ENVS * sizes.rollout_steps // sizes.num_minibatches,
        n_epochs=sizes.num_epochs,
        policy_kwargs={
            "features_extractor_class": Encoder,
            "lstm_hidden_size": width,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "net_arch": {"pi": [width], "vf": [width]},
        },
        seed=0,
        device="cpu",
    )
    count = sum(p.numel() for p in model.policy.parameters())
    return Arm(BASELINE, count, lambda: model.learn(sizes.steps, reset_num_timesteps=False), envs.close)


def available(arms: Sequence[str], sizes: Sizes) -> list[Arm]:
    """The arms that can be made here; says what is missing."""
    made = []
    for name in arms:
        try:
            made.append(sb3_arm(sizes) if name == BASELINE else our_arm(name, sizes))
        except ImportError:
            print(f"{PACKAGE} is not installed, so it is left out: pip install -c constraints.txt -e '.[bench]'")
    return made


def rows_of(arms: Sequence[Arm], seconds: Mapping[str, Sequence[float]], sizes: Sizes) -> list[Row]:
    """Steps a second of each arm, and how many times RecurrentPPO's they are, round by round."""
    rows = []
    for arm in arms:
        rates = [sizes.steps / s for s in seconds[arm.name]]
        theirs = seconds.get(BASELINE, ()) if arm.name != BASELINE else ()
        ratios = [b / a for a, b in zip(seconds[arm.name], theirs, strict=False)]
        settings: dict[str, object] = {
            "part": "speed",
            "env": ENV,
            "num_envs": NUM_ENVS,
            "num_parameters": arm.num_parameters,
            **asdict(sizes),
        }
        if arm.name == BASELINE:
            settings["version"] = importlib.metadata.version(PACKAGE)
        rows.append(
            Row(
                benchmark=NAME,
                arm=arm.name,
                baseline=BASELINE if ratios else "",
                metric=METRIC,
                unit="1/s",
                value=statistics.median(rates),
                low=min(rates),
                high=max(rates),
                samples=len(rates),
                ratio=statistics.median(ratios) if ratios else None,
                ratio_low=min(ratios, default=None),
                ratio_high=max(ratios, default=None),
                settings=settings_text(settings),
            )
        )
    return rows


def summary(rows: Sequence[Row], arms: Sequence[Arm]) -> str:
    """Steps a second, times the baseline, and whether that reaches the aim."""
    lines = []
    for row, arm in zip(rows, arms, strict=True):
        times = "" if row.ratio is None else f"{row.ratio:.1f}x [{row.ratio_low:.1f}, {row.ratio_high:.1f}]"
        aim = "" if row.ratio is None else f"{AIM:g}x {'reached' if row.ratio >= AIM else 'missed'}"
        spread = f"{row.value:,.0f} [{row.low:,.0f}, {row.high:,.0f}]"
        lines.append([arm.name, f"{arm.num_parameters:,}", spread, times, aim])
    return table(["", "parameters", "steps/s, median [range]", f"times {BASELINE}", "aim"], lines)
