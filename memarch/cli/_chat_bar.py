"""The budget as a bar: how much of a prompt each part takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from memarch.dialogue.budget import PromptReport
    from memarch.dialogue.prompt import Prompt
    from memarch.dialogue.session import Answer

# A sign and a colour a part: the signs alone tell them apart where there are no colours.
PARTS = {
    "system": ("█", "magenta"),
    "compact": ("▓", "cyan"),
    "retrieved": ("▒", "green"),
    "recent": ("░", "yellow"),
    "user": ("■", "blue"),
    "overhead": ("-", "dim"),
}
_FREE = "·"


def part_tokens(report: PromptReport) -> dict[str, int]:
    """Tokens of each part of a prompt in its order, what templates and tags add last."""
    return {part.name: part.used_tokens for part in report.parts} | {"overhead": max(0, report.overhead_tokens)}


def budget_bar(report: PromptReport, width: int) -> Text:
    """`width` signs for the whole budget; a part that is there has at least one."""
    from rich.text import Text

    text = Text()
    total = max(1, report.budget_tokens)
    done, drawn = 0, 0
    for name, tokens in part_tokens(report).items():
        if not tokens:
            continue
        done += tokens
        length = max(1, round(width * done / total) - drawn)
        length = max(0, min(length, width - drawn))
        sign, style = PARTS[name]
        text.append(sign * length, style=style)
        drawn += length
    return text.append(_FREE * (width - drawn), style="dim")


def status_line(answer: Answer, turn: int, prompt: Prompt, retrieval_ms: float, width: int) -> Text:
    """One line under an answer: turn, budget, memories, how long finding them and answering took."""
    from rich.text import Text

    report = prompt.report
    bar = budget_bar(report, 24 if width >= 100 else 12)
    count = len(prompt.hits)
    memories = f"{count} {'memory' if count == 1 else 'memories'}"
    speed = f"{answer.num_tokens} tokens in {answer.seconds:.1f} s"
    text = Text(no_wrap=True, overflow="ellipsis", style="dim")
    text.append(f"turn {turn} ").append_text(bar)
    text.append(f" {report.used_tokens:,} of {report.budget_tokens:,} · {memories} in {retrieval_ms:.0f} ms · {speed}")
    return text
