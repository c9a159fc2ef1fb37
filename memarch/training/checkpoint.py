"""Training checkpoints: a model directory with the optimiser, the random state and the place in the data beside it.

    run/
      latest                      the name of the newest complete checkpoint
      step-000200/                config.json model.safetensors [tokenizer.json] optimizer.safetensors trainer.json

A checkpoint directory appears under its name only when all of it is on the disk.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memarch.data import Tokenizer
from memarch.data.tokenizer import TOKENIZER_FILE
from memarch.models import MemoryLMForCausalLM
from memarch.models.memory_lm import CONFIG_FILE
from memarch.models.storage import (
    Writer,
    check_tensors,
    json_writer,
    read_json,
    read_tensors,
    sync,
    tensors_writer,
    text_writer,
    write_files,
)

LATEST_FILE, OPTIMIZER_FILE, TRAINER_FILE = "latest", "optimizer.safetensors", "trainer.json"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_model(directory: Path, model: MemoryLMForCausalLM, tokenizer: Tokenizer) -> None:
    """Write the model and its tokenizer: all that generation needs.

    Raises:
        OSError: a full disk or an unwritable directory; files already there are unchanged.
    """
    serialized = tokenizer.to_json()
    if serialized is not None:
        write_files(directory, {TOKENIZER_FILE: text_writer(serialized)})
    model.save_pretrained(directory)


def save_checkpoint(
    run_dir: Path,
    step: int,
    *,
    model: MemoryLMForCausalLM,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
    progress: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write `run_dir`/step-NNNNNN, point `latest` at it, and remove all but the newest `keep` checkpoints.

    Args:
        run_dir: directory of the run.
        step: optimiser steps done.
        model: its parameters.
        optimizer: AdamW over those parameters.
        tokenizer: saved beside the model.
        progress: anything JSON that a resumed training needs.
        keep: checkpoints to keep, at least 1.

    Raises:
        OSError: a full disk or an unwritable directory; the earlier checkpoints and `latest` are intact, and named.
    """

    def fill(directory: Path) -> None:
        save_model(directory, model, tokenizer)
        writers: dict[str, Writer] = {
            OPTIMIZER_FILE: tensors_writer({**optimizer_tensors(model, optimizer), **_random_tensors()}),
            TRAINER_FILE: json_writer({"step": step, **progress}),
        }
        write_files(directory, writers)

    return publish(run_dir, step, fill, keep=keep)


def publish(run_dir: Path, step: int, fill: Callable[[Path], None], *, keep: int = 2) -> Path:
    """Let `fill` write a directory, name it `run_dir`/step-NNNNNN once it is whole, and point `latest` at it.

    Args:
        run_dir: directory of the run.
        step: steps done, the checkpoint's name.
        fill: writes all files of a checkpoint into the directory it is given.
        keep: checkpoints to keep, at least 1.

    Raises:
        OSError: a full disk or an unwritable directory; the earlier checkpoints and `latest` are intact, and named.
    """
    final = run_dir / f"step-{step:06d}"
    staging = run_dir / f".{final.name}.tmp"
    aside = run_dir / f".{final.name}.old"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
        staging.mkdir(parents=True)
        fill(staging)
        if final.exists():
            os.replace(final, aside)
        os.replace(staging, final)
        sync(run_dir)
        write_files(run_dir, {LATEST_FILE: text_writer(final.name + "\n")})
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if aside.exists() and not final.exists():
            os.replace(aside, final)
        raise OSError(error.errno, f"cannot save {final}: {_reason(error)}; {_last_good(run_dir)}") from error
    shutil.rmtree(aside, ignore_errors=True)
    for old in _checkpoints(run_dir)[: -max(keep, 1)]:
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def load_training_state(
    directory: Path, model: MemoryLMForCausalLM, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put optimiser and random state back, and return the progress that was saved.

    The model's parameters are read by `MemoryLMForCausalLM.from_pretrained`.

    Raises:
        OSError: a file is missing or unreadable.
        ValueError: a file is corrupt or belongs to another model.
    """
    progress = read_json(directory / TRAINER_FILE)
    path = directory / OPTIMIZER_FILE
    tensors = read_tensors(path)
    random = {name: tensors.pop(name) for name in list(tensors) if name.startswith("random/")}
    restore_optimizer(path, tensors, model, optimizer)
    if "random/cpu" not in random:
        raise ValueError(f"{path} has no random state (random/cpu): use an earlier checkpoint")
    torch.set_rng_state(random["random/cpu"])
    if "random/cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["random/cuda"])
    return progress


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What Adam or AdamW remembers of each parameter, by moment and the parameter's name."""
    return {
        f"{moment}/{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


def restore_optimizer(
    path: Path, tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put back what `optimizer_tensors` returned, read from `path`; nothing means an optimiser without steps.

    Raises:
        ValueError: the tensors belong to another model.
    """
    named = dict(model.named_parameters())
    expected: dict[str, Tensor] = {}
    if tensors:
        for name, parameter in named.items():
            for moment in _MOMENTS:
                expected[f"{moment}/{name}"] = torch.tensor(0.0) if moment == "step" else parameter
    check_tensors(path, tensors, expected)
    for name, parameter in named.items() if tensors else ():
        moments = {moment: tensors[f"{moment}/{name}"] for moment in _MOMENTS}
        optimizer.state[parameter] = {
            key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()
        }


def latest_checkpoint(run_dir: str | Path) -> Path:
    """The newest complete checkpoint of a run.

    Raises:
        OSError: the directory does not exist or holds no checkpoint.
    """
    run_dir = Path(run_dir)
    pointer = run_dir / LATEST_FILE
    name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
    if re.fullmatch(r"step-\d{6,}", name) and (run_dir / name).is_dir():
        return run_dir / name
    complete = _checkpoints(run_dir)
    if not complete:
        raise FileNotFoundError(
            f"{run_dir} holds no checkpoint: expected the --out directory of a training, "
            f"with {LATEST_FILE} and step-000123 in it"
        )
    return complete[-1]


def resolve_checkpoint(path: str | Path) -> Path:
    """A directory with a model in it: `path` itself, or the latest checkpoint of the run that `path` is.

    Raises:
        OSError: neither.
    """
    path = Path(path)
    return path if (path / CONFIG_FILE).is_file() else latest_checkpoint(path)


def _checkpoints(run_dir: Path) -> list[Path]:
    found = [path for path in run_dir.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _random_tensors() -> dict[str, Tensor]:
    tensors = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _last_good(run_dir: Path) -> str:
    try:
        return f"the last good checkpoint {latest_checkpoint(run_dir)} is intact: make room and resume from it"
    except OSError:
        return "there is no earlier checkpoint: make room or choose another directory"
