"""What can be trained on texts of steps: cache processors, and the peers that they must beat at equal size.

An arm scores a batch, and learns from it when told to. B rows, N steps (the question is step 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memarch.models.storage import check_tensors, read_tensors, tensors_writer, write_files

from .consolidate import consolidate
from .controls import MeanShiftRewriter
from .processor import CacheProcessor
from .training_data import IGNORE, Problem, Step, collate

ARMS = ("processor", "values-only", "causal", "random-selection", "mean-shift", "lora", "pause", "sft")
WEIGHTS_FILE = "arm.safetensors"
FIRST_REWRITTEN = 2
"""The first step whose predictions see a rewritten cache: after the question and the answer's first line."""


@dataclass(frozen=True)
class Scores:
    """How well the answers of a batch were predicted.

    Attributes:
        nats: `[B, N]`, negative log-likelihood of the tokens predicted from each step, float64.
        tokens: `[B, N]`, how many those are.
        correct: `[B, N]`, how many of them were the likeliest.
    """

    nats: Tensor
    tokens: Tensor
    correct: Tensor


class Arm(Protocol):
    """Something trainable around a frozen (or not) backbone.

    Attributes:
        module: holds the parameters that learn.
        first_step: from which step on tokens are learned from.
    """

    module: nn.Module
    first_step: int

    def score(self, problems: Sequence[Problem], *, learn: bool) -> Scores:
        """Scores of a batch; with `learn`, gradients of the mean over its learned tokens are left on the parameters."""

    def save(self, directory: Path) -> None:
        """Write the parameters."""

    def load(self, directory: Path) -> None:
        """Read what `save` wrote, to the bit."""


@dataclass
class ConsolidatingArm:
    """A rewriter on a frozen backbone, trained through the hooks that inference uses, step by step in lock-step.

    Args:
        model: the backbone; its parameters get no gradient.
        tokenizer: the model's.
        module: the rewriter.
        options: of `consolidate`: window, top_k, select, ...
        bptt_steps: steps that gradients reach back; the cache's history is cut after so many.
    """

    model: Any
    tokenizer: Any
    module: Any
    options: dict[str, Any] = field(default_factory=dict)
    bptt_steps: int = 1
    first_step: int = FIRST_REWRITTEN

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)

    def score(self, problems: Sequence[Problem], *, learn: bool) -> Scores:
        """See `Arm`."""
        device = next(self.model.parameters()).device
        steps = [s.to(device) for s in collate(problems, _pad(self.tokenizer))]
        total = _count(steps, self.first_step)
        nats, tokens, correct = [], [], []
        pending: Tensor | None = None
        with (
            torch.set_grad_enabled(learn),
            consolidate(
                self.model,
                self.module,
                self.tokenizer,
                **self.options,
            ) as c,
        ):
            cache = c.new_cache()
            mask = steps[0].mask[:, :0]
            for n, step in enumerate(steps):
                mask = torch.cat([mask, step.mask], 1)
                logits = self.model(
                    step.ids,
                    attention_mask=mask.long(),
                    position_ids=step.positions,
                    past_key_values=cache,
                    logits_to_keep=1 if n == 0 else 0,
                ).logits
                labels = step.labels[:, -logits.shape[1] :]
                found = token_nats(logits, labels)
                nats.append(found.detach().double().sum(1))
                tokens.append((step.labels != IGNORE).sum(1))
                correct.append((logits.argmax(-1) == labels).sum(1))
                if learn and n >= self.first_step:
                    loss = found.sum() / total
                    pending = loss if pending is None else pending + loss
                    if (n - self.first_step + 1) % self.bptt_steps == 0 or n + 1 == len(steps):
                        pending.backward()
                        pending = None
                        c.track(cache).detach()
        return Scores(*(torch.stack(x, 1).cpu() for x in (nats, tokens, correct)))

    def save(self, directory: Path) -> None:
        """A processor as `CacheProcessor.save_pretrained` does, another rewriter as arm.safetensors."""
        if isinstance(self.module, CacheProcessor):
            self.module.save_pretrained(directory)
        else:
            _save(self.module, directory)

    def load(self, directory: Path) -> None:
        """See `Arm`."""
        if isinstance(self.module, CacheProcessor):
            self.module.load_state_dict(CacheProcessor.from_pretrained(directory).state_dict())
        else:
            _load(self.module, directory)


class WholeTextArm:
    """Something trained on whole texts: all of the backbone, LoRA on it, or pause tokens in front of its steps.

    Args:
        model: the backbone, or PEFT around it.
        tokenizer: the model's.
        module: holds what learns; None is the model itself.
        pause: `[K, d_model]` embeddings put in front of every step but the first two, None for none.
        first_step: from which step on tokens are learned from.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        module: nn.Module | None = None,
        pause: nn.Parameter | None = None,
        first_step: int = 0,
    ) -> None:
        self.model, self.tokenizer, self.pause, self.first_step = model, tokenizer, pause, first_step
        self.module: Any = model if module is None else module

    def score(self, problems: Sequence[Problem], *, learn: bool) -> Scores:
        """See `Arm`."""
        device = next(self.model.parameters()).device
        steps = [s.to(device) for s in collate(problems, _pad(self.tokenizer))]
        if self.pause is not None:
            steps = [s if n < FIRST_REWRITTEN else _with_room(s, len(self.pause)) for n, s in enumerate(steps)]
        ids, mask, labels = (torch.cat([getattr(s, name) for s in steps], 1) for name in ("ids", "mask", "labels"))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        given: dict[str, Tensor] = {"input_ids": ids}
        with torch.set_grad_enabled(learn):
            if self.pause is not None:
                embedded = self.model.get_input_embeddings()(ids.clamp(min=0))
                given = {
                    "inputs_embeds": torch.where((ids < 0)[..., None], self.pause[(-1 - ids).clamp(min=0)], embedded)
                }
            logits = self.model(**given, attention_mask=mask.long(), position_ids=positions, use_cache=False).logits
            found = token_nats(logits, labels)
            widths = [s.ids.shape[1] for s in steps]
            parts, right = found.split(widths, 1), (logits.argmax(-1) == labels).split(widths, 1)
            if learn:
                loss = torch.stack([p.sum() for p in parts[self.first_step :]]).sum() / _count(steps, self.first_step)
                loss.backward()
        nats = torch.stack([p.detach().double().sum(1) for p in parts], 1)
        tokens = torch.stack([(s.labels != IGNORE).sum(1) for s in steps], 1)
        return Scores(nats.cpu(), tokens.cpu(), torch.stack([p.sum(1) for p in right], 1).cpu())

    def save(self, directory: Path) -> None:
        """The whole model with its tokenizer where that learns, else arm.safetensors."""
        if self.module is self.model:
            with without_bars():
                self.model.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)
        else:
            _save(self.module, directory)

    def load(self, directory: Path) -> None:
        """See `Arm`."""
        if self.module is self.model:
            with without_bars():
                loaded = type(self.model).from_pretrained(directory, dtype=self.model.dtype)
            self.model.load_state_dict(loaded.state_dict())
        else:
            _load(self.module, directory)


def make_arm(
    name: str,
    model: Any,
    tokenizer: Any,
    *,
    sizes: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    bptt_steps: int = 1,
) -> Arm:
    """An arm by name, freshly initialised from torch's seed; LoRA gets as many parameters as a processor, or just more.

    Args:
        name: one of ARMS.
        model: the backbone. "lora" puts its adapters into it.
        tokenizer: the model's.
        sizes: of the processor: processor_dim, mlp_dim, num_heads.
        options: of `consolidate`.
        bptt_steps: see `ConsolidatingArm`.

    Raises:
        ValueError: an unknown name or size.
        ImportError: "lora" without the package peft.
    """
    sizes, options = sizes or {}, options or {}
    device = next(model.parameters()).device
    if name == "sft":
        return WholeTextArm(model.requires_grad_(True), tokenizer)
    if name == "pause":
        width = model.get_input_embeddings().weight
        pause = nn.Parameter(width.detach().float().mean(0).expand(4, -1).to(width.dtype).clone())
        module = nn.ParameterDict({"pause": pause})
        model.requires_grad_(False)
        return WholeTextArm(model, tokenizer, module=module, pause=pause, first_step=FIRST_REWRITTEN)
    if name == "lora":
        wanted = CacheProcessor(model.config, **sizes).num_parameters()
        adapted = add_lora(model, wanted)
        named = {n.replace(".", "/"): p for n, p in adapted.named_parameters() if p.requires_grad}
        return WholeTextArm(adapted, tokenizer, module=nn.ParameterDict(named), first_step=FIRST_REWRITTEN)
    if name == "mean-shift":
        rewriter = MeanShiftRewriter(model.config).to(device)
        return ConsolidatingArm(model, tokenizer, rewriter, options, bptt_steps)
    if name not in ARMS:
        raise ValueError(f"arm must be one of {', '.join(ARMS)}; got {name!r}")
    if name == "random-selection":
        options = options | {"select": "random"}
    values_only, causal = name == "values-only", name == "causal"
    processor = CacheProcessor(model.config, values_only=values_only, causal=causal, **sizes).to(device)
    return ConsolidatingArm(model, tokenizer, processor, options, bptt_steps)


def token_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """`[B, w]` float32: cross-entropy of each label, 0 for `IGNORE`."""
    flat = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction="none")
    return flat.view(labels.shape)


@contextmanager
def without_bars() -> Iterator[None]:
    """transformers draws a progress bar for every file of weights; training has one of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def add_lora(model: Any, wanted: int) -> Any:
    """`model` with LoRA on all projections, of `wanted` parameters or just more.

    Raises:
        ImportError: peft is missing.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("the arm 'lora' needs the package peft: pip install 'memarch[bench]'") from error
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    linear = [m for n, m in model.named_modules() if n.rpartition(".")[2] in targets and isinstance(m, nn.Linear)]
    rank = -(-wanted // sum(m.in_features + m.out_features for m in linear))
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))


def _with_room(step: Step, count: int) -> Step:
    """Places for pause tokens -1 ... -count in front of a step, in rows that have it."""
    batch = step.ids.shape[0]
    here = step.mask.any(1, keepdim=True).expand(-1, count)
    room = -1 - torch.arange(count, device=step.ids.device).expand(batch, -1)
    return Step(
        torch.cat([room, step.ids], 1),
        torch.cat([here, step.mask], 1),
        F.pad(step.positions, (count, 0)),
        F.pad(step.labels, (count, 0), value=IGNORE),
    )


def _count(steps: Sequence[Step], first: int) -> int:
    return max(1, int(sum((s.labels != IGNORE).sum() for s in steps[first:])))


def _pad(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def _save(module: nn.Module, directory: Path) -> None:
    write_files(directory, {WEIGHTS_FILE: tensors_writer({n: p.detach().cpu() for n, p in module.named_parameters()})})


def _load(module: nn.Module, directory: Path) -> None:
    path = directory / WEIGHTS_FILE
    tensors, named = read_tensors(path), dict(module.named_parameters())
    check_tensors(path, tensors, named)
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[name])
