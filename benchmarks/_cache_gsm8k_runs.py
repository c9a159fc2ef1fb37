"""Runs of `benchmarks.cache_gsm8k`: fine-tuning once, then each arm and seed; scores of every test problem are kept.

P test problems, N steps.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memarch.cache import CacheProcessor
from memarch.cache.controls import IdentityRewriter, RandomRewriter
from memarch.cache.training import CacheSettings, CacheTrainer
from memarch.cache.training_arms import ConsolidatingArm, make_arm, without_bars
from memarch.cache.training_data import Problem, Problems, in_batches
from memarch.models.storage import json_writer, read_json, read_tensors, tensors_writer, write_files

BASELINE, RANDOM = "identity", "random-rewrite"
RUN_FILE = "run.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What fixes the result besides the data and the code; see the options of `benchmarks.cache_gsm8k`."""

    sft_steps: int
    steps: int
    batch_size: int
    sft_lr: float
    lr: float
    processor_dim: int
    mlp_dim: int
    num_heads: int
    top_k: int
    bptt_steps: int
    max_test: int
    dtype: str


@dataclass(frozen=True)
class ProblemScores:
    """`nats` float64 and `tokens` int64, both `[P, N]`: negative log-likelihood of the steps, and their size."""

    nats: Tensor
    tokens: Tensor


class Lab:
    """Trains and scores in a directory, and does nothing twice.

    Args:
        out: where the fine-tuned model and the scores are kept.
        plan: see `Plan`.
        folder: of the transformers model.
        tokenizer: the model's.
        train: problems to learn from.
        test: problems to score.
        device: where to.

    Raises: ValueError if the directory holds runs of another plan or other problems.
    """

    def __init__(
        self, out: Path, plan: Plan, folder: Path, tokenizer: Any, train: Problems, test: Problems, device: str
    ) -> None:
        self.out, self.plan, self.folder, self.tokenizer = out, plan, folder, tokenizer
        self.train, self.device = train, device
        self.test = Problems(test.source, test.items[: plan.max_test or None])
        wanted = {**asdict(plan), "train": train.digest, "test": self.test.digest}
        if (out / RUN_FILE).exists():
            if read_json(out / RUN_FILE) != wanted:
                raise ValueError(f"{out} holds runs with other options or data: choose another --out, or remove it")
        else:
            write_files(out, {RUN_FILE: json_writer(wanted)})

    def backbone(self) -> Any:
        """The fine-tuned model, fresh from its file; fine-tuned first if that is not done yet."""
        if not self.plan.sft_steps:
            return self._load(self.folder)
        settings = CacheSettings(
            self.plan.sft_steps,
            batch_size=self.plan.batch_size,
            learning_rate=self.plan.sft_lr,
            save_every=100,
            max_eval_problems=32,
        )
        stage, last = self.out / "sft", self.out / "sft" / f"step-{self.plan.sft_steps:06d}"
        if not last.exists():
            arm = make_arm("sft", self._load(self.folder), self.tokenizer)
            trainer = CacheTrainer(arm, self.train, self.test, settings, out_dir=stage)
            if (stage / "latest").exists():
                trainer.restore(stage)
            trainer.run()
        return self._load(last)

    def scores(self, name: str, seed: int) -> dict[str, ProblemScores]:
        """By arm: the one trained, and for a processor the same with its changes' size in directions by lot."""
        path = self.out / f"scores-{name}-{seed}.safetensors"
        if not path.exists():
            found = self._run(name, seed)
            tensors = {f"{arm}/{part}": getattr(s, part) for arm, s in found.items() for part in ("nats", "tokens")}
            write_files(self.out, {path.name: tensors_writer(tensors)})
        tensors = read_tensors(path)
        arms = sorted({key.partition("/")[0] for key in tensors})
        return {arm: ProblemScores(tensors[f"{arm}/nats"], tensors[f"{arm}/tokens"]) for arm in arms}

    def _run(self, name: str, seed: int) -> dict[str, ProblemScores]:
        plan, model = self.plan, self.backbone()
        torch.manual_seed(seed)
        options = {"top_k": plan.top_k}
        if name == BASELINE:
            rewriter = IdentityRewriter(model.config).to(self.device)
            return {name: self._score(ConsolidatingArm(model, self.tokenizer, rewriter, options))}
        sizes = {"processor_dim": plan.processor_dim, "mlp_dim": plan.mlp_dim, "num_heads": plan.num_heads}
        arm: Any = make_arm(name, model, self.tokenizer, sizes=sizes, options=options, bptt_steps=plan.bptt_steps)
        settings = CacheSettings(
            plan.steps,
            batch_size=plan.batch_size,
            learning_rate=plan.sft_lr if name == "sft" else plan.lr,
            max_eval_problems=32,
            seed=seed,
        )
        CacheTrainer(arm, self.train, self.test, settings).run()
        found = {name: self._score(arm)}
        if name == "processor" and isinstance(arm.module, CacheProcessor):
            found[RANDOM] = self._score(replace(arm, module=RandomRewriter(arm.module, seed=seed)))
        return found

    def _score(self, arm: Any) -> ProblemScores:
        return score_problems(arm, self.test.items, batch_size=self.plan.batch_size)

    def _load(self, folder: Path) -> Any:
        from transformers import AutoModelForCausalLM

        with without_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, self.plan.dtype))
        return model.to(self.device).eval()


def score_problems(arm: Any, problems: Sequence[Problem], *, batch_size: int) -> ProblemScores:
    """Every problem's steps, in the order given."""
    width = max(len(p.steps) for p in problems)
    nats, tokens = torch.zeros(len(problems), width, dtype=torch.float64), torch.zeros(len(problems), width).long()
    done = 0
    for batch in in_batches(problems, batch_size):
        scores = arm.score(batch, learn=False)
        at = slice(done, done + len(batch))
        nats[at, : scores.nats.shape[1]], tokens[at, : scores.tokens.shape[1]] = scores.nats, scores.tokens
        done += len(batch)
    return ProblemScores(nats, tokens)


def paired_difference(
    arm: Sequence[ProblemScores], baseline: ProblemScores, steps: slice, *, resamples: int = 2000
) -> tuple[float, float, float]:
    """Nats a token that the arm needs more than the baseline in these steps: mean, and its bootstrap 95 % interval.

    Problems are resampled; an arm's scores of several seeds are averaged first.
    Raises: ValueError if no problem has such a step.
    """
    nats = torch.stack([s.nats[:, steps].sum(1) for s in arm]).mean(0) - baseline.nats[:, steps].sum(1)
    tokens = baseline.tokens[:, steps].sum(1)
    nats, tokens = nats[tokens > 0], tokens[tokens > 0]
    if not len(tokens):
        raise ValueError("no problem has a token in these steps")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(tokens), (resamples, len(tokens)), generator=generator)
    means = nats[drawn].sum(1) / tokens[drawn].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return (nats.sum() / tokens.sum()).item(), low, high
