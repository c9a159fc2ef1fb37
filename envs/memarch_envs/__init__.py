"""Environments that need memory: gymnasium and numpy only, one file per environment.

    import gymnasium
    import memarch_envs

    env = gymnasium.make("memarch/TMaze-v0", length=100)
    envs = gymnasium.make_vec("memarch/TMaze-v0", num_envs=64, length=100, autoreset_mode="SameStep")

`import memarch_envs` registers the ids; `gymnasium.make("memarch_envs:memarch/TMaze-v0")` imports and makes in one.
(Gymnasium 1.x loads no plugins by itself, so one of the two is needed.)
`ENVIRONMENTS` names every id with the class of its rules, `levels(id)` its difficulties with the returns to expect.
"""

from __future__ import annotations

from importlib import import_module

from gymnasium.envs.registration import register, registry

from .base import Level, MemoryTask

ENVIRONMENTS: dict[str, str] = {
    "memarch/PassiveTMaze-v0": "memarch_envs.tmaze:PassiveTMaze",
    "memarch/TMaze-v0": "memarch_envs.tmaze:TMaze",
    "memarch/MemoryLength-v0": "memarch_envs.memory_length:MemoryLength",
    "memarch/ObjectPermanence-v0": "memarch_envs.object_permanence:ObjectPermanence",
    "memarch/FastBinding-v0": "memarch_envs.fast_binding:FastBinding",
    "memarch/Ballet-v0": "memarch_envs.ballet:Ballet",
    "memarch/BalletPixels-v0": "memarch_envs.ballet_pixels:BalletPixels",
    "memarch/VisualMatch-v0": "memarch_envs.visual_match:VisualMatch",
    "memarch/KeyToDoor-v0": "memarch_envs.key_to_door:KeyToDoor",
    "memarch/PairedInference-v0": "memarch_envs.paired_inference:PairedInference",
    "memarch/ProofOfMemory-v0": "memarch_envs.proof_of_memory:ProofOfMemory",
}

__all__ = ["ENVIRONMENTS", "Level", "levels", "register_environments", "task_class"]


def register_environments() -> None:
    """Tell gymnasium every id that it does not know yet. Done by importing this package; safe to repeat."""
    for env_id, rules in ENVIRONMENTS.items():
        if env_id not in registry:
            register(env_id, entry_point=f"{rules}Env", vector_entry_point=f"{rules}VectorEnv")


def task_class(env_id: str) -> type[MemoryTask]:
    """The rules behind an id. Raises ValueError, naming the ids there are, for another one."""
    if env_id not in ENVIRONMENTS:
        raise ValueError(f"unknown environment {env_id!r}; there are: {', '.join(sorted(ENVIRONMENTS))}")
    module, name = ENVIRONMENTS[env_id].split(":")
    rules: type[MemoryTask] = getattr(import_module(module), name)
    return rules


def levels(env_id: str) -> tuple[Level, ...]:
    """The difficulty sweep of an environment, easiest first: `gymnasium.make(env_id, **level.options)`."""
    return task_class(env_id).levels


register_environments()
