"""`memarch generate`: continue a prompt, token by token, as the model goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .errors import INTERRUPTED, USAGE, expected, fail


def generate(
    checkpoint: Annotated[Path, typer.Argument(help="A run directory, or one checkpoint in it.")],
    prompt: Annotated[str, typer.Option(help="The text to continue.")],
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Keep the k most likely tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the most likely tokens that make up p.")] = None,
    seed: Annotated[int | None, typer.Option(help="For the same text every time.")] = None,
) -> None:
    """Continue a prompt; the text streams, and memory per token stays constant (but for full attention)."""
    import torch

    from memarch.data import decode_stream, load_tokenizer
    from memarch.models import MemoryLMForCausalLM
    from memarch.models.sampling import check_sampling
    from memarch.training import resolve_checkpoint

    with expected(ValueError, code=USAGE):
        check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        if max_tokens < 0:
            raise ValueError(f"--max-tokens must be at least 0; got {max_tokens}")
        _check_prompt(prompt)
    with expected():
        directory = resolve_checkpoint(checkpoint)
        model = MemoryLMForCausalLM.from_pretrained(directory)
        tokenizer = load_tokenizer(directory, model.config.tokenizer)
    tokens = model.generate(
        torch.tensor([tokenizer.encode(prompt)]),
        max_new_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    pieces = decode_stream(tokenizer, (int(token) for token in tokens))
    _write(prompt, pieces)


def _check_prompt(prompt: str) -> None:
    if not prompt:
        raise ValueError('--prompt is empty: give the model something to continue, for example --prompt "The"')
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"--prompt is not valid UTF-8: {error.reason}") from error


def _write(prompt: str, pieces: Iterator[str]) -> None:
    try:
        sys.stdout.write(prompt)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has enough; without this the interpreter complains once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
