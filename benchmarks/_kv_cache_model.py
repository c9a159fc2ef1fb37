"""Arms that need a language model: decoding with and without consolidation, and gradients of a batch."""

from collections.abc import Callable
from typing import Any

import torch

from memarch.cache import CacheProcessor, consolidate
from memarch.cache.controls import IdentityRewriter
from memarch.cache.training_arms import make_arm
from memarch.cache.training_data import Problem, encode


class _Characters:
    """A tokenizer for `--quick`."""

    pad_token_id, eos_token_id = 0, 1

    def __len__(self) -> int:
        return 128

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def batch_decode(self, ids: list[list[int]], **options: object) -> list[str]:
        return [self.decode(row) for row in ids]


def load_model(device: str, *, quick: bool) -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct in float32 (bfloat16 on a GPU), or a tiny random Llama, and its tokenizer."""
    if quick:
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes: dict[str, Any] = {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=128, num_key_value_heads=2, bos_token_id=0, eos_token_id=1, **sizes)
        tiny: Any = LlamaForCausalLM(config)
        return tiny.to(device).eval(), _Characters()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from memarch.dialogue.generators.smollm2 import download

    folder = download()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder)


def decode_arms(
    model: Any, tokenizer: Any, *, prompt_tokens: int, num_tokens: int, every: int
) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], int]]]:
    """Functions that decode `num_tokens` greedily, and what tells how many rewrites a run of an arm had."""
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(10, len(tokenizer), (1, prompt_tokens), generator=g).to(model.device)
    options = {"max_new_tokens": num_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    torch.manual_seed(0)
    rewriters: dict[str, Any] = {
        "identity": IdentityRewriter(model.config).to(model.device),
        "processor": CacheProcessor(model.config).to(model.device).requires_grad_(False),
    }
    counts: dict[str, int] = {}

    def plain() -> None:
        model.generate(**given, **options)

    def with_rewriter(name: str) -> Callable[[], None]:
        def run() -> None:
            with consolidate(model, rewriters[name], trigger=every) as c:
                model.generate(**given, **options, past_key_values=c.new_cache(), stopping_criteria=[c.criteria])
                counts[name] = c.num_rewrites

        return run

    arms: dict[str, Callable[[], object]] = {"plain": plain}
    arms |= {name: with_rewriter(name) for name in rewriters}
    return arms, {name: lambda name=name: counts[name] for name in rewriters}  # type: ignore[misc]


TRAINING_ARMS = {"sft": ("sft", 1), **{f"processor, bptt {n}": ("processor", n) for n in (1, 2, 8)}}
"""Arms of `make_arm` and their bptt steps, by the names that rows have."""


def training_arms(model: Any, tokenizer: Any) -> dict[str, Callable[[], object]]:
    """Functions that make the gradient of one batch of four problems of four lines.

    Arms share the backbone, so each says first which of its weights learn.
    """
    problems = _problems(4, tokenizer)
    torch.manual_seed(0)
    return {name: _learner(name, model, tokenizer, problems) for name in TRAINING_ARMS}


def training_step(
    name: str, model: Any, tokenizer: Any, *, num_problems: int, optimise: bool
) -> tuple[Callable[[], None], Callable[[], None]]:
    """What warms an arm up, without gradients, and its first step: the gradient and, if so wanted, AdamW's with it."""
    problems = _problems(num_problems, tokenizer)
    torch.manual_seed(0)
    arm = _arm(name, model, tokenizer)

    def warm_up() -> None:
        arm.score(problems[:1], learn=False)

    return warm_up, _learner(name, model, tokenizer, problems, arm=arm, optimise=optimise)


def _problems(count: int, tokenizer: Any) -> list[Problem]:
    lines = ["We have 12 apples and give away 5 of them.", "That leaves 12 - 5 = 7 apples.", "Each costs 3 coins."]
    lines += ["So all of them cost 7 x 3 = 21 coins."]
    return [
        encode(f"What do the apples cost, question {i}?", "\n".join(lines[i % 2 :] + lines[: i % 2]), tokenizer)
        for i in range(count)
    ]


def _arm(name: str, model: Any, tokenizer: Any) -> Any:
    kind, bptt_steps = TRAINING_ARMS[name]
    sizes = {"processor_dim": 128, "mlp_dim": 512, "num_heads": 4}
    return make_arm(kind, model, tokenizer, sizes=sizes, bptt_steps=bptt_steps)


def _learner(
    name: str, model: Any, tokenizer: Any, problems: list[Problem], *, arm: Any = None, optimise: bool = False
) -> Callable[[], None]:
    arm = _arm(name, model, tokenizer) if arm is None else arm

    def learn() -> None:
        model.requires_grad_(name == "sft")
        optimizer = torch.optim.AdamW(arm.module.parameters(), lr=1e-5) if optimise else None
        arm.score(problems, learn=True)
        if optimizer is not None:
            optimizer.step()
        arm.module.zero_grad(set_to_none=True)

    return learn
