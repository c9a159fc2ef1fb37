"""The processes of one training: sums over all of them, or nothing to do where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class World:
    """Rank and number of processes, from torch.distributed where it was initialised."""

    def __init__(self) -> None:
        self.size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.rank = dist.get_rank() if self.size > 1 else 0

    def share(self, num_envs: int) -> tuple[int, int]:
        """First environment of this process, and how many. Raises ValueError if they cannot be shared evenly."""
        if num_envs % self.size:
            raise ValueError(f"num_envs must be a multiple of the {self.size} processes; got {num_envs}")
        each = num_envs // self.size
        return self.rank * each, each

    def sum(self, x: Tensor) -> Tensor:
        """The sum of x over all processes."""
        if self.size > 1:
            x = x.clone()
            dist.all_reduce(x)
        return x

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their sums over all processes, in one message."""
        if self.size == 1:
            return
        parameters = list(parameters)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()


def join_torchrun() -> bool:
    """Join the processes that torchrun started: NCCL where each has a GPU, else gloo. False without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        return dist.is_initialized()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return True


def is_first_process() -> bool:
    """Whether this is the process that writes and prints for all of a training."""
    return World().rank == 0
