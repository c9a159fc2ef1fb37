"""One run of `benchmarks.forgetting_probe`: pre-train a small language model in one of five ways, probe it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from memarch.data import TextBatches, train_tokenizer, validation_windows
from memarch.data.text import TextSource, split_text
from memarch.forgetting import EmbeddingForgetting, ProbabilisticForgetting
from memarch.models import MemoryLMConfig, MemoryLMForCausalLM
from memarch.probes import FewShotMemory, FineTunedLM, ProbeReport

ARMS = ("vanilla", "vanilla-short", "active", "temporary", "probabilistic")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Model, pre-training and probe, the same for every arm; `short_steps` are vanilla-short's."""

    vocab_size: int = 1024
    d_model: int = 128
    num_layers: int = 4
    num_heads: int = 4
    seq_len: int = 64
    batch_size: int = 16
    steps: int = 400
    short_steps: int = 200
    lr: float = 1e-3
    active_every: int = 100
    temporary_every: int = 10
    stop_after: int = 100
    probabilistic_every: int = 2
    probability: float = 0.1
    std: float = 0.02
    num_items: int = 64
    item_tokens: int = 24
    probe_lr: float = 1e-3
    probe_batch: int = 8
    exposures: tuple[int, ...] = (0, 1, 3, 10)
    updates: tuple[int, ...] = (1, 5, 10, 30, 100, 400)


class Corpus:
    """A text as tokens: one part to pre-train on; windows of the rest to study, as foils and to read afterwards."""

    def __init__(self, source: TextSource, budget: Budget) -> None:
        train, held_out = split_text(source.text, validation_fraction=0.15)
        tokenizer = train_tokenizer("bpe", train, vocab_size=budget.vocab_size)
        self.vocab_size = tokenizer.vocab_size
        self.train, self.held_out = (torch.tensor(tokenizer.encode(part)) for part in (train, held_out))
        self.newline = tokenizer.encode("\n")[-1]
        self.checksum = f"{zlib.crc32(source.text.encode()):08x}"

    def probe(self, budget: Budget, seed: int) -> FewShotMemory:
        """Windows in a random order: studied ones, foils, all others. A foil "random" is a window's tokens shuffled."""
        windows = self.held_out[: len(self.held_out) // budget.item_tokens * budget.item_tokens]
        windows = windows.view(-1, budget.item_tokens)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(windows), generator=generator)
        study, novel, others = windows[order].split(
            [budget.num_items, budget.num_items, len(windows) - 2 * budget.num_items]
        )
        shuffled = [row[torch.randperm(len(row), generator=generator)] for row in study]
        return FewShotMemory(
            _items(study), foils={"novel": _items(novel), "random": _items(shuffled)}, others=_items(others)
        )


class Pretraining:
    """A model with its optimiser and its way of forgetting, deterministic in arm, budget and seed."""

    def __init__(self, arm: str, budget: Budget, corpus: Corpus, seed: int) -> None:
        torch.manual_seed(seed)
        self.arm, self.budget = arm, budget
        config = MemoryLMConfig(
            vocab_size=corpus.vocab_size,
            d_model=budget.d_model,
            num_layers=budget.num_layers,
            num_heads=budget.num_heads,
            mixer="attention",
            tokenizer="bpe",
        )
        self.model = MemoryLMForCausalLM(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=budget.lr, weight_decay=0.01)
        self.batches = TextBatches(corpus.train, batch_size=budget.batch_size, seq_len=budget.seq_len, seed=seed)
        self.held_out = corpus.held_out
        self.num_steps = budget.short_steps if arm == "vanilla-short" else budget.steps
        self.resets = _resets(arm, budget, self.model, seed)
        self.replaces = (
            ProbabilisticForgetting(
                self.model,
                probability=budget.probability,
                every=budget.probabilistic_every,
                std=budget.std,
                seed=seed,
            )
            if arm == "probabilistic"
            else None
        )

    def run(self) -> MemoryLMForCausalLM:
        """All steps, at a constant learning rate after a warm-up of 20."""
        self.model.train()
        for step in range(self.num_steps):
            ids, wanted = (each.contiguous() for each in self.batches.next())
            with self.replaces or nullcontext():
                loss = _loss(self.model, ids, wanted)
            for group in self.optimizer.param_groups:
                group["lr"] = self.budget.lr * min(1.0, (step + 1) / 20)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            if self.resets is not None:
                self.resets.step(self.optimizer)
            if self.replaces is not None:
                self.replaces.step()
        return self.model.eval()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Nats per token on the first 200 pieces of the held-out part."""
        ids, wanted = (each[:200] for each in validation_windows(self.held_out, seq_len=self.budget.seq_len))
        losses = [_loss(self.model, *pair) for pair in zip(ids.split(20), wanted.split(20), strict=True)]
        return float(torch.stack(losses).mean())


def run_one(arm: str, budget: Budget, corpus: Corpus, seed: int) -> tuple[float, ProbeReport]:
    """Validation loss after pre-training, and what the probe found."""
    training = Pretraining(arm, budget, corpus, seed)
    model = training.run()
    loss = training.validation_loss()
    memory = FineTunedLM(model, lr=budget.probe_lr, batch_size=budget.probe_batch, prefix=(corpus.newline,))
    report = corpus.probe(budget, seed).run(
        memory, exposures=budget.exposures, updates=budget.updates, update_items=budget.probe_batch
    )
    return loss, report


def run_settings(arm: str, budget: Budget, corpus: Corpus, seed: int, text: str) -> dict[str, object]:
    """What a row records of a run."""
    return {"arm": arm, **asdict(budget), "seed": seed, "text": text, "checksum": corpus.checksum}


def _resets(arm: str, budget: Budget, model: MemoryLMForCausalLM, seed: int) -> EmbeddingForgetting | None:
    """Active forgetting does not reset at the very last step, so that what is probed has had a whole episode."""
    if arm == "active":
        every, stop_after = budget.active_every, budget.steps - 1
    elif arm == "temporary":
        every, stop_after = budget.temporary_every, budget.stop_after
    else:
        return None
    return EmbeddingForgetting(model, every=every, stop_after=stop_after, std=budget.std, seed=seed)


def _loss(model: MemoryLMForCausalLM, ids: Tensor, wanted: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), wanted.flatten())


def _items(windows: Sequence[Tensor] | Tensor) -> list[tuple[object, ...]]:
    return [tuple(row.tolist()) for row in windows]
