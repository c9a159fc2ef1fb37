"""Files that survive a crash: written beside their final name, synced to disk, then renamed over it."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

Writer = Callable[[Path], None]


def write_files(directory: Path, writers: Mapping[str, Writer]) -> None:
    """Write every file of `writers` (name -> function that writes a path) into `directory`, or none of them.

    All are written and synced under temporary names first, so that a full disk leaves the earlier files as they were.

    Raises:
        OSError: a file cannot be written; the message names it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    staged: list[tuple[Path, Path]] = []
    try:
        for name, write in writers.items():
            handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=directory)
            os.close(handle)
            staged.append((Path(temporary), directory / name))
            try:
                write(Path(temporary))
                sync(Path(temporary))
                os.chmod(temporary, 0o666 & ~_umask())
            except OSError as error:
                raise _named(error, directory / name) from error
        for temporary_path, final in staged:
            os.replace(temporary_path, final)
    finally:
        for temporary_path, _ in staged:
            temporary_path.unlink(missing_ok=True)
    sync(directory)


def text_writer(text: str) -> Writer:
    """A writer of `text` as UTF-8."""

    def write(path: Path) -> None:
        path.write_bytes(text.encode("utf-8"))

    return write


def json_writer(value: Mapping[str, Any]) -> Writer:
    """A writer of `value` as indented JSON."""
    return text_writer(json.dumps(value, indent=2) + "\n")


def tensors_writer(tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> Writer:
    """A writer of `tensors` as safetensors; a full disk is an OSError, as everywhere else."""

    def write(path: Path) -> None:
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        try:
            safetensors.torch.save_file(contiguous, path, metadata=dict(metadata or {}))
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            number = int(found.group(1)) if found else 5
            raise OSError(number, os.strerror(number) if found else str(error)) from error

    return write


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        OSError: no such file, or unreadable.
        ValueError: truncated or corrupt.
    """
    _check_exists(path)
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} should be a safetensors file, but it is truncated or corrupt ({error}): "
            "use an earlier checkpoint or copy the file again"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError: no such file, or unreadable.
        ValueError: not a JSON object.
    """
    _check_exists(path)
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} should be JSON, but it is truncated or corrupt ({error}): use an earlier checkpoint"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object; got {type(value).__name__}")
    return value


def check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError naming the differences unless names, shapes and dtypes of `found` are those of `expected`."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        have, want = found[name], expected[name]
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            problems.append(f"{name} is {have.dtype} {list(have.shape)}, expected {want.dtype} {list(want.shape)}")
    if problems:
        rest = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{path} does not fit the configuration beside it: {'; '.join(sorted(problems)[:3])}{rest}: "
            "the files come from different models, use a checkpoint whose files belong together"
        )


def sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: expected a checkpoint directory with config.json and model.safetensors"
        )


def _named(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, f"cannot write {path}: {error.strerror or error}; the earlier file is unchanged")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
