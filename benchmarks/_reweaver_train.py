"""One run of `benchmarks.reweaver`: a small backbone trained on short texts, frozen, and what an arm adds to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memarch.cache import Reweaver, reweave
from memarch.cache.training import CacheSettings
from memarch.cache.training_arms import add_lora
from memarch.data.recall import IGNORE, mqar

ARMS = ("backbone", "sft", "lora", "random-selection", "reweaver")
BACKBONES = ("length", "span")
"""Attention to everything, in texts of the trained length; and attention to the newest tokens only."""
BUCKETS = ("all", "common", "middle", "rare")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every arm gets alike: `backbone_steps` before it is frozen, then `steps` for the arm.

    Arms learn on texts `arm_times` as long as the backbone's, at `arm_lr`; the whole backbone ("sft") goes on at `lr`.

    num_pairs: in texts of `tokens_per_pair` times as many tokens; fewer come first. Texts of the most pairs are scored,
    and such that are `lengths` times as long by blanks between their questions. zipf: exponent of the values'
    frequencies. common, middle: last rank of the values that count as such, the others are rare. span: what the
    backbone "span" attends to. memory_tokens, top_k, width: of the reweaver.
    """

    tokens_per_pair: int = 4
    num_pairs: tuple[int, ...] = (4, 8)
    num_keys: int = 24
    num_values: int = 256
    zipf: float = 1.2
    common: int = 8
    middle: int = 64
    span: int = 16
    d_model: int = 64
    mlp_dim: int = 128
    num_layers: int = 2
    num_heads: int = 2
    batch_size: int = 32
    backbone_steps: int = 1200
    lr: float = 6e-3
    arm_times: int = 4
    arm_batch_size: int = 16
    arm_lr: float = 1e-2
    steps: int = 600
    memory_tokens: int = 256
    top_k: int = 8
    width: int = 32
    lengths: tuple[int, ...] = (1, 2, 4, 8)
    eval_rows: int = 128

    @property
    def seq_len(self) -> int:
        """The trained length: that of texts with the most pairs."""
        return self.tokens_per_pair * max(self.num_pairs)

    @property
    def first_value(self) -> int:
        """Token id of the most frequent value; before it are the blank and the keys."""
        return 1 + self.num_keys


class RandomReweaver(Reweaver):
    """A control: reads as many tokens, drawn by lot from those it may read, weighed as the reweaver weighs them."""

    def forward(self, which: int, hidden: Tensor, memory: Any, allowed: Tensor) -> Tensor:
        """See `Reweaver`."""
        lot = torch.rand(allowed.shape, device=allowed.device).masked_fill(~allowed, -1.0)
        drawn = lot.topk(min(self.top_k, lot.shape[-1]), -1).indices
        return super().forward(which, hidden, memory, allowed & torch.zeros_like(allowed).scatter(-1, drawn, True))


def zipf_mqar(
    budget: Budget, batch_size: int, *, seq_len: int, num_pairs: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`mqar` with values drawn by Zipf's law, the first value id the most frequent: tokens and labels `[B, T]`."""
    # As many values as keys, by which rows tell pairs apart; each then becomes a draw, the same wherever it stands.
    tokens, labels = mqar(
        batch_size, seq_len=seq_len, num_pairs=num_pairs, vocab_size=2 * budget.num_keys + 1, power_law=1.0,
        generator=generator,
    )  # fmt: skip
    chance = torch.arange(1, budget.num_values + 1, dtype=torch.float64) ** -budget.zipf
    drawn = torch.multinomial(chance.expand(batch_size, -1), budget.num_keys, replacement=True, generator=generator)
    first = budget.first_value

    def renamed(ids: Tensor) -> Tensor:
        return torch.where(ids >= first, first + drawn.gather(1, (ids - first).clamp(min=0)), ids)

    return renamed(tokens), renamed(labels)


def build_backbone(kind: str, budget: Budget) -> Any:
    """A Llama, or where attention has a span a Mistral, with fresh weights and tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": budget.first_value + budget.num_values,
        "hidden_size": budget.d_model,
        "intermediate_size": budget.mlp_dim,
        "num_hidden_layers": budget.num_layers,
        "num_attention_heads": budget.num_heads,
        "num_key_value_heads": budget.num_heads,
        "max_position_embeddings": budget.seq_len * max(budget.lengths),
        "tie_word_embeddings": True,
        "initializer_range": budget.d_model**-0.5,
    }
    model: Any = (
        LlamaForCausalLM(LlamaConfig(**sizes))
        if kind == "length"
        else MistralForCausalLM(MistralConfig(**sizes, sliding_window=budget.span))
    )
    # Unit embeddings: at the configuration's 0.02 no recall is learned in this many steps.
    nn.init.normal_(model.get_input_embeddings().weight)
    nn.init.constant_(model.model.norm.weight, budget.d_model**-0.5)
    return model


@cache
def trained_backbone(kind: str, budget: Budget, seed: int) -> Any:
    """The backbone of a seed, the same for all arms; they take copies."""
    torch.manual_seed(seed)
    model = build_backbone(kind, budget)
    batches = backbone_batches(budget, seed)
    train(model, list(model.parameters()), batches, steps=budget.backbone_steps, lr=budget.lr)
    return model


def build_arm(arm: str, model: Any, budget: Budget) -> tuple[Any, Reweaver | None, list[nn.Parameter]]:
    """The model (with LoRA in it), the reweaver if there is one, and what learns."""
    config = model.config
    options: dict[str, Any] = {"memory_tokens": budget.memory_tokens, "top_k": budget.top_k, "width": budget.width}
    last = budget.num_layers - 1
    kind = RandomReweaver if arm == "random-selection" else Reweaver
    reweaver = kind(config, capture=range(last), weave=[last], **options)
    model.requires_grad_(arm == "sft")
    if arm == "lora":
        model = add_lora(model, sum(p.numel() for p in reweaver.parameters()))
    if arm in ("backbone", "sft", "lora"):
        return model, None, [p for p in model.parameters() if p.requires_grad]
    return model, reweaver, list(reweaver.parameters())


def train_run(kind: str, arm: str, budget: Budget, seed: int) -> dict[str, float]:
    """Train an arm on the frozen backbone of the seed, and score it."""
    model = copy.deepcopy(trained_backbone(kind, budget, seed))
    torch.manual_seed(1000 + seed)
    model, reweaver, learned = build_arm(arm, model, budget)
    lr = budget.lr if arm == "sft" else budget.arm_lr
    with reweave(model, reweaver) if reweaver is not None else nullcontext():
        if learned:
            train(model, learned, arm_batches(budget, 1000 + seed), steps=budget.steps, lr=lr)
        return evaluate(model, budget)


def train(
    model: Any, learned: list[nn.Parameter], batches: Iterator[tuple[Tensor, Tensor]], *, steps: int, lr: float
) -> None:
    """AdamW with warm-up and cosine, on the answers."""
    settings = CacheSettings(steps, learning_rate=lr, warmup_steps=steps // 10)
    optimizer = torch.optim.AdamW(learned, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step, (tokens, labels) in zip(range(steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(step)
        logits = model(tokens, use_cache=False).logits
        due = labels != IGNORE
        loss = F.cross_entropy(logits[due], labels[due])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
    model.eval()


def backbone_batches(budget: Budget, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Few pairs first: each equal share of the steps adds one size; sizes in turn."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    for step in range(budget.backbone_steps):
        sizes = budget.num_pairs[: 1 + step * len(budget.num_pairs) // budget.backbone_steps]
        pairs = sizes[step % len(sizes)]
        length = budget.tokens_per_pair * pairs
        yield zipf_mqar(budget, budget.batch_size, seq_len=length, num_pairs=pairs, generator=generator)


def arm_batches(budget: Budget, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All sizes in turn, in texts `arm_times` as long."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    for step in range(budget.steps):
        pairs = budget.num_pairs[step % len(budget.num_pairs)]
        length = budget.arm_times * budget.tokens_per_pair * pairs
        yield zipf_mqar(budget, budget.arm_batch_size, seq_len=length, num_pairs=pairs, generator=generator)


@torch.no_grad()
def evaluate(model: Any, budget: Budget) -> dict[str, float]:
    """{"accuracy@4x, rare": ...} for every length and bucket, and nats an answer at the trained length.

    Rows are the same for every arm and seed, with the most pairs; values as frequent as in training.
    """
    found = {}
    for times in budget.lengths:
        generator = torch.Generator().manual_seed(77_000 + times)
        rights, nats, ranks = [], [], []
        for _ in range(0, budget.eval_rows, budget.batch_size):
            tokens, labels = zipf_mqar(
                budget, budget.batch_size, seq_len=times * budget.seq_len, num_pairs=max(budget.num_pairs),
                generator=generator,
            )  # fmt: skip
            due = labels != IGNORE
            logits, wanted = model(tokens, use_cache=False).logits[due], labels[due]
            rights.append((logits.argmax(-1) == wanted).double())
            nats.append(F.cross_entropy(logits, wanted, reduction="none").double())
            ranks.append(wanted - budget.first_value + 1)
        right, nat, rank = torch.cat(rights), torch.cat(nats), torch.cat(ranks)
        for bucket in BUCKETS:
            members = _in_bucket(rank, bucket, budget)
            found[f"accuracy@{times}x, {bucket}"] = right[members].mean().item()
            if times == 1:
                found[f"nats@1x, {bucket}"] = nat[members].mean().item()
    return found


def run_settings(kind: str, budget: Budget, seed: int) -> dict[str, object]:
    """All that fixes a run's result besides the arm and the code."""
    return {"backbone": kind, **asdict(budget), "seed": seed}


def _in_bucket(rank: Tensor, bucket: str, budget: Budget) -> Tensor:
    first = {"all": 1, "common": 1, "middle": budget.common + 1, "rare": budget.middle + 1}[bucket]
    last = {"common": budget.common, "middle": budget.middle}.get(bucket, budget.num_values)
    return (rank >= first) & (rank <= last)
