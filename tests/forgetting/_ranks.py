"""One rank of two: train the tiny model by DistributedDataParallel or FSDP with forgetting, and save the weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from torch.nn.parallel import DistributedDataParallel

from memarch.forgetting import EmbeddingForgetting, ProbabilisticForgetting
from tests.forgetting._models import adamw, batch, loss_of, tiny


def main(kind: str, rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=2)
    model = tiny(tied=kind != "fsdp")
    if kind == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        fully_shard(model, mesh=mesh)
        wrapped = model
    else:
        wrapped = DistributedDataParallel(model, find_unused_parameters=kind == "probabilistic")
    optimizer = adamw(model)
    if kind == "probabilistic":
        forget = ProbabilisticForgetting(model.embed, probability=0.4, std=0.3, every=2, seed=5)
    else:
        forget = EmbeddingForgetting(model.embed, every=3, std=0.1, seed=5, keep_rows=(1, 20))
    for step in range(7):
        optimizer.zero_grad()
        ids = batch(step).chunk(2)[rank]
        if kind == "probabilistic":
            with forget:
                loss = loss_of(wrapped, ids)
            loss.backward()
            optimizer.step()
            forget.step()
        else:
            loss_of(wrapped, ids).backward()
            optimizer.step()
            forget.step(optimizer)
    weights = {name: p.full_tensor() if kind == "fsdp" else p for name, p in model.named_parameters()}
    torch.save({name: value.detach() for name, value in weights.items()}, directory / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
