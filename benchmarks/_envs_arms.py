"""What benchmarks.envs steps: our environments in both forms, and other packages' memory environments."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from gymnasium.vector import SyncVectorEnv, VectorEnv

from memarch_envs import ENVIRONMENTS, task_class

SYMBOLIC_BASELINE, PIXEL_BASELINE = "RepeatPreviousEasy (popgym)", "MemoryS7, pixels (minigrid)"
SYMBOLIC_AIM, BALLET_AIM, PIXEL_AIM = 1e6, 5e5, 5e4


@dataclass(frozen=True)
class Arm:
    """One environment in one form: `native` is a VectorEnv of its own, `sync` gymnasium's loop over the scalar form.

    aim: steps a second that the native form should reach; package: what has to be installed for it.
    """

    env_id: str
    form: str
    baseline: str
    options: Mapping[str, Any] = field(default_factory=dict)
    pixels: bool = False
    package: str = ""
    aim: float | None = None

    @property
    def name(self) -> str:
        short = self.env_id.split("/")[-1].removeprefix("popgym-").removeprefix("MiniGrid-").rsplit("-v", 1)[0]
        return f"{short}{', pixels' if self.pixels and 'Pixels' not in short else ''} ({self.package or self.form})"

    def make(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """The environment, `num_envs` times, resetting at the step after an end.

        Raises: ImportError if its package is missing.
        """
        if self.form == "native":
            return gymnasium.make_vec(
                self.env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **self.options
            )
        with warnings.catch_warnings():
            if self.package:
                warnings.simplefilter("ignore")  # theirs, about themselves
                importlib.import_module(self.package)
            return SyncVectorEnv([self._make_one] * num_envs)

    def version(self) -> str:
        """Of the peer's package."""
        return importlib.metadata.version(self.package)

    def _make_one(self) -> gymnasium.Env[Any, Any]:
        env = gymnasium.make(self.env_id, disable_env_checker=True, **self.options)
        if self.pixels and self.package == "minigrid":
            env = importlib.import_module("minigrid.wrappers").RGBImgPartialObsWrapper(env)
        if self.package == "minigrid":
            # As its users do: the mission is a text that never changes.
            env = importlib.import_module("minigrid.wrappers").ImgObsWrapper(env)
        return env


def our_arms() -> list[Arm]:
    """Every registered environment with its default options, and its pixels where it has them, in both forms."""
    arms = []
    for env_id in ENVIRONMENTS:
        variants: list[tuple[dict[str, Any], bool]] = [({}, "Pixels" in env_id)]
        if pixel_options := pixels_of(env_id):
            variants.append((pixel_options, True))
        for options, pixels in variants:
            aim = PIXEL_AIM if pixels else BALLET_AIM if "Ballet" in env_id else SYMBOLIC_AIM
            baseline = PIXEL_BASELINE if pixels else SYMBOLIC_BASELINE
            arms += [
                Arm(env_id, form, baseline, options, pixels, aim=aim if form == "native" else None)
                for form in ("native", "sync")
            ]
    return arms


def pixels_of(env_id: str) -> dict[str, Any]:
    """The option that makes an environment's observations pictures; {} where there is none."""
    names = inspect.signature(task_class(env_id)).parameters
    return {"pixels": True} if "pixels" in names else {"observation": "pixels"} if "observation" in names else {}


def peer_arms() -> list[Arm]:
    """Minigrid's memory task, as symbols and as pixels, and three tasks of POPGym, with gymnasium's loop over them."""
    popgym = ("RepeatPreviousEasy", "AutoencodeEasy", "ConcentrationEasy")
    arms = [Arm(f"popgym-{name}-v0", "sync", SYMBOLIC_BASELINE, package="popgym") for name in popgym]
    arms += [
        Arm(f"MiniGrid-{name}-v0", "sync", SYMBOLIC_BASELINE, package="minigrid")
        for name in ("MemoryS7", "MemoryS17Random")
    ]
    return [*arms, Arm("MiniGrid-MemoryS7-v0", "sync", PIXEL_BASELINE, pixels=True, package="minigrid")]
