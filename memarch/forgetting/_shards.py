"""Rows of a matrix that is spread over ranks by FSDP (DTensor); a plain tensor is its own only shard."""

from __future__ import annotations

import torch
from torch import Tensor


def local_rows(matrix: Tensor) -> tuple[Tensor, int]:
    """This rank's rows, sharing storage with `matrix`, and the first one's place in the whole.

    Raises: ValueError if the matrix is sharded otherwise than by rows over one dimension of ranks.
    """
    if not _is_distributed(matrix):
        return matrix.detach(), 0
    from torch.distributed.tensor import DTensor, Replicate, Shard

    assert isinstance(matrix, DTensor)
    placements = [placement for placement in matrix.placements if not isinstance(placement, Replicate)]
    if not placements:
        return matrix.to_local().detach(), 0
    if len(matrix.placements) > 1 or placements != [Shard(0)]:
        raise ValueError(f"an embedding sharded by rows can be reset; got placements {matrix.placements}")
    rank, num_ranks = matrix.device_mesh.get_local_rank(), matrix.device_mesh.size()
    # As torch.chunk: all shards of one size, the last ones shorter.
    size = -(-matrix.shape[0] // num_ranks)
    return matrix.to_local().detach(), min(rank * size, matrix.shape[0])


def full_matrix(matrix: Tensor) -> Tensor:
    """The whole matrix on every rank."""
    if not _is_distributed(matrix):
        return matrix
    whole: Tensor = matrix.full_tensor()  # type: ignore[attr-defined]
    return whole


def _is_distributed(matrix: Tensor) -> bool:
    # Only a process that shards has imported this.
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(matrix, DTensor)
