"""The figure of a replay: recall by age of the evidence, and prompt tokens turn by turn."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memarch.dialogue.replay import Fed, Found


def check() -> None:
    """ImportError that says what to install, if matplotlib is not there."""
    _figure_class()


def draw(path: Path, found: Sequence[Found], fed: Fed, *, budget_tokens: int, title: str) -> None:
    """Write a PNG. Raises: ImportError without matplotlib; OSError."""
    from memarch.dialogue.replay import recall_by_age

    figure = _figure_class()(figsize=(11, 4.2), layout="constrained")
    recall, tokens = figure.subplots(1, 2)
    rows = recall_by_age(found)
    recall.bar(range(len(rows)), [100 * hits / pieces for _, _, hits, pieces in rows], 0.6)
    for place, (_, _, hits, pieces) in enumerate(rows):
        recall.annotate(
            f"{hits} of {pieces}", (place, 100 * hits / pieces), (0, 3), textcoords="offset points", ha="center"
        )
    recall.set_xticks(
        range(len(rows)), [f"{low:,}+" if high is None else f"{low:,}\u2013{high - 1:,}" for low, high, *_ in rows]
    )
    recall.set_ylim(0, 112)
    recall.set_xlabel("age of the evidence in turns")
    recall.set_ylabel("evidence in the prompt, percent")
    turns = [turn for turn, _, _ in fed.prompt_tokens]
    tokens.plot(turns, [used for _, used, _ in fed.prompt_tokens], label="prompt")
    tokens.plot(turns, [whole for _, _, whole in fed.prompt_tokens], "--", color="gray", label="whole dialogue")
    tokens.axhline(budget_tokens, color="black", linewidth=1, linestyle=":", label=f"budget of {budget_tokens:,}")
    tokens.set_ylim(0, 2 * budget_tokens)
    tokens.set_xlabel("turn of the dialogue")
    tokens.set_ylabel("tokens")
    tokens.legend(fontsize=8)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")


def _figure_class() -> Any:
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise ImportError(f"drawing needs matplotlib ({error}): pip install 'memarch[chat]'") from error
