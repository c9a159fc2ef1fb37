"""`memarch info`: what is in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import expected


def info(checkpoint: Annotated[Path, typer.Argument(help="A run directory, or one checkpoint in it.")]) -> None:
    """Print a checkpoint's model, size, training and last evaluation; reads, and so checks, its files."""
    from memarch.data import load_tokenizer
    from memarch.models import MemoryLMForCausalLM
    from memarch.models.storage import read_json
    from memarch.training import resolve_checkpoint

    with expected():
        directory = resolve_checkpoint(checkpoint)
        model = MemoryLMForCausalLM.from_pretrained(directory)
        load_tokenizer(directory, model.config.tokenizer)
        trainer = directory / "trainer.json"
        progress: dict[str, Any] = read_json(trainer) if trainer.exists() else {}
    rows: dict[str, Any] = {"checkpoint": directory, "parameters": f"{model.num_parameters():,}"}
    rows |= {name: value for name, value in model.config.to_json().items() if name != "model_type"}
    rows["layers"] = " ".join(model.config.layer_mixers())
    if progress:
        settings = progress.get("settings") or {}
        rows["step"] = f"{progress.get('step')} of {settings.get('num_steps')}"
        rows["train_seconds"] = f"{progress.get('train_seconds', 0):.1f}"
        rows["text"] = progress.get("source")
        rows |= {f"validation_{name}": value for name, value in (progress.get("evaluation") or {}).items()}
    width = max(map(len, rows))
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")
