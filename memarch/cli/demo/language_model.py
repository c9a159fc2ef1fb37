"""Act: a Yaad language model on real English, against attention of the same size, steps and batches."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table

from memarch.data import decode, default_text
from memarch.models import MemoryLMConfig, MemoryLMForCausalLM, match_num_parameters
from memarch.training import LMData, LMSettings, LMTrainer, TrainingResult, prepare_text

from ..errors import expected
from ..progress import TrainingProgress
from . import DemoOptions

TITLE = "a language model that remembers with Yaad"
CONFIG = MemoryLMConfig(vocab_size=1024, d_model=128, num_layers=4, num_heads=4, mixer="yaad", tokenizer="bpe")
SETTINGS = LMSettings(num_steps=400, batch_size=8, seq_len=256, learning_rate=2e-3)
PROMPTS = ("The value of", "When a class")
SAMPLE_TOKENS = 90
MEMORY_TOKENS = (1_000, 16_000)
MIN_STEPS = 20


@dataclass(frozen=True)
class Contestant:
    """A trained model with what the table shows of it."""

    name: str
    model: MemoryLMForCausalLM
    result: TrainingResult


def run(
    options: DemoOptions,
    console: Console,
    *,
    config: MemoryLMConfig = CONFIG,
    settings: LMSettings = SETTINGS,
    memory_tokens: tuple[int, ...] = MEMORY_TOKENS,
) -> None:
    """Train both, print samples and the table; the sizes are arguments for the tests."""
    with expected():
        data = prepare_text(default_text(), tokenizer="bpe", vocab_size=config.vocab_size)
    config = replace(config, vocab_size=data.tokenizer.vocab_size)
    torch.manual_seed(options.seed)
    memory = MemoryLMForCausalLM(config)
    attention_config = match_num_parameters(replace(config, mixer="attention"), memory.num_parameters())
    _say(console, f"Text: {data.source}: {data.train.numel():,} tokens to train on, the last tenth held out.")
    num_steps = options.steps or _steps_in(options.minutes, memory, data, settings)
    settings = replace(
        settings, num_steps=num_steps, warmup_steps=min(settings.warmup_steps, num_steps), seed=options.seed
    )
    seconds = "" if options.steps else f" (about {options.minutes:g} minutes here; --steps {num_steps} repeats them)"
    _say(console, f"Both models: {num_steps} steps of {settings.batch_size} x {settings.seq_len} tokens{seconds}.")

    torch.manual_seed(options.seed)
    attention = MemoryLMForCausalLM(attention_config)
    contestants = [
        Contestant(name, model, _train(name, model, data, settings, console))
        for name, model in ((config.mixer, memory), ("attention", attention))
    ]
    for contestant in contestants:
        for prompt in PROMPTS:
            text = _sample(contestant.model, data, prompt, options.seed)
            console.rule(f"{contestant.name}: {prompt} ...", style="dim")
            _say(console, text)
    console.print(_table(contestants, data, settings, memory_tokens))


def _steps_in(minutes: float, model: MemoryLMForCausalLM, data: LMData, settings: LMSettings) -> int:
    """Steps that fit into the budget, measured on a copy that is thrown away; at least `MIN_STEPS`."""
    trial = MemoryLMForCausalLM(model.config)
    warm, timed = 2, 4
    LMTrainer(trial, data, replace(settings, num_steps=warm, warmup_steps=0, max_eval_tokens=1)).run()
    start = time.perf_counter()
    LMTrainer(trial, data, replace(settings, num_steps=timed, warmup_steps=0, max_eval_tokens=1)).run()
    per_step = (time.perf_counter() - start) / timed
    steps = int(60 * minutes / per_step)
    return max(MIN_STEPS, steps // 10 * 10)


def _train(
    name: str, model: MemoryLMForCausalLM, data: LMData, settings: LMSettings, console: Console
) -> TrainingResult:
    return LMTrainer(model, data, settings, callbacks=[TrainingProgress(console, name)]).run()


def _sample(model: MemoryLMForCausalLM, data: LMData, prompt: str, seed: int) -> str:
    ids = torch.tensor([data.tokenizer.encode(prompt)])
    tokens = model.generate(ids, max_new_tokens=SAMPLE_TOKENS, temperature=0.7, top_k=40, seed=seed)
    return prompt + decode(data.tokenizer, (int(token) for token in tokens))


@torch.no_grad()
def _state_megabytes(model: MemoryLMForCausalLM, num_tokens: int) -> float:
    """What the model keeps of one sequence after `num_tokens` tokens."""
    state, block = None, 500
    for _ in range(0, num_tokens, block):
        state = model(torch.zeros(1, block, dtype=torch.int64), state).state
    assert state is not None
    return state.num_bytes() / 1e6


def _table(contestants: list[Contestant], data: LMData, settings: LMSettings, memory_tokens: tuple[int, ...]) -> Table:
    table = Table(title="Same text, size, steps and batches")
    for column in ("", *(contestant.name for contestant in contestants)):
        table.add_column(column, justify="right" if column else "left")

    def row(name: str, values: list[str]) -> None:
        table.add_row(name, *values)

    tokens = settings.batch_size * settings.seq_len
    results = [(c, c.result, c.result.evaluation) for c in contestants]
    row("parameters", [f"{c.model.num_parameters():,}" for c in contestants])
    row("steps", [f"{r.step}" for _, r, _ in results])
    row("training seconds", [f"{r.train_seconds:.0f}" for _, r, _ in results])
    row("training tokens/s", [f"{r.step * tokens / r.train_seconds:,.0f}" for _, r, _ in results])
    row("validation bits per byte", [f"{e.bits_per_byte:.3f}" for _, _, e in results if e])
    row("validation perplexity per token", [f"{e.perplexity:.2f}" for _, _, e in results if e])
    for count in memory_tokens:
        row(
            f"memory of a sequence after {count:,} tokens",
            [f"{_state_megabytes(c.model, count):.2f} MB" for c in contestants],
        )
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
