"""Vector environments from what a user has: an id, a factory, an environment, or a `VectorEnv`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import Error
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from .observations import leaves

Env = str | Callable[[], gymnasium.Env] | gymnasium.Env | VectorEnv

# Packages whose import registers ids that begin so: gymnasium 1.x loads no plugins by itself.
PACKAGES = {
    "memarch/": "memarch_envs",
    "MiniGrid-": "minigrid",
    "BabyAI-": "minigrid",
    "popgym-": "popgym",
    "ALE/": "ale_py",
}
DEATH_SECONDS = 1.0
DEFAULT_NUM_ENVS = 16


class EnvironmentFailedError(RuntimeError):
    """An environment raised, died, or gave a reward or an observation that is not finite."""


@dataclass(frozen=True)
class EnvironmentSource:
    """Where environments come from, to make more of them.

    Attributes:
        env: what the user gave.
        options: keyword arguments for an id.
        asynchronous: each in a process of its own (gymnasium's AsyncVectorEnv).

    Raises:
        ValueError: options or processes for something that is no id or factory.
    """

    env: Env
    options: Mapping[str, Any]
    asynchronous: bool = False

    def __post_init__(self) -> None:
        if self.options and not isinstance(self.env, str):
            raise ValueError(
                f"env_options go with an environment's id; got {dict(self.options)} with {self.name}: give them to it "
                "yourself, for example env=lambda: MyEnv(size=5)"
            )
        if self.asynchronous and isinstance(self.env, VectorEnv | gymnasium.Env):
            raise ValueError(f"asynchronous=True needs an id or a factory, to make processes from; got {self.name}")

    @property
    def name(self) -> str:
        """The id, or the name of what was given."""
        if isinstance(self.env, str):
            return self.env
        return getattr(self.env, "__qualname__", type(self.env).__qualname__)

    @property
    def can_repeat(self) -> bool:
        """Whether further environments can be made."""
        return isinstance(self.env, str) or (callable(self.env) and not isinstance(self.env, gymnasium.Env))

    def make(self, num_envs: int, *, first: int = 0, stay: bool = False) -> VectorEnv:
        """A vector of `num_envs`, the native one where an id has it.

        Args:
            num_envs: how many.
            first: number of the first, for errors.
            stay: at an episode's end until the next step (NEXT_STEP), to look at it; else begin the next at once
                (SAME_STEP) where that can be chosen, which is faster.

        Raises:
            ValueError: an unknown id, options it does not take, or something that is no environment.
        """
        if isinstance(self.env, VectorEnv):
            if self.env.num_envs != num_envs:
                raise ValueError(f"num_envs={num_envs}, but the VectorEnv has {self.env.num_envs}: leave num_envs out")
            return self.env
        if isinstance(self.env, gymnasium.Env):
            if num_envs != 1:
                raise ValueError(f"one environment cannot be {num_envs}: give a factory, such as lambda: MyEnv()")
            env = self.env
            return SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)
        if isinstance(self.env, str):
            return self._from_id(num_envs, first, stay)
        if not callable(self.env):
            raise ValueError(
                f"env must be an id, a factory of gymnasium.Env, a gymnasium.Env or a VectorEnv; got {self.env!r}"
            )
        factory = self.env
        one = factory()
        if not isinstance(one, gymnasium.Env):
            raise ValueError(f"env {self.name} must return a gymnasium.Env; got {type(one).__name__}")
        space = one.observation_space
        one.close()
        return self._vector([_named(factory, first + i) for i in range(num_envs)], space, stay)

    def _from_id(self, num_envs: int, first: int, stay: bool) -> VectorEnv:
        env_id = str(self.env)
        try:
            env_id = import_id(env_id)
            spec = gymnasium.spec(env_id)
            if spec.vector_entry_point is not None and not self.asynchronous:
                ours = {"autoreset_mode": _mode(stay)} if spec.namespace == "memarch" else {}
                options: dict[str, Any] = {**ours, **self.options}
                return gymnasium.make_vec(env_id, num_envs, **options)

            def factory() -> gymnasium.Env:
                return gymnasium.make(env_id, disable_env_checker=True, **self.options)

            one = factory()
        except (Error, ModuleNotFoundError, TypeError, ValueError, ImportError) as error:
            raise ValueError(self._unknown(env_id, error)) from error
        space = one.observation_space
        one.close()
        return self._vector([_named(factory, first + i) for i in range(num_envs)], space, stay)

    def _vector(
        self, factories: list[Callable[[], gymnasium.Env]], space: gymnasium.Space[Any], stay: bool
    ) -> VectorEnv:
        if not self.asynchronous:
            return SyncVectorEnv(factories, autoreset_mode=_mode(stay))
        shared = all(leaf.kind != "text" for leaf in leaves(space))
        return AsyncVectorEnv(factories, shared_memory=shared, autoreset_mode=_mode(stay))

    def _unknown(self, env_id: str, error: Exception) -> str:
        reason = str(error).rstrip(".")
        if isinstance(error, ModuleNotFoundError):
            package = error.name or env_id.partition(":")[0]
            return f"environment {self.env!r} needs the package {package}: pip install {package}"
        if isinstance(error, Error):
            return (
                f"unknown environment {self.env!r} ({reason}): if a package registers it, write PACKAGE:ID; the ids of "
                "memarch are memarch_envs.ENVIRONMENTS"
            )
        return f"environment {self.env!r} does not take {dict(self.options)}: {reason}"


def _mode(stay: bool) -> AutoresetMode:
    return AutoresetMode.NEXT_STEP if stay else AutoresetMode.SAME_STEP


def import_id(env_id: str) -> str:
    """The id that gymnasium knows after importing the package which registers it: that of "package:id", or one of ours.

    Raises:
        ModuleNotFoundError: no such package.
    """
    package, _, rest = env_id.rpartition(":")
    if not package and env_id not in gymnasium.registry:
        package = next((package for start, package in PACKAGES.items() if env_id.startswith(start)), "")
    if package:
        importlib.import_module(package)
    return rest


def autoreset_mode(env: VectorEnv) -> AutoresetMode:
    """How `env` begins new episodes; NEXT_STEP, gymnasium's default, if it does not say."""
    return AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def check_finite(name: str, values: np.ndarray[Any, Any], *, steps_before: int) -> None:
    """Raise EnvironmentFailedError, naming environment and step, unless values `[T, N, ...]` are finite."""
    if np.isfinite(values).all():
        return
    step, index = np.argwhere(~np.isfinite(values))[0][:2]
    bad = values[step, index]
    shown = bad.ravel()[~np.isfinite(bad.ravel())][0] if bad.ndim else bad
    raise EnvironmentFailedError(
        f"environment {index} gave the {name} {shown} at its step {steps_before + step}: {name}s must be finite "
        "numbers; look at what it computes there (clip or replace such values in a wrapper)"
    )


def why_it_failed(env: VectorEnv, error: Exception) -> str:
    """One line: which worker died, or what was raised. Ends all worker processes."""
    reason = str(error) if str(error).startswith("environment ") else f"{type(error).__name__}: {error}"
    workers = env.unwrapped
    if isinstance(workers, AsyncVectorEnv):
        if isinstance(error, EOFError | ConnectionError):
            # The pipe breaks a moment before the process is gone.
            for process in workers.processes:
                process.join(DEATH_SECONDS / workers.num_envs)
            dead = [(i, p.exitcode) for i, p in enumerate(workers.processes) if not p.is_alive()]
            if dead:
                reason = f"environment {dead[0][0]}: its process died with exit code {dead[0][1]}"
        for process in workers.processes:
            process.terminate()
            process.join()
        # Closing would talk to processes that are gone.
        workers.closed = True
    return reason


def count_envs(env: Env, num_envs: int | None) -> int:
    """How many environments: as asked for, as many as a VectorEnv has, one of one, else 16."""
    if isinstance(env, VectorEnv):
        return env.num_envs if num_envs is None else num_envs
    if num_envs is None:
        return 1 if isinstance(env, gymnasium.Env) else DEFAULT_NUM_ENVS
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise ValueError(f"num_envs must be an integer of at least 1; got {num_envs!r}")
    return num_envs


class _Named(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Says which environment raised. A RuntimeError, for it has to come back from a worker process as it is."""

    def __init__(self, env: gymnasium.Env, index: int) -> None:
        super().__init__(env)
        self.index, self.steps = index, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        try:
            return self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise RuntimeError(self._where("reset", error)) from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's."""
        self.steps += 1
        try:
            return self.env.step(action)
        except Exception as error:
            raise RuntimeError(self._where("step", error)) from error

    def _where(self, call: str, error: Exception) -> str:
        return f"environment {self.index} raised in {call}() at its step {self.steps}: {type(error).__name__}: {error}"


def _named(factory: Callable[[], gymnasium.Env], index: int) -> Callable[[], gymnasium.Env]:
    return lambda: _Named(factory(), index)
