"""Questions with answers of several lines, cut into steps, in batches that go through their steps together.

A step begins with the token that ended the one before (its text has a newline), because a rewriting happens before that
token is processed. Rows of a batch have steps of unequal lengths: each step is padded to the longest, on the right.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .triggers import NewlineTrigger

IGNORE = -100
_ANNOTATION = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Problem:
    """Token ids: `steps[0]` is the question, the others are the answer's; `num_bytes` of the answer's text by step.

    `labels`, of the same shape, is what each token should predict where that is not the next one; `IGNORE` is nothing.
    """

    steps: tuple[tuple[int, ...], ...]
    num_bytes: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class Problems:
    """What a `CacheTrainer` trains on. digest: SHA-256 of tokens; a resumed training must see the same."""

    source: str
    items: tuple[Problem, ...]

    @property
    def digest(self) -> str:
        """Changes with any token or label."""
        seen = [p.steps if p.labels is None else (p.steps, p.labels) for p in self.items]
        return hashlib.sha256(repr(seen).encode()).hexdigest()


@dataclass(frozen=True)
class Step:
    """One stretch of all rows of a batch.

    Attributes:
        ids: `[B, w]` int64.
        mask: `[B, w]` bool, real tokens; a row without any has no such step.
        positions: `[B, w]` int64.
        labels: `[B, w]` int64, the token that follows each, or `IGNORE`.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Step:
        """The same on a device."""
        return Step(*(x.to(device) for x in (self.ids, self.mask, self.positions, self.labels)))


def load_problems(path: str | Path, tokenizer: Any, *, max_tokens: int = 512) -> Problems:
    """Read a JSON Lines file of `{"question": ..., "answer": ...}`, such as GSM8K's, or `train.jsonl` of a directory.

    GSM8K's calculator annotations (<<1+1=2>>) are left out, and so are problems of more than `max_tokens` tokens.

    Raises:
        OSError: there is no such file.
        ValueError: a line is something else, or no problem is left.
    """
    path = Path(path)
    path = path / "train.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: give a JSON Lines file of questions and answers; GSM8K's train.jsonl and "
            "test.jsonl are at github.com/openai/grade-school-math"
        )
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            value = json.loads(line)
            question, answer = value["question"], value["answer"]
            if not (isinstance(question, str) and isinstance(answer, str) and answer.strip()):
                raise KeyError("answer")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path} line {number} should be {{"question": "...", "answer": "..."}}; got {line[:80]!r}'
            ) from error
        items.append(encode(question, _ANNOTATION.sub("", answer), tokenizer))
    kept = tuple(p for p in items if sum(map(len, p.steps)) <= max_tokens)
    if not kept:
        raise ValueError(f"{path} has no problem of at most {max_tokens} tokens among its {len(items)}")
    return Problems(f"{path} ({len(kept)} of {len(items)} problems)", kept)


def encode(question: str, answer: str, tokenizer: Any) -> Problem:
    """A question, a newline, and an answer that ends with the end-of-text token; cut before tokens with a newline."""
    ends = NewlineTrigger(tokenizer).table
    prompt = tokenizer(question.strip() + "\n")["input_ids"]
    ids = tokenizer(answer.strip(), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    steps: list[list[int]] = [[]]
    for token in ids:
        if steps[-1] and token < len(ends) and bool(ends[token]):
            steps.append([])
        steps[-1].append(token)
    texts = [tokenizer.decode([t for t in s if t != tokenizer.eos_token_id]) for s in steps]
    return Problem((tuple(prompt), *map(tuple, steps)), (0, *(len(t.encode("utf-8")) for t in texts)))


def collate(problems: Sequence[Problem], pad: int) -> list[Step]:
    """The steps of a batch: the questions padded on the left, every later step on the right."""
    count = max(len(p.steps) for p in problems)
    done = [0] * len(problems)
    batch = []
    for n in range(count):
        rows = [p.steps[n] if n < len(p.steps) else () for p in problems]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), pad)
        labels = torch.full((len(rows), width), IGNORE)
        positions = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for b, (problem, row) in enumerate(zip(problems, rows, strict=True)):
            if not row:
                continue
            at = slice(width - len(row), width) if n == 0 else slice(len(row))
            ids[b, at], mask[b, at] = torch.tensor(row), True
            positions[b, at] = torch.arange(done[b], done[b] + len(row))
            done[b] += len(row)
            follows = problem.steps[n + 1][0] if n + 1 < len(problem.steps) else IGNORE
            target = [*row[1:], follows] if n else [IGNORE] * (len(row) - 1) + [follows]
            labels[b, at] = torch.tensor(target if problem.labels is None else problem.labels[n])
        batch.append(Step(ids, mask, positions, labels))
    return batch


class ProblemBatches:
    """Batches without end, every problem once an epoch, those of like length together; the order is the seed's.

    Raises: ValueError if there are fewer problems than a batch has.
    """

    def __init__(self, problems: Problems, batch_size: int, *, seed: int) -> None:
        if len(problems.items) < batch_size:
            raise ValueError(f"batch_size {batch_size} needs as many problems; {problems.source} has too few")
        self.problems, self.batch_size, self.seed = problems, batch_size, seed
        self.epoch, self.position = 0, 0

    def next(self) -> list[Problem]:
        """The next batch."""
        order = self._order()
        if self.position >= len(order):
            self.epoch, self.position = self.epoch + 1, 0
            order = self._order()
        self.position += 1
        return [self.problems.items[i] for i in order[self.position - 1]]

    def state(self) -> dict[str, int]:
        """What `restore` needs."""
        return {"epoch": self.epoch, "position": self.position}

    def restore(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken."""
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def _order(self) -> list[list[int]]:
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        shuffled = torch.randperm(len(self.problems.items), generator=g).tolist()
        size = self.batch_size
        pool = 8 * size
        ordered = [
            i for at in range(0, len(shuffled), pool) for i in sorted(shuffled[at : at + pool], key=self._length)
        ]
        batches = [ordered[at : at + size] for at in range(0, len(ordered) - size + 1, size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=g).tolist()]

    def _length(self, i: int) -> tuple[int, int]:
        steps = self.problems.items[i].steps
        return len(steps), sum(map(len, steps))


def in_batches(problems: Sequence[Problem], size: int) -> Iterator[Sequence[Problem]]:
    """All of them, in order."""
    for at in range(0, len(problems), size):
        yield problems[at : at + size]
