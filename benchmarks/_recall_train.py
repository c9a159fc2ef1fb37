"""One run of `benchmarks.recall`: a small model of one arm trained on one task from one seed, then scored."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memarch.data.recall import IGNORE, mqar, noisy_mqar, noisy_vector_recall
from memarch.layers.block import MemoryBlock
from memarch.layers.miras import Memora, Yaad
from memarch.layers.registry import build_mixer

ARMS = ("moneta", "yaad", "yaad-mixture", "memora-exact", "memora", "l2-memory", "gated-deltanet", "attention")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task and what it is scored at. `num_pairs` are trained in turn and scored one by one."""

    name: str
    num_pairs: tuple[int, ...]
    tokens_per_pair: int = 4
    vocab_size: int = 40
    num_writes: int = 1
    outlier_fraction: float = 0.0
    outlier_scale: float = 1.0
    vector_dim: int = 0

    @property
    def metric(self) -> str:
        """Accuracy of tokens, cosine similarity of vectors."""
        return "cosine" if self.vector_dim else "accuracy"


TASKS = {
    task.name: task
    for task in (
        Task(name="mqar", num_pairs=(4, 8, 16)),
        Task(name="noisy-mqar", num_pairs=(4, 8), tokens_per_pair=8, num_writes=3, outlier_fraction=0.3),
        Task(
            name="noisy-vectors",
            num_pairs=(4, 8, 12),
            num_writes=3,
            outlier_fraction=0.2,
            outlier_scale=10.0,
            vector_dim=16,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every arm gets alike."""

    steps: int = 700
    batch_size: int = 32
    lr: float = 6e-3
    d_model: int = 64
    num_heads: int = 2
    num_layers: int = 2
    chunk_size: int = 8
    num_params: int = 160_000
    eval_rows: int = 256


class TokenModel(nn.Module):
    """Embedding, pre-norm blocks, norm, output head; answers only where a label is due."""

    def __init__(self, arm: str, task: Task, budget: Budget, mlp_dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(task.vocab_size, budget.d_model)
        self.blocks = nn.ModuleList(
            MemoryBlock(_mixer(arm, budget), budget.d_model, mlp_dim=mlp_dim) for _ in range(budget.num_layers)
        )
        self.norm = nn.RMSNorm(budget.d_model, eps=1e-6)
        self.head = nn.Linear(budget.d_model, task.vocab_size, bias=False)

    def forward(self, tokens: Tensor, due: Tensor) -> Tensor:
        """tokens, due `[B, T]` -> logits `[number due, vocabulary]`."""
        x = self.embed(tokens)
        for block in self.blocks:
            x, _ = block(x)
        logits: Tensor = self.head(self.norm(x[due]))
        return logits


class VectorModel(nn.Module):
    """A linear map into one bare layer and out again: no norm, so that an outlier reaches the memory at full length."""

    def __init__(self, arm: str, task: Task, budget: Budget) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * task.vector_dim + 1, budget.d_model, bias=False)
        self.mixer = _mixer(arm, budget)
        self.head = nn.Linear(budget.d_model, task.vector_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, T, 2 * vector_dim + 1]` -> `[B, T, vector_dim]`."""
        y: Tensor = self.head(self.mixer(self.embed(x))[0])
        return y


def _mixer(arm: str, budget: Budget) -> nn.Module:
    if arm == "memora-exact":
        return Memora(budget.d_model, budget.num_heads, read="exact", chunk_size=budget.chunk_size)
    if arm == "yaad-mixture":
        return Yaad(budget.d_model, budget.num_heads, huber="mixture", chunk_size=budget.chunk_size)
    return build_mixer(arm, budget.d_model, budget.num_heads, chunk_size=budget.chunk_size)


def count_params(model: nn.Module) -> int:
    """Trainable numbers of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def build_model(arm: str, task: Task, budget: Budget) -> nn.Module:
    """A token model of `budget.num_params` parameters within 2 %, by the width of its MLPs; a bare layer for vectors.

    Raises: ValueError if the arm needs more than that without MLPs.
    """
    if task.vector_dim:
        return VectorModel(arm, task, budget)
    with torch.random.fork_rng(devices=[]):
        least = count_params(TokenModel(arm, task, budget, 1))
    per_width = 3 * budget.d_model * budget.num_layers
    mlp_dim = 1 + round((budget.num_params - least) / per_width)
    if mlp_dim < 1:
        raise ValueError(
            f"{arm} has {least} parameters with the narrowest MLPs, more than --params {budget.num_params}: raise it"
        )
    return TokenModel(arm, task, budget, mlp_dim)


def token_batch(task: Task, rows: int, num_pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """tokens and labels `[rows, T]` of a token task."""
    if task.num_writes == 1:
        return mqar(
            rows,
            seq_len=task.tokens_per_pair * num_pairs,
            num_pairs=num_pairs,
            vocab_size=task.vocab_size,
            generator=generator,
        )
    return noisy_mqar(
        rows,
        seq_len=task.tokens_per_pair * num_pairs,
        num_pairs=num_pairs,
        vocab_size=task.vocab_size,
        num_writes=task.num_writes,
        outlier_fraction=task.outlier_fraction,
        num_outlier_tokens=0,
        generator=generator,
    )


def vector_batch(task: Task, rows: int, num_pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequence `[rows, N*W + N, 2 * vector_dim + 1]` of (key, value, 0) writes, then (key, 0, 1) queries; targets."""
    drawn = noisy_vector_recall(
        rows,
        num_pairs=num_pairs,
        key_dim=task.vector_dim,
        value_dim=task.vector_dim,
        num_writes=task.num_writes,
        outlier_fraction=task.outlier_fraction,
        outlier_scale=task.outlier_scale,
        generator=generator,
    )
    writes = torch.cat([drawn.keys, drawn.values, torch.zeros_like(drawn.keys[..., :1])], -1)
    asked = drawn.queries
    queries = torch.cat([asked, torch.zeros_like(drawn.targets), torch.ones_like(asked[..., :1])], -1)
    return torch.cat([writes, queries], 1), drawn.targets


def loss_and_score(model: nn.Module, task: Task, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean loss to train on, and accuracy or cosine similarity."""
    given, wanted = batch
    if task.vector_dim:
        recalled = model(given)[:, -wanted.shape[1] :]
        return F.mse_loss(recalled, wanted), F.cosine_similarity(recalled, wanted, dim=-1).mean()
    due = wanted != IGNORE
    logits = model(given, due)
    return F.cross_entropy(logits, wanted[due]), (logits.argmax(-1) == wanted[due]).double().mean()


def _batches(task: Task, budget: Budget, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches for every arm, drawn from the seed alone; each equal share of the steps adds one more size."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    make = vector_batch if task.vector_dim else token_batch
    for step in range(budget.steps):
        sizes = task.num_pairs[: 1 + step * len(task.num_pairs) // budget.steps]
        yield make(task, budget.batch_size, sizes[step % len(sizes)], generator)


def train_run(arm: str, task: Task, budget: Budget, seed: int) -> dict[str, float]:
    """Train and score; returns {"<metric>@<num_pairs>": value}."""
    torch.manual_seed(seed)
    model = build_model(arm, task, budget)
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, budget.steps // 10)

    def share(step: int) -> float:
        """Linear warm-up over a tenth, then a cosine down to a twentieth of the peak."""
        if step < warmup:
            return (step + 1) / warmup
        return 0.05 + 0.475 * (1 + math.cos(math.pi * (step - warmup) / max(1, budget.steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    for batch in _batches(task, budget, seed):
        loss, _ = loss_and_score(model, task, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return evaluate(model, task, budget)


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, budget: Budget) -> dict[str, float]:
    """Score at every number of pairs, on rows that are the same for every arm and seed."""
    make = vector_batch if task.vector_dim else token_batch
    scores = {}
    for num_pairs in task.num_pairs:
        generator = torch.Generator().manual_seed(77_000 + num_pairs)
        batch = make(task, budget.eval_rows, num_pairs, generator)
        scores[f"{task.metric}@{num_pairs}"] = loss_and_score(model, task, batch)[1].item()
    return scores


def run_settings(task: Task, budget: Budget, seed: int) -> dict[str, Any]:
    """All that fixes a run's result besides the arm and the code."""
    return {**asdict(task), "task": task.name, **asdict(budget), "seed": seed, "num_outlier_tokens": 0}
