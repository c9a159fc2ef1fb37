"""The one place that decides between the torch path and the Triton kernel of an operator, and says why."""

from __future__ import annotations

import importlib.util
import logging
import os
from functools import cache

from torch import Tensor

logger = logging.getLogger("memarch")

BACKENDS = ("auto", "torch", "triton")


def choose_backend(op: str, requested: str | None, like: Tensor) -> str:
    """ "torch" or "triton" for operator `op` on tensors like `like`.

    Args:
        op: stem of the operator's file, the same in memarch/ops and memarch_kernels.
        requested: "auto", "torch", "triton", or None for the environment variable MEMARCH_BACKEND (default "auto").
        like: a tensor on the device of the call.

    Raises:
        ValueError: an unknown backend, or "triton" where there is no kernel.
    """
    source = "backend" if requested is not None else "MEMARCH_BACKEND"
    backend = requested if requested is not None else os.environ.get("MEMARCH_BACKEND", "auto")
    if backend not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, BACKENDS))}; got {backend!r}")
    if backend == "torch":
        return "torch"
    reason = _no_kernel(op)
    if backend == "triton":
        if reason:
            raise ValueError(f"{source}='triton' for {op}: {reason}; use 'auto' or 'torch'")
        return "triton"
    if like.device.type != "cuda":
        return "torch"
    if reason:
        _log_once(op, reason)
        return "torch"
    return "triton"


@cache
def _no_kernel(op: str) -> str:
    """Why there is no Triton kernel for `op`; empty if there is one."""
    try:
        found = importlib.util.find_spec(f"memarch_kernels.{op}") is not None
    except ModuleNotFoundError:
        found = False
    return "" if found else f"this version of memarch ships no Triton kernel for {op}"


@cache
def _log_once(op: str, reason: str) -> None:
    logger.info("%s runs on the torch path: %s", op, reason)
