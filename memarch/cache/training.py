"""Training a cache processor, or a peer of one: AdamW, warm-up and cosine, evaluation, checkpoints, bitwise resume."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from memarch.models.storage import json_writer, read_json, read_tensors, tensors_writer, write_files
from memarch.training import (
    DivergedError,
    Evaluation,
    StepReport,
    TrainerCallback,
    TrainingResult,
    latest_checkpoint,
)
from memarch.training.checkpoint import (
    OPTIMIZER_FILE,
    TRAINER_FILE,
    optimizer_tensors,
    publish,
    restore_optimizer,
)
from memarch.training.settings import OptimizerSettings

from .training_arms import FIRST_REWRITTEN, Arm
from .training_data import Problem, ProblemBatches, Problems, in_batches


@dataclass(frozen=True)
class CacheSettings(OptimizerSettings):
    """How long and how fast to train.

    Attributes:
        num_steps: optimiser steps.
        batch_size: problems per step.
        learning_rate: at the top of the schedule; a tenth of it at the end.
        warmup_steps: linear rise before the cosine.
        weight_decay: of matrices.
        gradient_clip: largest norm of the gradient.
        eval_every: steps between evaluations, and one at the end; 0 for that one only.
        save_every: steps between checkpoints, and one at the end; 0 for that one only.
        max_eval_problems: of the validation set.
        seed: of the order of the data.

    Raises:
        ValueError: a value out of range; the message names it.
    """

    num_steps: int
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    eval_every: int = 0
    save_every: int = 0
    max_eval_problems: int = 128
    seed: int = 0

    counts = ("max_eval_problems",)


class CacheTrainer:
    """Trains an arm; the result depends on arm, data and settings alone, however often it is resumed.

    Args:
        arm: see `make_arm`.
        train: what to learn from.
        validation: what to evaluate on.
        settings: see `CacheSettings`.
        out_dir: where checkpoints go; None writes nothing.
        callbacks: listeners.

    Raises:
        ValueError: fewer problems than a batch has.
    """

    def __init__(
        self,
        arm: Arm,
        train: Problems,
        validation: Problems,
        settings: CacheSettings,
        *,
        out_dir: str | Path | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.arm, self.train, self.validation, self.settings = arm, train, validation, settings
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.callbacks = tuple(callbacks)
        self.batches = ProblemBatches(train, settings.batch_size, seed=settings.seed)
        learned = [p for p in arm.module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learned if p.dim() >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in learned if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))
        self.step, self.train_seconds = 0, 0.0
        self._stop = False
        self._evaluation: Evaluation | None = None
        self._checkpoint: Path | None = None

    def restore(self, run_dir: str | Path) -> None:
        """Go on with the latest checkpoint of a run of the same arm, data and settings (num_steps may differ).

        Raises:
            OSError: there is no checkpoint, or a file of it is missing.
            ValueError: a corrupt file, other data or settings, or fewer steps than are done.
        """
        checkpoint = latest_checkpoint(run_dir)
        source = checkpoint / TRAINER_FILE
        progress = read_json(source)
        missing = {"step", "settings", "digest", "batches", "train_seconds"} - progress.keys()
        if missing:
            raise ValueError(f"{source}: key {min(missing)!r} is missing; use an earlier checkpoint")
        if progress["digest"] != self.train.digest:
            raise ValueError(f"the problems are not those this training began with (now: {self.train.source})")
        then = CacheSettings.from_json(progress["settings"], source=str(source))
        if replace(then, num_steps=self.settings.num_steps) != self.settings:
            raise ValueError(f"{source}: this training began with other settings, {then}; got {self.settings}")
        if self.settings.num_steps < progress["step"]:
            raise ValueError(
                f"num_steps must be at least the {progress['step']} steps already done; got {self.settings.num_steps}"
            )
        self.arm.load(checkpoint)
        path = checkpoint / OPTIMIZER_FILE
        restore_optimizer(path, read_tensors(path), self.arm.module, self.optimizer)
        self.batches.restore(progress["batches"])
        self.step, self.train_seconds = progress["step"], progress["train_seconds"]
        self._checkpoint = checkpoint

    def request_stop(self) -> None:
        """End the run after the current step, with a checkpoint; safe to call from a signal handler."""
        self._stop = True

    def run(self) -> TrainingResult:
        """Train until `settings.num_steps` or a requested stop.

        Raises:
            DivergedError: the loss is infinite or no number.
            OSError: a checkpoint cannot be saved; the last good one is intact.
        """
        self._tell("on_start", self.step, self.settings.num_steps)
        try:
            while self.step < self.settings.num_steps and not self._stop:
                self._tell("on_step", self._train_step())
                last = self.step == self.settings.num_steps
                if last or _due(self.step, self.settings.eval_every):
                    self._evaluation = self.evaluate()
                    self._tell("on_evaluation", self.step, self._evaluation)
                if last or self._stop or _due(self.step, self.settings.save_every):
                    self._save()
        finally:
            self._tell("on_end")
        interrupted = self.step < self.settings.num_steps
        return TrainingResult(self.step, interrupted, self._evaluation, self._checkpoint, self.train_seconds)

    def evaluate(self) -> Evaluation:
        """Predict the validation answers from their second line on: what a rewritten cache can help with.

        Raises: ValueError if no answer has a second line.
        """
        problems = self.validation.items[: self.settings.max_eval_problems]
        nats, tokens = 0.0, 0
        for batch in in_batches(problems, self.settings.batch_size):
            scores = self.arm.score(batch, learn=False)
            nats += scores.nats[:, FIRST_REWRITTEN:].sum().item()
            tokens += int(scores.tokens[:, FIRST_REWRITTEN:].sum())
        num_bytes = sum(sum(p.num_bytes[FIRST_REWRITTEN:]) for p in problems)
        if not tokens or not num_bytes:
            raise ValueError(f"{self.validation.source}: no answer has a second line to evaluate on")
        loss = nats / tokens
        perplexity = math.exp(loss) if loss < 700 else math.inf
        return Evaluation(loss, perplexity, nats / math.log(2) / num_bytes, tokens)

    def _train_step(self) -> StepReport:
        start = time.perf_counter()
        learning_rate = self.settings.learning_rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        batch: list[Problem] = self.batches.next()
        self.optimizer.zero_grad(set_to_none=True)
        scores = self.arm.score(batch, learn=True)
        first = self.arm.first_step
        tokens = int(scores.tokens[:, first:].sum())
        value = scores.nats[:, first:].sum().item() / max(1, tokens)
        learned = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(learned, self.settings.gradient_clip).item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise DivergedError(
                f"loss {value} and gradient norm {norm} at step {self.step + 1}: the training diverged; "
                f"lower the learning rate (now {self.settings.learning_rate:g}) and go on from the last checkpoint"
            )
        self.optimizer.step()
        seconds = time.perf_counter() - start
        self.step += 1
        self.train_seconds += seconds
        read = sum(len(s) for p in batch for s in p.steps)
        return StepReport(self.step, value, learning_rate, norm, read / seconds, self.train_seconds)

    def _save(self) -> None:
        if self.out_dir is None:
            return
        progress = {
            "step": self.step,
            "settings": asdict(self.settings),
            "source": self.train.source,
            "digest": self.train.digest,
            "batches": self.batches.state(),
            "train_seconds": self.train_seconds,
            "evaluation": None if self._evaluation is None else asdict(self._evaluation),
        }

        def fill(directory: Path) -> None:
            self.arm.save(directory)
            tensors = optimizer_tensors(self.arm.module, self.optimizer)
            write_files(directory, {OPTIMIZER_FILE: tensors_writer(tensors), TRAINER_FILE: json_writer(progress)})

        self._checkpoint = publish(self.out_dir, self.step, fill)
        self._tell("on_checkpoint", self.step, self._checkpoint)

    def _tell(self, event: str, *details: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*details)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
