"""Problems and arms small enough for tests, and a tokenizer of whole characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from memarch.cache.training import CacheSettings, CacheTrainer
from memarch.cache.training_arms import make_arm
from memarch.cache.training_data import Problems, load_problems

from ._tiny_models import make_model

CHARACTERS = "\0\1\2\n0123456789+=#. abcdefghij"
SIZES = {"processor_dim": 12, "mlp_dim": 8, "num_heads": 2}


class CharacterTokenizer:
    """A token a character; 0 is padding, 2 the end of the text."""

    pad_token_id, eos_token_id = 0, 2

    def __len__(self) -> int:
        return len(CHARACTERS)

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1] * add_special_tokens + [CHARACTERS.index(c) for c in text]}

    def save_pretrained(self, directory: Path) -> None:
        """Nothing to write."""

    def decode(self, ids: list[int]) -> str:
        """Back to text."""
        return "".join(CHARACTERS[i] for i in ids)

    def batch_decode(self, ids: list[list[int]], **options: Any) -> list[str]:
        """Back to texts."""
        return [self.decode(row) for row in ids]


def write_problems(path: Path, *, count: int = 24, seed: int = 0) -> Path:
    """Sums, a step a line."""
    g = torch.Generator().manual_seed(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            numbers = torch.randint(0, 9, (int(torch.randint(2, 5, (), generator=g)),), generator=g).tolist()
            total, lines = 0, []
            for n in numbers:
                lines.append(f"{total}+{n}=<<{total}+{n}={total + n}>>{total + n}")
                total += n
            value = {"question": "+".join(map(str, numbers)), "answer": "\n".join([*lines, f"#### {total}"])}
            file.write(json.dumps(value) + "\n")
    return path


def tiny_problems(folder: Path, **options: Any) -> Problems:
    """Read from a file just written."""
    return load_problems(write_problems(folder / "problems.jsonl", **options), CharacterTokenizer())


def tiny_arm(name: str, *, seed: int = 0, bptt_steps: int = 1, **options: Any) -> Any:
    """On a fresh tiny backbone."""
    model = make_model("llama")
    torch.manual_seed(seed)
    options = {"top_k": 4} | options
    return make_arm(name, model, CharacterTokenizer(), sizes=SIZES, options=options, bptt_steps=bptt_steps)


def tiny_trainer(arm: Any, problems: Problems, out_dir: Path | None = None, **settings: Any) -> CacheTrainer:
    """Four steps."""
    chosen = CacheSettings(**{"num_steps": 4, "batch_size": 5, "warmup_steps": 1, "max_eval_problems": 6, **settings})
    return CacheTrainer(arm, problems, problems, chosen, out_dir=out_dir)
