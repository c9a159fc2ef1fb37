"""Agents on the disk: safetensors and JSON, whole or not at all.

agent/      config.json model.safetensors                                        what `PPO.load` needs
run/        latest, run.json and step-000123/ with the same and
            optimizer.safetensors trainer.json                                   what `PPO.resume` needs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch
from torch import Tensor

import memarch
from memarch.models.storage import check_tensors, json_writer, read_json, read_tensors, tensors_writer, write_files
from memarch.training.checkpoint import latest_checkpoint, optimizer_tensors, publish, restore_optimizer

from .observations import space_from_json, space_to_json
from .policy import MemoryPolicy
from .settings import PolicySettings

CONFIG_FILE, MODEL_FILE, RUN_FILE = "config.json", "model.safetensors", "run.json"
OPTIMIZER_FILE, TRAINER_FILE = "optimizer.safetensors", "trainer.json"
KIND = "memarch-agent"


@dataclass(frozen=True)
class AgentConfig:
    """What an agent is, apart from its weights.

    Attributes:
        memory: a name, or the class of a module that has to be given again.
        own_memory: whether `memory` is such a class.
        policy: sizes.
        reconstruct: whether it has the reconstruction's layers.
        observation_space, action_space: of one environment.
        environment: its id; None where it was no id.
        env_options: for the id.
        num_envs: it was trained in.
    """

    memory: str
    own_memory: bool
    policy: PolicySettings
    reconstruct: bool
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    environment: str | None
    env_options: Mapping[str, Any]
    num_envs: int

    def to_json(self) -> dict[str, Any]:
        """JSON that `read_config` reads."""
        return {
            "kind": KIND,
            **vars(self),
            "policy": asdict(self.policy),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "env_options": dict(self.env_options),
        }


def read_config(directory: Path) -> AgentConfig:
    """The configuration in a directory.

    Raises:
        OSError: no such file.
        ValueError: it is corrupt, or no agent's.
    """
    path = directory / CONFIG_FILE
    value = read_json(path)
    names = set(AgentConfig.__dataclass_fields__)
    if value.pop("kind", None) != KIND or set(value) != names:
        raise ValueError(
            f"{path} does not describe an agent: expected the directory of `memarch train agent` or save()"
        )
    # Agents saved before it could be chosen have the mean.
    policy = {"chunk_summary": "mean", **value["policy"]}
    return AgentConfig(
        **{
            **value,
            "policy": PolicySettings.from_json(policy, source=str(path)),
            "observation_space": space_from_json(value["observation_space"]),
            "action_space": space_from_json(value["action_space"]),
        }
    )


def resolve(path: str | Path) -> Path:
    """A directory with an agent in it: `path` itself, or the latest checkpoint of the run that `path` is.

    Raises:
        OSError: neither.
    """
    path = Path(path)
    return path if (path / CONFIG_FILE).is_file() else latest_checkpoint(path)


def save_agent(directory: Path, config: AgentConfig, policy: MemoryPolicy) -> None:
    """Write what `PPO.load` needs.

    Raises:
        OSError: a full disk or an unwritable directory; files already there are unchanged.
    """
    writers = {
        MODEL_FILE: tensors_writer(policy.state_dict()),
        CONFIG_FILE: json_writer(config.to_json()),
    }
    write_files(directory, writers)


def load_weights(directory: Path, policy: MemoryPolicy) -> None:
    """Read the parameters.

    Raises:
        OSError: no such file.
        ValueError: it is corrupt or belongs to another network; `policy` is unchanged.
    """
    path = directory / MODEL_FILE
    found = read_tensors(path)
    check_tensors(path, found, policy.state_dict())
    policy.load_state_dict(found)


def save_checkpoint(
    run_dir: Path,
    step: int,
    *,
    config: AgentConfig,
    policy: MemoryPolicy,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    progress: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write `run_dir`/step-NNNNNN and point `latest` at it; `tensors` and `progress` are the trainer's own.

    Raises:
        OSError: a full disk or an unwritable directory; the earlier checkpoints are intact, and named.
    """

    def fill(directory: Path) -> None:
        save_agent(directory, config, policy)
        writers = {
            OPTIMIZER_FILE: tensors_writer({**optimizer_tensors(policy, optimizer), **tensors}),
            TRAINER_FILE: json_writer({"step": step, **progress}),
        }
        write_files(directory, writers)

    return publish(run_dir, step, fill, keep=keep)


def read_progress(directory: Path) -> dict[str, Any]:
    """The progress of a checkpoint.

    Raises:
        OSError: no such file.
        ValueError: it is corrupt, or says too little.
    """
    path = directory / TRAINER_FILE
    progress = read_json(path)
    wanted = {"step", "goal", "settings", "num_episodes", "train_seconds", "recent", "collectors"}
    missing = wanted - progress.keys()
    if missing:
        raise ValueError(f"{path}: key {min(missing)!r} is missing; use an earlier checkpoint")
    return progress


def load_checkpoint(directory: Path, policy: MemoryPolicy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Put weights and optimiser back; the trainer's own tensors, as `save_checkpoint` took them.

    Raises:
        OSError: a file is missing.
        ValueError: a file is corrupt or belongs to another network.
    """
    path = directory / OPTIMIZER_FILE
    tensors = read_tensors(path)
    own = {name: tensors.pop(name) for name in list(tensors) if name.startswith("trainer/")}
    load_weights(directory, policy)
    restore_optimizer(path, tensors, policy, optimizer)
    return own


def write_run_file(run_dir: Path, config: AgentConfig, settings: Mapping[str, Any]) -> None:
    """Say in `run_dir`/run.json what was trained, how, and with which versions."""
    versions = {"memarch": memarch.__version__, "torch": torch.__version__, "gymnasium": gymnasium.__version__}
    value = {"agent": config.to_json(), "settings": dict(settings), "versions": versions}
    write_files(run_dir, {RUN_FILE: json_writer(value)})
