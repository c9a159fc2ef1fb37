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
from memarch.data.recall import IGNORE, mqar

ARMS = ("backbone", "sft", "lora", "random-selection", "reweaver")
BACKBONES = {"length": 0, "span": 1, "double-span": 2}
"""Attention to everything; or to so many times `Budget.span` newest tokens."""
BUCKETS = ("all", "common", "middle", "rare")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every arm gets alike: `backbone_steps` before it is frozen, then `steps` for the arm.

    num_pairs: in texts of `tokens_per_pair` times as many tokens; fewer come first. Texts of the most pairs are scored,
    and such that are `lengths` times as long by blanks between their questions. zipf: exponent of the values'
    frequencies. common, middle: last rank of the values that count as such, the others are rare. span: see
    `BACKBONES`. memory_tokens, top_k, width: of the reweaver.
    """

    tokens_per_pair: int = 4
    num_pairs: tuple[int, ...] = (4, 8)
    num_keys: int = 24
    num_values: int = 256
    zipf: float = 1.2
    common: int = 8
    middle: int = 64
    span: int = 8
    d_model: int = 64
    mlp_dim: int = 128
    num_layers: int = 2
    num_heads: int = 2
    batch_size: int = 32
    backbone_steps: int = 600
    steps: int = 300
    lr: float = 6e-3
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
        if not BACKBONES[kind]
        else MistralForCausalLM(MistralConfig(**sizes, sliding_window=BACKBONES[kind] * budget.span))
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
    train(model, list(model.parameters()), budget, steps=budget.backbone_steps, seed=seed, grow=True)
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
        model = _lora(model, sum(p.numel() for p in reweaver.parameters()))
    if arm in ("backbone", "sft", "lora"):
        return model, None, [p for p in model.parameters() if p.requires_grad]
    return model, reweaver, list(reweaver.parameters())


def train_run(kind: str, arm: str, budget: Budget, seed: int) -> dict[str, float]:
    """Train an arm on the frozen backbone of the seed, and score it."""
    model = copy.deepcopy(trained_backbone(kind, budget, seed))
    torch.manual_seed(1000 + seed)
    model, reweaver, learned = build_arm(arm, model, budget)
    with reweave(model, reweaver) if reweaver is not None else nullcontext():
        if learned:
            train(model, learned, budget, steps=budget.steps, seed=1000 + seed)
        return evaluate(model, budget)


def train(
    model: Any, learned: list[nn.Parameter], budget: Budget, *, steps: int, seed: int, grow: bool = False
) -> None:
    """AdamW with warm-up and cosine on the answers, on batches drawn from the seed."""
    settings = CacheSettings(steps, learning_rate=budget.lr, warmup_steps=steps // 10)
    optimizer = torch.optim.AdamW(learned, lr=budget.lr, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step, (tokens, labels) in enumerate(_batches(budget, steps, seed, grow=grow)):
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


def _batches(budget: Budget, steps: int, seed: int, *, grow: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Sizes in turn; with `grow`, each equal share of the steps adds one."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    for step in range(steps):
        sizes = budget.num_pairs[: 1 + step * len(budget.num_pairs) // steps] if grow else budget.num_pairs
        pairs = sizes[step % len(sizes)]
        length = budget.tokens_per_pair * pairs
        yield zipf_mqar(budget, budget.batch_size, seq_len=length, num_pairs=pairs, generator=generator)


def _in_bucket(rank: Tensor, bucket: str, budget: Budget) -> Tensor:
    first = {"all": 1, "common": 1, "middle": budget.common + 1, "rare": budget.middle + 1}[bucket]
    last = {"common": budget.common, "middle": budget.middle}.get(bucket, budget.num_values)
    return (rank >= first) & (rank <= last)


def _lora(model: Any, wanted: int) -> Any:
    """LoRA on all projections, of `wanted` parameters or just more."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("the arm 'lora' needs the package peft: pip install 'memarch[bench]'") from error
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    linear = [m for n, m in model.named_modules() if n.rpartition(".")[2] in targets and isinstance(m, nn.Linear)]
    rank = -(-wanted // sum(m.in_features + m.out_features for m in linear))
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
