"""One run of `benchmarks.cache_mechanism`: a small Llama and an arm on one task from one seed, trained, then scored."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from memarch.cache import CacheProcessor
from memarch.cache.controls import IdentityRewriter, RandomRewriter
from memarch.cache.training import CacheSettings
from memarch.cache.training_arms import ConsolidatingArm, make_arm
from memarch.cache.training_data import IGNORE, Problem, in_batches
from memarch.data.multiplication import EQUALS, VOCAB_SIZE, multiplication
from memarch.data.state_tracking import END, FIRST_ELEMENT, GROUPS, NEWLINE, PAD, group_table, state_tracking

JOINT = ("vanilla", "vanilla-larger", "pause", "mean-shift", "random-selection", "causal", "values-only", "processor")
FROZEN = ("identity", "sft", "lora", *JOINT[2:])
REGIMES = {"joint": JOINT, "frozen": FROZEN}


@dataclass(frozen=True, kw_only=True)
class Task:
    """State tracking in a group, or multiplication where `group` is empty.

    Attributes:
        train_lines: longest text that is trained on; each batch has 1 to so many lines.
        test_lines: where it is scored, on the lines of each one's second half.
        num_digits: of the factors.
        rewrite_every: tokens between rewritings of the whole cache (version 1 of the paper), in multiplication.
    """

    name: str
    group: str = ""
    train_lines: int = 8
    test_lines: tuple[int, ...] = (8, 16, 32, 64)
    num_digits: int = 3
    rewrite_every: int = 2

    @property
    def vocab_size(self) -> int:
        """Token ids in use."""
        return FIRST_ELEMENT + len(group_table(self.group)) if self.group else VOCAB_SIZE

    @property
    def first_step(self) -> int:
        """The first step that has labels."""
        return 2 if self.group else 1


TASKS = {group: Task(name=group, group=group) for group in GROUPS}
TASKS |= {"multiplication": Task(name="multiplication", num_digits=2)}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every arm gets alike; `steps` with the arm, in the regime "frozen" after as many of the backbone alone.

    window: four entries are this line's and the last one's, so that the state, which a rewriting leaves in the newest
    entry, is always among what the next one reads. It does not need that: with "step" attention selects the state.
    """

    steps: int = 300
    batch_size: int = 32
    lr: float = 1e-3
    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 4
    processor_dim: int = 64
    mlp_dim: int = 128
    window: str | int = 4
    top_k: int = 8
    bptt_steps: int = 8
    eval_rows: int = 128


class TaskTokens:
    """As much of a tokenizer as arms need: which token is a newline, and what to pad with."""

    pad_token_id, eos_token_id = PAD, END

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def __len__(self) -> int:
        return self.vocab_size

    def batch_decode(self, ids: list[list[int]], **options: object) -> list[str]:
        """Texts."""
        return ["\n" if token == NEWLINE else str(token) for (token,) in ids]


def problems_of(task: Task, rows: int, num_lines: int, generator: torch.Generator) -> list[Problem]:
    """Texts cut into steps: END, then x_1, then newline and x_2, ...; or the factors, then so many tokens at a time."""
    if task.group:
        tokens, labels = state_tracking(rows, group=task.group, num_lines=num_lines, generator=generator)
        tokens = nn.functional.pad(tokens, (1, 0), value=END)
        labels = nn.functional.pad(labels, (1, 0), value=IGNORE)
        cuts = [0, 1, *range(2, tokens.shape[1], 2)]
    else:
        tokens, labels = multiplication(rows, num_digits=task.num_digits, generator=generator)
        equals = int((tokens[0] == EQUALS).nonzero())
        cuts = [0, *range(equals, tokens.shape[1], task.rewrite_every)]
    cuts.append(tokens.shape[1])

    def steps(row: Tensor) -> tuple[tuple[int, ...], ...]:
        values = row.tolist()
        return tuple(tuple(values[a:b]) for a, b in zip(cuts, cuts[1:], strict=False))

    zeros = (0,) * (len(cuts) - 1)
    return [Problem(steps(t), zeros, steps(y)) for t, y in zip(tokens, labels, strict=True)]


def build_model(task: Task, budget: Budget, *, extra: int = 0) -> Any:
    """A Llama with fresh weights; `extra`: at least so many parameters more, by wider MLPs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width = 4 * budget.d_model + -(-extra // (3 * budget.d_model * budget.num_layers))
    config = LlamaConfig(
        vocab_size=task.vocab_size,
        hidden_size=budget.d_model,
        intermediate_size=width,
        num_hidden_layers=budget.num_layers,
        num_attention_heads=budget.num_heads,
        num_key_value_heads=max(1, budget.num_heads // 2),
        max_position_embeddings=512,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model: Any = LlamaForCausalLM(config)
    return model.eval()


def build_arm(name: str, model: Any, task: Task, budget: Budget) -> Any:
    """An arm on a model; see REGIMES."""
    tokenizer = TaskTokens(task.vocab_size)
    options: dict[str, Any] = {"window": budget.window, "top_k": budget.top_k}
    if not task.group:
        options = {"window": "all", "top_k": 0, "trigger": task.rewrite_every, "consolidate_prompt": True}
    if name == "identity":
        return ConsolidatingArm(model, tokenizer, IdentityRewriter(model.config), options, first_step=task.first_step)
    plain = {"vanilla": "sft", "vanilla-larger": "sft"}
    arm: Any = make_arm(
        plain.get(name, name), model, tokenizer, sizes=_sizes(budget), options=options, bptt_steps=budget.bptt_steps
    )
    arm.first_step = task.first_step
    return arm


def train_run(regime: str, name: str, task: Task, budget: Budget, seed: int) -> dict[str, float]:
    """Train and score: {"accuracy@8": ..., ...} and, for processors, the same with changes of its size by lot."""
    torch.manual_seed(seed)
    model = build_model(task, budget)
    if name == "vanilla-larger":
        extra = CacheProcessor(model.config, **_sizes(budget)).num_parameters()
        torch.manual_seed(seed)
        model = build_model(task, budget, extra=extra)
    if regime == "frozen":
        backbone = build_arm("sft", model, task, budget)
        _train(backbone, list(model.parameters()), task, budget, seed)
    arm = build_arm(name, model, task, budget)
    if regime == "joint":
        model.requires_grad_(True)
    learned = {id(p): p for p in (*model.parameters(), *arm.module.parameters()) if p.requires_grad}
    if learned:
        _train(arm, list(learned.values()), task, budget, seed + 1000)
    scores = evaluate(arm, task, budget)
    if isinstance(arm.module, CacheProcessor):
        shuffled = replace(arm, module=RandomRewriter(arm.module, seed=seed))
        scores |= {f"{metric}, random rewrite": x for metric, x in evaluate(shuffled, task, budget).items()}
    return scores


def _sizes(budget: Budget) -> dict[str, Any]:
    return {"processor_dim": budget.processor_dim, "mlp_dim": budget.mlp_dim, "num_heads": budget.num_heads}


def _batches(task: Task, budget: Budget, seed: int) -> Iterator[list[Problem]]:
    """The same for every arm, drawn from the seed alone."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    for _ in range(budget.steps):
        num_lines = int(torch.randint(1, task.train_lines + 1, (), generator=generator))
        yield problems_of(task, budget.batch_size, num_lines, generator)


def _train(arm: Any, learned: list[nn.Parameter], task: Task, budget: Budget, seed: int) -> None:
    settings = CacheSettings(budget.steps, learning_rate=budget.lr, warmup_steps=budget.steps // 10)
    optimizer = torch.optim.AdamW(learned, lr=budget.lr, betas=(0.9, 0.98), weight_decay=0.01)
    for step, batch in enumerate(_batches(task, budget, seed)):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(step)
        optimizer.zero_grad(set_to_none=True)
        arm.score(batch, learn=True)
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()


@torch.no_grad()
def evaluate(arm: Any, task: Task, budget: Budget) -> dict[str, float]:
    """Accuracy on rows that are the same for every arm and seed.

    State tracking: of the states on lines n/2 + 1 to n, for each n of `test_lines`, all from texts of the longest.
    Multiplication: of digits, and of whole products.
    """
    generator = torch.Generator().manual_seed(77_000)
    problems = problems_of(task, budget.eval_rows, max(task.test_lines), generator)
    scored = [arm.score(batch, learn=False) for batch in in_batches(problems, budget.batch_size)]
    correct = torch.cat([s.correct for s in scored])[:, task.first_step :].double()
    tokens = torch.cat([s.tokens for s in scored])[:, task.first_step :]
    if not task.group:
        whole = (correct.sum(1) == tokens.sum(1)).double().mean().item()
        return {"digit accuracy": (correct.sum() / tokens.sum()).item(), "product accuracy": whole}
    return {f"accuracy@{n}": correct[:, n // 2 : n].mean().item() for n in task.test_lines}


def run_settings(regime: str, task: Task, budget: Budget, seed: int) -> dict[str, Any]:
    """All that fixes a run's result besides the arm and the code."""
    return {**asdict(task), "task": task.name, "regime": regime, **asdict(budget), "seed": seed}
