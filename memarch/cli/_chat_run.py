"""From options to a chat: open the memory, name the model, choose between terminal, pipe and replay."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ._chat_options import Options

if TYPE_CHECKING:
    from memarch.dialogue.generators.base import Generator
    from memarch.dialogue.memory import DialogueMemory

# A model takes seconds for a summary; the last turns are in the prompt anyway.
MODEL_SUMMARY_TURNS = 10


def run(options: Options) -> int:
    """Chat until the user leaves; the exit code."""
    from memarch.dialogue.generators.registry import open_generator

    generator = open_generator(options.model, timeout_seconds=options.timeout_seconds)
    with opened_memory(options, generator) as memory:
        if options.replay is not None:
            from rich.console import Console

            replay = importlib.import_module(f"{__package__}._chat_replay").replay
            return int(
                replay(
                    memory,
                    generator,
                    options.replay,
                    options.ask,
                    console=Console(),
                    budget_tokens=options.budget_tokens,
                    json=options.as_json,
                )
            )
        raise ValueError("not yet")


@contextmanager
def opened_memory(options: Options, generator: Generator) -> Iterator[DialogueMemory]:
    """The user's memory; with --no-log read-only, and where there is none an empty one that vanishes."""
    from memarch.dialogue.generators.base import summarizer_of
    from memarch.dialogue.memory import DialogueMemory
    from memarch.dialogue.stores import has_memory

    from ._memory_open import locate, use_embedder

    location = locate(options.path)
    with tempfile.TemporaryDirectory(prefix="memarch-") as nowhere:
        read_only = options.no_log and has_memory(location, options.user)
        with DialogueMemory(
            location if read_only or not options.no_log else nowhere,
            user=options.user,
            embedder="none",
            vectors=options.vectors,
            summarizer=summarizer_of(generator) if options.model_summaries else None,
            summary_every_turns=MODEL_SUMMARY_TURNS if options.model_summaries else 1,
            read_only=read_only,
        ) as memory:
            use_embedder(memory, options.embedder)
            yield memory
