"""One run of `benchmarks.dual_process`: a small masked language model on the part-of-speech task, with forgetting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memarch.data.parts_of_speech import SPLITS, PartsOfSpeech, PartsOfSpeechBatch
from memarch.forgetting import EmbeddingForgetting, ProbabilisticForgetting

PROBES = ("holdout_frozen", "holdout_matched")
"""Never-trained words with the rows they had at initialisation, and with fresh rows of the trained rows' own scale."""
METRICS = (*SPLITS, "switch_in_weights", "tail_switch_in_weights", *PROBES)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Model, data and schedule, the same for every arm. The paper's: see `PAPER`."""

    num_words: int = 1000
    zipf: float = 1.5
    ambiguous: float = 0.1
    num_layers: int = 3
    hidden_dim: int = 64
    mlp_dim: int = 128
    batch_size: int = 128
    steps: int = 2000
    lr: float = 5e-4
    active_every: int = 100
    temporary_every: int = 10
    stop_after: int = 500
    probabilistic_every: int = 2
    probability: float = 0.1
    eval_rows: int = 1000
    num_evals: int = 20


PAPER = Budget(
    num_words=10_000, num_layers=6, steps=62_500, lr=5e-5, active_every=1000, temporary_every=10, stop_after=1000
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How a run forgets.

    mode: vanilla, active, temporary or probabilistic. state: whose optimiser state a reset clears. std: of fresh rows
    (0.02 is the model's own, 1 the published code's).
    """

    mode: str
    state: str = "embeddings"
    std: float = 0.02

    @property
    def name(self) -> str:
        """mode[-state]-std, as tables show it."""
        if self.mode == "vanilla":
            return self.mode
        return "-".join([self.mode, *([self.state] if self.mode != "probabilistic" else []), f"{self.std:g}"])


ARMS = {
    arm.name: arm
    for arm in (
        Arm(mode="vanilla"),
        *(
            Arm(mode=mode, state=state, std=std)
            for mode in ("active", "temporary")
            for state in ("embeddings", "all", "none")
            for std in (0.02, 1.0)
        ),
        *(Arm(mode="probabilistic", state="none", std=std) for std in (0.02, 1.0)),
    )
}


class Run:
    """A model, its optimiser and its way of forgetting; `scores` is what it can do now."""

    def __init__(self, arm: Arm, budget: Budget, seed: int, device: str = "cpu") -> None:
        self.arm, self.budget, self.device = arm, budget, device
        torch.manual_seed(seed)
        self.task = PartsOfSpeech(num_words=budget.num_words, zipf=budget.zipf, ambiguous=budget.ambiguous, seed=seed)
        self.model = _masked_lm(self.task, budget).to(device)
        self.embedding: nn.Embedding = self.model.get_input_embeddings()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=budget.lr, weight_decay=0.01)
        self.resets = _resets(arm, budget, self.embedding, seed)
        self.replaces = (
            ProbabilisticForgetting(
                self.embedding,
                probability=budget.probability,
                every=budget.probabilistic_every,
                std=arm.std,
                keep_rows=(self.task.mask,),
                seed=seed,
            )
            if arm.mode == "probabilistic"
            else None
        )
        self.generator = torch.Generator().manual_seed(1000 + seed)
        unseen = slice(self.task.holdout[0], None)
        self._initial_rows = self.embedding.weight[unseen].detach().clone()
        self._unseen = unseen

    def train(self, num_steps: int) -> None:
        """So many optimiser steps."""
        for _ in range(num_steps):
            batch = self._draw("val", self.budget.batch_size, self.generator)
            with self.replaces or nullcontext():
                loss = self.model(batch.tokens, labels=batch.labels).loss
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            if self.resets is not None:
                self.resets.step(self.optimizer)
            if self.replaces is not None:
                self.replaces.step()

    @torch.no_grad()
    def scores(self) -> dict[str, float]:
        """Share of sequences whose three answers are all right, by split; `_in_weights`: by the words' own classes."""
        self.model.eval()
        found = {}
        for split in SPLITS:
            batch, answers = self._answers(split)
            found[split] = _all_right(answers, batch.labels)
            if "switch" in split:
                found[f"{split}_in_weights"] = _all_right(answers, batch.in_weights)
        trained = self.embedding.weight[: self.task.num_words]
        fresh = torch.randn(self._initial_rows.shape, generator=torch.Generator().manual_seed(1)).to(self.device)
        for probe, rows in zip(PROBES, (self._initial_rows, fresh * trained.std()), strict=True):
            with self._unseen_rows(rows):
                batch, answers = self._answers("holdout")
                found[probe] = _all_right(answers, batch.labels)
        self.model.train()
        return found

    @contextmanager
    def _unseen_rows(self, rows: Tensor) -> Iterator[None]:
        """Rows of the never-trained words, and their output biases as they were: none."""
        bias: Tensor = self.model.cls.predictions.bias
        saved = self.embedding.weight[self._unseen].clone(), bias[self._unseen].clone()
        self.embedding.weight[self._unseen], bias[self._unseen] = rows, 0.0
        try:
            yield
        finally:
            self.embedding.weight[self._unseen], bias[self._unseen] = saved

    def _answers(self, split: str) -> tuple[PartsOfSpeechBatch, Tensor]:
        batch = self._draw(split, self.budget.eval_rows, torch.Generator().manual_seed(2))
        return batch, self.model(batch.tokens).logits.argmax(-1)

    def _draw(self, split: str, rows: int, generator: torch.Generator) -> PartsOfSpeechBatch:
        drawn = self.task.draw(rows, split=split, generator=generator)
        return PartsOfSpeechBatch(*(tensor.to(self.device) for tensor in drawn))


def learning_curve(arm: Arm, budget: Budget, seed: int, device: str = "cpu") -> Iterator[tuple[int, dict[str, float]]]:
    """(step, scores) at `budget.num_evals` equally spaced steps, the last one among them."""
    run = Run(arm, budget, seed, device)
    done = 0
    for count in range(1, budget.num_evals + 1):
        until = budget.steps * count // budget.num_evals
        run.train(until - done)
        done = until
        yield done, run.scores()


def run_settings(arm: Arm, budget: Budget, seed: int) -> dict[str, object]:
    """What a row records of a run."""
    return {**asdict(arm), **asdict(budget), "seed": seed}


def _all_right(answers: Tensor, wanted: Tensor) -> float:
    return float((answers[:, 4:] == wanted[:, 4:]).all(1).double().mean())


def _resets(arm: Arm, budget: Budget, embedding: nn.Embedding, seed: int) -> EmbeddingForgetting | None:
    if arm.mode not in ("active", "temporary"):
        return None
    temporary = arm.mode == "temporary"
    return EmbeddingForgetting(
        embedding,
        every=budget.temporary_every if temporary else budget.active_every,
        stop_after=budget.stop_after if temporary else None,
        std=arm.std,
        keep_rows=(),
        optimizer_state=arm.state,
        seed=seed,
    )


def _masked_lm(task: PartsOfSpeech, budget: Budget) -> Any:
    """BERT as in the paper: one head, tied output layer; no dropout, which this size does not need."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=task.vocab_size,
        hidden_size=budget.hidden_dim,
        num_hidden_layers=budget.num_layers,
        num_attention_heads=1,
        intermediate_size=budget.mlp_dim,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=8,
        type_vocab_size=1,
        pad_token_id=None,
    )
    return BertForMaskedLM(config)
