"""The one place that decides between the torch path and the Triton kernel of an operator, and says why."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache, wraps
from types import ModuleType
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("memarch")

BACKENDS = ("auto", "torch", "triton")


def choose_backend(
    op: str, requested: str | None, like: Tensor, unsupported: Callable[[ModuleType], str] | None = None
) -> str:
    """ "torch" or "triton" for operator `op` on tensors like `like`.

    Args:
        op: stem of the operator's file, the same in memarch/ops and memarch_kernels.
        requested: "auto", "torch", "triton", or None for the environment variable MEMARCH_BACKEND (default "auto").
        like: a tensor on the device of the call.
        unsupported: given the module of kernels, why it cannot serve this call; empty if it can.

    Raises:
        ValueError: an unknown backend, or "triton" where there is no kernel for the call.
    """
    source = "backend" if requested is not None else "MEMARCH_BACKEND"
    backend = requested if requested is not None else os.environ.get("MEMARCH_BACKEND", "auto")
    if backend not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, BACKENDS))}; got {backend!r}")
    if backend == "torch":
        return "torch"
    if backend == "auto" and like.device.type != "cuda":
        return "torch"
    reason = _no_kernel(op)
    if not reason and unsupported is not None:
        reason = unsupported(kernels(op))
    if backend == "triton":
        if reason:
            raise ValueError(f"{source}='triton' for {op}: {reason}; use 'auto' or 'torch'")
        return "triton"
    if reason:
        _log_once(op, reason)
        return "torch"
    return "triton"


def outside_graphs(operator: Callable[P, R]) -> Callable[P, R]:
    """`operator` as torch.compile is to see it: one call that it leaves as it is, its checks and kernels included.

    torch.compiler.disable as a decorator would import torch's compiler, and Triton, with the operator.
    """

    @wraps(operator)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            disabled: Callable[P, R] = torch.compiler.disable(operator)
            return disabled(*args, **options)
        return operator(*args, **options)

    return call


def kernels(op: str) -> ModuleType:
    """The module of Triton kernels for `op`, imported on first use."""
    return importlib.import_module(f"memarch_kernels.{op}")


@cache
def _no_kernel(op: str) -> str:
    """Why there is no Triton kernel for `op`; empty if there is one."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (Linux on x86-64: pip install triton)"
    try:
        found = importlib.util.find_spec(f"memarch_kernels.{op}") is not None
    except ModuleNotFoundError:
        found = False
    return "" if found else f"this version of memarch ships no Triton kernel for {op}"


@cache
def _log_once(op: str, reason: str) -> None:
    logger.info("%s runs on the torch path: %s", op, reason)
