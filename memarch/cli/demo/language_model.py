"""Act: a Yaad language model on real English, against attention of the same size, steps and batches."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table

from memarch.data import decode, default_text
from memarch.models import MemoryLMConfig, MemoryLMForCausalLM, match_num_parameters
from memarch.training import LMData, LMSettings, LMTrainer, StepReport, TrainerCallback, TrainingResult, prepare_text

from ..errors import expected
from ..progress import TrainingProgress
from . import DemoOptions

TITLE = "a language model that remembers with Yaad"
CONFIG = MemoryLMConfig(vocab_size=1024, d_model=128, num_layers=4, num_heads=4, mixer="yaad", tokenizer="bpe")
SETTINGS = LMSettings(num_steps=400, batch_size=8, seq_len=256, learning_rate=2e-3)
PROMPTS = ("The value of", "When a class")
SAMPLE_TOKENS = 90
MEMORY_TOKENS = (1_000, 16_000)
MIN_STEPS = 100


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
    seconds_per_step = 0.0 if options.steps else _seconds_per_step(memory, data, settings)
    num_steps = options.steps or _steps_in(options.minutes, seconds_per_step)
    settings = replace(
        settings, num_steps=num_steps, warmup_steps=min(settings.warmup_steps, num_steps), seed=options.seed
    )
    batch = f"{settings.batch_size} x {settings.seq_len} tokens"
    _say(console, f"Both models: {num_steps} steps of {batch}{_estimate(options, num_steps, seconds_per_step)}.")

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


class _StepTimes(TrainerCallback):
    """Collects how long every step took."""

    def __init__(self, tokens_per_step: int) -> None:
        self.tokens_per_step, self.seconds = tokens_per_step, list[float]()

    def on_step(self, report: StepReport) -> None:
        self.seconds.append(self.tokens_per_step / report.tokens_per_second)


def _seconds_per_step(model: MemoryLMForCausalLM, data: LMData, settings: LMSettings) -> float:
    """Median over a few steps, after two to warm up, on a copy that is thrown away: one hiccup does not decide."""
    times = _StepTimes(settings.batch_size * settings.seq_len)
    trial = replace(settings, num_steps=9, warmup_steps=0, max_eval_tokens=1)
    LMTrainer(MemoryLMForCausalLM(model.config), data, trial, callbacks=[times]).run()
    return statistics.median(times.seconds[2:])


def _steps_in(minutes: float, seconds_per_step: float) -> int:
    """Steps that fit into the budget, in tens; at least `MIN_STEPS`, or nothing is learned."""
    return max(MIN_STEPS, int(60 * minutes / seconds_per_step) // 10 * 10)


def _estimate(options: DemoOptions, num_steps: int, seconds_per_step: float) -> str:
    """What the steps will take, from the measurement and not from the wish."""
    if options.steps:
        return ""
    minutes = num_steps * seconds_per_step / 60
    over = (
        f", more than the {options.minutes:g} asked for: fewer teach nothing" if minutes > 1.1 * options.minutes else ""
    )
    return f" (about {minutes:.1f} minutes for {CONFIG.mixer} here{over}; --steps {num_steps} repeats them)"


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
