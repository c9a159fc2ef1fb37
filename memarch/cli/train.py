"""`memarch train lm`: train a language model on text files, or go on with one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._training_runs import run_callbacks, run_trainer, say, usable_device, was_given
from .errors import USAGE, expected, fail

if TYPE_CHECKING:
    from rich.console import Console

    from memarch.training import LMTrainer

RESUME_OPTIONS = ("data", "steps", "out", "resume", "device")


def train_lm(
    ctx: typer.Context,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="UTF-8 text files, as many as you like; without it, the Python language reference."),
    ] = None,
    memory: Annotated[str, typer.Option(help="yaad, moneta, memora, attention, gated-deltanet, ...")] = "yaad",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 400,
    d_model: Annotated[int, typer.Option(help="Width of the model.")] = 128,
    num_layers: Annotated[int, typer.Option(help="Layers.")] = 4,
    num_heads: Annotated[int, typer.Option(help="Heads per layer.")] = 4,
    chunk_size: Annotated[int, typer.Option(help="Tokens per memory update; part of the model.")] = 16,
    attention_every: Annotated[int | None, typer.Option(help="Hybrid: each k-th layer is windowed attention.")] = None,
    window_tokens: Annotated[int | None, typer.Option(help="Window of the attention layers.")] = None,
    batch_size: Annotated[int, typer.Option(help="Sequences per step.")] = 8,
    seq_len: Annotated[int, typer.Option(help="Tokens per sequence.")] = 256,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    tokenizer: Annotated[str, typer.Option(help="byte, or bpe trained on the text.")] = "bpe",
    vocab_size: Annotated[int, typer.Option(help="Tokens of a bpe tokenizer.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of the initial weights and of the order of the data.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Directory of the run; default runs/lm-MEMORY.")] = None,
    eval_every: Annotated[int, typer.Option(help="Steps between evaluations; 0: at the end only.")] = 100,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0: at the end only.")] = 100,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this directory.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")] = "auto",
) -> None:
    """Train a language model on real text.

    memarch train lm --data texts/*.txt --memory yaad --steps 400

    Ctrl-C saves a checkpoint; --resume goes on from it as if nothing had happened.
    """
    from rich.console import Console

    from memarch.data import TextSource, default_text, load_text
    from memarch.models import MemoryLMConfig, MemoryLMForCausalLM
    from memarch.training import LMSettings, LMTrainer, prepare_text

    if resume is not None:
        _resume(ctx, resume, data, steps, out, device)
        return
    with expected(ValueError, code=USAGE):
        settings = LMSettings(
            steps, batch_size, seq_len, lr, min(20, steps), eval_every=eval_every, save_every=save_every, seed=seed
        )
        place = usable_device(device)
        # Checked before the text is read and a tokenizer trained; the vocabulary's true size comes with them.
        sizes: dict[str, Any] = {
            "d_model": d_model,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "mixer": memory,
            "chunk_size": chunk_size,
            "window_tokens": window_tokens,
            "attention_every": attention_every,
            "tokenizer": tokenizer,
        }
        MemoryLMConfig(vocab_size, **sizes)
        if tokenizer == "bpe" and vocab_size < 257:
            raise ValueError(f"--vocab-size of a bpe tokenizer must be at least 257; got {vocab_size}")
    run_dir = out or Path("runs") / f"lm-{memory}"
    if (run_dir / "latest").exists():
        fail(f"{run_dir} already holds a training: go on with --resume {run_dir}, or choose another --out", USAGE)
    with expected():
        source: TextSource = load_text(data) if data else default_text()
        prepared = prepare_text(source, tokenizer=tokenizer, vocab_size=vocab_size)
        import torch

        torch.manual_seed(seed)
        model = MemoryLMForCausalLM(MemoryLMConfig(prepared.tokenizer.vocab_size, **sizes)).to(place)
        console = Console()
        callbacks = run_callbacks(run_dir, memory, console)
        trainer = LMTrainer(
            model,
            prepared,
            settings,
            out_dir=run_dir,
            callbacks=callbacks,
            notes={"data": [str(path.resolve()) for path in data or []]},
        )
    say(
        console,
        f"text: {prepared.source}, {len(source.text):,} characters, {prepared.train.numel():,} tokens to train on",
    )
    say(console, f"model: {memory}, {model.num_parameters():,} parameters, on {place}; run: {run_dir}")
    _run(trainer, console, run_dir)


def _resume(
    ctx: typer.Context, run_dir: Path, data: list[Path] | None, steps: int, out: Path | None, device: str
) -> None:
    from rich.console import Console

    from memarch.data import default_text, load_text, load_tokenizer
    from memarch.models.storage import read_json
    from memarch.training import LMTrainer, latest_checkpoint, prepare_text

    given = [name for name in ctx.params if was_given(ctx, name)]
    fixed = [name for name in given if name not in RESUME_OPTIONS]
    if fixed:
        option = "--" + fixed[0].replace("_", "-")
        fail(
            f"{option} is stored in the run; a resumed one takes --steps, --device and --data only: drop {option}",
            USAGE,
        )
    if out is not None and out.resolve() != run_dir.resolve():
        fail(f"a resumed run stays in {run_dir}; got --out {out}: drop --out", USAGE)
    with expected(ValueError, code=USAGE):
        place = usable_device(device)
    with expected():
        checkpoint = latest_checkpoint(run_dir)
        config = read_json(checkpoint / "config.json")
        notes = read_json(checkpoint / "trainer.json").get("notes", {})
        paths = data or [Path(path) for path in notes.get("data", [])]
        source = load_text(paths) if paths else default_text()
        tokenizer = load_tokenizer(checkpoint, str(config.get("tokenizer")))
        console = Console()
        callbacks = run_callbacks(run_dir, str(config.get("mixer")), console)
        trainer = LMTrainer.resume(
            run_dir,
            prepare_text(source, tokenizer=tokenizer),
            num_steps=steps if "steps" in given else None,
            device=place,
            callbacks=callbacks,
        )
    say(console, f"resuming {checkpoint} at step {trainer.step} of {trainer.settings.num_steps}")
    _run(trainer, console, run_dir)


def _run(trainer: LMTrainer, console: Console, run_dir: Path) -> None:
    run_trainer(trainer, console, resume=f"memarch train lm --resume {run_dir}")
    say(console, f'done; try: memarch generate {run_dir} --prompt "The"')
