"""Training a memory language model: AdamW, warm-up and cosine, evaluation, checkpoints, bitwise resume."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from memarch.data import TextBatches
from memarch.models import MemoryLMForCausalLM

from .checkpoint import TRAINER_FILE, latest_checkpoint, load_training_state, save_checkpoint
from .evaluation import Evaluation, evaluate
from .lm_data import LMData
from .logging import StepReport, TrainerCallback
from .settings import OptimizerSettings


class DivergedError(RuntimeError):
    """The loss is no longer a number; the parameters are those of the step before."""


@dataclass(frozen=True)
class LMSettings(OptimizerSettings):
    """How long and how fast to train.

    Attributes:
        num_steps: optimiser steps.
        batch_size: sequences per step.
        seq_len: tokens per sequence.
        learning_rate: at the top of the schedule; a tenth of it at the end.
        warmup_steps: linear rise before the cosine.
        weight_decay: of matrices; vectors, convolutions and initial memories are not decayed.
        gradient_clip: largest norm of the gradient.
        eval_every: steps between evaluations, and one at the end; 0 for that one only.
        save_every: steps between checkpoints, and one at the end; 0 for that one only.
        max_eval_tokens: of the validation text.
        seed: of the order of the data.

    Raises:
        ValueError: a value out of range; the message names it.
    """

    num_steps: int
    batch_size: int = 8
    seq_len: int = 256
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    eval_every: int = 0
    save_every: int = 0
    max_eval_tokens: int = 50_000
    seed: int = 0

    counts = ("seq_len", "max_eval_tokens")


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        step: steps done.
        interrupted: whether a stop was requested before the last step.
        evaluation: the last one, None if there was none.
        checkpoint: the last one written, None without an output directory.
        train_seconds: spent in steps, evaluation and saving left out.
    """

    step: int
    interrupted: bool
    evaluation: Evaluation | None
    checkpoint: Path | None
    train_seconds: float


class LMTrainer:
    """Trains `model` on `data`; the result depends on model, data and settings alone, however often it is resumed.

    Args:
        model: on the device to train on.
        data: see `prepare_text`.
        settings: see `LMSettings`.
        out_dir: where checkpoints go; None writes nothing.
        callbacks: listeners.
        notes: JSON for whoever resumes, kept in every checkpoint.

    Raises:
        ValueError: a tokenizer that is not the model's, or a text too short for one batch.
    """

    def __init__(
        self,
        model: MemoryLMForCausalLM,
        data: LMData,
        settings: LMSettings,
        *,
        out_dir: str | Path | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        wanted = (model.config.tokenizer, model.config.vocab_size)
        given = (data.tokenizer.kind, data.tokenizer.vocab_size)
        if wanted != given:
            raise ValueError(f"the model expects a tokenizer {wanted[0]} of {wanted[1]} tokens; the data has {given}")
        self.model, self.data, self.settings = model, data, settings
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.callbacks, self.notes = list(callbacks), dict(notes or {})
        self.step, self.train_seconds = 0, 0.0
        self.batches = TextBatches(
            data.train, batch_size=settings.batch_size, seq_len=settings.seq_len, seed=settings.seed
        )
        self.optimizer = _adamw(model, settings)
        self._device = next(model.parameters()).device
        self._stop = False
        self._evaluation: Evaluation | None = None
        self._checkpoint: Path | None = None

    @classmethod
    def resume(
        cls,
        run_dir: str | Path,
        data: LMData,
        *,
        num_steps: int | None = None,
        device: str | torch.device = "cpu",
        callbacks: Sequence[TrainerCallback] = (),
    ) -> LMTrainer:
        """The trainer as it was at the latest checkpoint of `run_dir`.

        Args:
            run_dir: the `out_dir` of the training.
            data: the same text with the checkpoint's own tokenizer.
            num_steps: another length; None keeps it. Another length means another learning-rate curve from here on.
            device: to train on.
            callbacks: listeners.

        Raises:
            OSError: no checkpoint, or a file of it is missing.
            ValueError: a corrupt file, another text, or fewer steps than are done.
        """
        checkpoint = latest_checkpoint(run_dir)
        model = MemoryLMForCausalLM.from_pretrained(checkpoint, device=device)
        source = str(checkpoint / TRAINER_FILE)
        scratch = torch.optim.AdamW(model.parameters())
        progress = load_training_state(checkpoint, model, scratch)
        missing = {"step", "settings", "digest", "batches", "train_seconds", "notes"} - progress.keys()
        if missing:
            raise ValueError(f"{source}: key {min(missing)!r} is missing; use an earlier checkpoint")
        if progress["digest"] != data.digest:
            raise ValueError(
                f"the text is not the one this training began with (now: {data.source}; then: {progress['source']}): "
                "resume with the same files in the same order, and the default text with the same Python version"
            )
        settings = LMSettings.from_json(progress["settings"], source=source)
        if num_steps is not None:
            if num_steps < progress["step"]:
                raise ValueError(
                    f"num_steps must be at least the {progress['step']} steps already done; got {num_steps}"
                )
            settings = replace(settings, num_steps=num_steps)
        trainer = cls(model, data, settings, out_dir=run_dir, callbacks=callbacks, notes=progress["notes"])
        trainer.optimizer.state.update(scratch.state)
        trainer.batches.restore(progress["batches"])
        trainer.step, trainer.train_seconds = progress["step"], progress["train_seconds"]
        trainer._checkpoint = checkpoint
        return trainer

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
                    self._evaluate()
                if last or self._stop or _due(self.step, self.settings.save_every):
                    self._save()
        finally:
            self._tell("on_end")
        interrupted = self.step < self.settings.num_steps
        return TrainingResult(self.step, interrupted, self._evaluation, self._checkpoint, self.train_seconds)

    def _train_step(self) -> StepReport:
        start = time.perf_counter()
        learning_rate = self.settings.learning_rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        x, y = self.batches.next()
        logits = self.model(x.to(self._device)).logits
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten().to(self._device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip).item()
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise DivergedError(
                f"loss {value} and gradient norm {norm} at step {self.step + 1}: the training diverged; "
                f"lower the learning rate (now {self.settings.learning_rate:g}) and go on from the last checkpoint"
            )
        self.optimizer.step()
        seconds = time.perf_counter() - start
        self.step += 1
        self.train_seconds += seconds
        return StepReport(self.step, value, learning_rate, norm, x.numel() / seconds, self.train_seconds)

    def _evaluate(self) -> None:
        self._evaluation = evaluate(
            self.model,
            self.data.validation,
            self.data.bytes_per_token,
            seq_len=self.settings.seq_len,
            batch_size=self.settings.batch_size,
            max_tokens=self.settings.max_eval_tokens,
        )
        self._tell("on_evaluation", self.step, self._evaluation)

    def _save(self) -> None:
        if self.out_dir is None:
            return
        self._checkpoint = save_checkpoint(
            self.out_dir,
            self.step,
            model=self.model,
            optimizer=self.optimizer,
            tokenizer=self.data.tokenizer,
            progress={
                "settings": asdict(self.settings),
                "source": self.data.source,
                "digest": self.data.digest,
                "batches": self.batches.state(),
                "train_seconds": self.train_seconds,
                "evaluation": None if self._evaluation is None else asdict(self._evaluation),
                "notes": self.notes,
            },
        )
        self._tell("on_checkpoint", self.step, self._checkpoint)

    def _tell(self, event: str, *details: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*details)


def _adamw(model: MemoryLMForCausalLM, settings: LMSettings) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
