"""A module beside a model's own files: one JSON of what it is and its sizes, one safetensors of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from memarch.models.storage import check_tensors, json_writer, read_json, read_tensors, tensors_writer, write_files

Made = TypeVar("Made", bound=nn.Module)


def save_module(module: nn.Module, settings: Mapping[str, Any], config: Path, weights: Path) -> None:
    """Write `settings` and the parameters of `module` into two files of one directory.

    Raises:
        OSError: a full disk or an unwritable directory; files already there are unchanged.
    """
    tensors = {name: p.detach().cpu() for name, p in module.named_parameters()}
    write_files(config.parent, {config.name: json_writer(settings), weights.name: tensors_writer(tensors)})


def load_module(
    make: Callable[[dict[str, Any]], Made], names: set[str], config: Path, weights: Path, *, kind: str
) -> Made:
    """What `make` makes of the saved settings (`names`, without "kind"), with the saved weights in their dtype.

    Raises:
        OSError: a file is missing.
        ValueError: a file is corrupt, or describes another kind.
    """
    settings, names = read_json(config), names | {"kind"}
    if settings.keys() != names or settings["kind"] != kind:
        raise ValueError(
            f"{config} should describe a {kind} by {', '.join(sorted(names))}; got {', '.join(sorted(settings))}"
        )
    settings.pop("kind")
    with torch.device("meta"):
        module = make(settings)
    tensors = read_tensors(weights)
    dtype = next(iter(tensors.values())).dtype if tensors else torch.float32
    check_tensors(weights, tensors, {name: p.to(dtype) for name, p in module.named_parameters()})
    module.load_state_dict(tensors, assign=True)
    return module
