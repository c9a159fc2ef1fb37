"""Recognition, recall and retention of any memory after a few exposures (after A. E. Orhan, arXiv 2303.17557)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Protocol

Item = tuple[object, ...]
"""Tokens or words, at least two."""


class ProbedMemory(Protocol):
    """What a memory must offer to be probed. `score` and `recall` leave no trace in it.

    One that has `score_many(items)` and `recall_many(cues, lengths)` too, such as FineTunedLM, is asked all at once.
    """

    def write(self, items: Sequence[Item]) -> None:
        """Take these in once: one exposure."""

    def score(self, item: Item) -> float:
        """How familiar it is; higher is more."""

    def recall(self, cue: Item, length: int) -> Item:
        """`length` tokens that go on from the cue."""


@dataclass(frozen=True)
class ProbeRow:
    """One measurement.

    exposures: times that every studied item was written. updates: writes of other items since. recognition: by kind of
    foil, the share of pairs in which the studied item is more familiar (0.5 is chance). change: by kind of foil, the
    probability that familiarity grew more for a studied item than for a foil since before the first exposure, which
    removes how hard a sentence is. recall: overlap of the recalled second half with the true one, mean over items.
    recall_exact: share of items recalled without fault.
    """

    exposures: int
    updates: int
    recognition: Mapping[str, float]
    change: Mapping[str, float]
    recall: float
    recall_exact: float
    num_items: int


@dataclass(frozen=True)
class ProbeReport:
    """All rows of a run, in the order they were measured."""

    rows: list[ProbeRow] = field(default_factory=list)

    def table(self, scores: str = "recognition") -> tuple[list[str], list[list[str]]]:
        """Header and lines, ready to print: "recognition" with recall, or "change"."""
        if scores not in ("recognition", "change"):
            raise ValueError(f'scores must be "recognition" or "change"; got {scores!r}')
        kinds = list(self.rows[0].recognition) if self.rows else []
        header = ["exposures", "updates", *kinds, *(["recall", "exact"] if scores == "recognition" else [])]
        lines = []
        for row in self.rows:
            figures = list(getattr(row, scores).values())
            if scores == "recognition":
                figures += [row.recall, row.recall_exact]
            lines.append([str(row.exposures), str(row.updates), *(f"{figure:.2f}" for figure in figures)])
        return header, lines


class FewShotMemory:
    """Expose a memory to items a few times, then to other things, and ask after each what it still knows.

    Args:
        study: items to remember, at least two.
        foils: by kind ("novel", "synonym", ...), items never written, one for each studied item.
        others: items written afterwards, over and over from the first, to see what stays.
        cue_fraction: share of an item's tokens that is the cue; the score counts the rest only (the original counted
            the cue too, so that an untrained model scores above zero).

    Raises:
        ValueError: too few or too short items, foils of another number, a foil that is studied.
    """

    def __init__(
        self,
        study: Sequence[Item],
        *,
        foils: Mapping[str, Sequence[Item]],
        others: Sequence[Item] = (),
        cue_fraction: float = 0.5,
    ) -> None:
        if len(study) < 2:
            raise ValueError(f"study needs at least 2 items; got {len(study)}")
        if not 0 < cue_fraction < 1:
            raise ValueError(f"cue_fraction must be between 0 and 1; got {cue_fraction}")
        for item in study:
            if len(item) < 2:
                raise ValueError(f"every item needs a cue and something to recall, 2 tokens at least; got {item!r}")
        for kind, items in foils.items():
            if len(items) != len(study):
                raise ValueError(f"foils need one item for each of the {len(study)} studied; {kind!r} has {len(items)}")
            studied = set(study) & set(items)
            if studied:
                raise ValueError(f"a foil of {kind!r} is studied too: {next(iter(studied))!r}")
        self.study, self.foils, self.others, self.cue_fraction = list(study), dict(foils), list(others), cue_fraction

    def run(
        self,
        memory: ProbedMemory,
        *,
        exposures: Sequence[int] = (0, 1, 3, 10),
        updates: Sequence[int] = (),
        update_items: int = 8,
        progress: Callable[[str], object] | None = None,
    ) -> ProbeReport:
        """Measure at each number of exposures, then, after the last, at each number of updates with other items.

        exposures, updates: ascending. update_items: others written per update. progress: told what comes next.

        Raises: ValueError for numbers that do not ascend, or updates without `others`. The memory is changed.
        """
        for name, counts in (("exposures", exposures), ("updates", updates)):
            if any(a >= b for a, b in zip(counts, counts[1:], strict=False)) or any(count < 0 for count in counts):
                raise ValueError(f"{name} must ascend from 0 or more; got {tuple(counts)}")
        if updates and not self.others:
            raise ValueError("updates need other items to write: give others=")
        say = progress or (lambda text: None)
        before = self._scores(memory)
        report, written = ProbeReport(), 0
        for count in exposures:
            say(f"exposure {count}")
            for _ in range(count - written):
                memory.write(self.study)
            written = count
            report.rows.append(self._row(memory, before, written, 0))
        stream, done = cycle(self.others), 0
        for count in updates:
            say(f"update {count}")
            for _ in range(count - done):
                memory.write(list(islice(stream, update_items)))
            done = count
            report.rows.append(self._row(memory, before, written, done))
        return report

    def _row(self, memory: ProbedMemory, before: dict[str, list[float]], exposures: int, updates: int) -> ProbeRow:
        now = self._scores(memory)
        change = {kind: [a - b for a, b in zip(now[kind], before[kind], strict=True)] for kind in now}
        sizes = [self._cue_length(item) for item in self.study]
        cues = [item[:size] for item, size in zip(self.study, sizes, strict=True)]
        rests = [item[size:] for item, size in zip(self.study, sizes, strict=True)]
        overlaps = [overlap(a, b) for a, b in zip(_recalled(memory, cues, rests), rests, strict=True)]
        return ProbeRow(
            exposures=exposures,
            updates=updates,
            recognition={kind: _share_above(now[""], now[kind]) for kind in self.foils},
            change={kind: _area_under_curve(change[""], change[kind]) for kind in self.foils},
            recall=math.fsum(overlaps) / len(overlaps),
            recall_exact=sum(each == 1.0 for each in overlaps) / len(overlaps),
            num_items=len(self.study),
        )

    def _scores(self, memory: ProbedMemory) -> dict[str, list[float]]:
        """Familiarity of the studied items under "", and of every kind of foil under its name."""
        return {kind: _familiar(memory, items) for kind, items in {"": self.study, **self.foils}.items()}

    def _cue_length(self, item: Item) -> int:
        return min(len(item) - 1, max(1, round(self.cue_fraction * len(item))))


def overlap(found: Item, wanted: Item) -> float:
    """F1 of the longest common subsequence (ROUGE-L): 1 for the same, 0 for nothing in common or nothing found."""
    if not found or not wanted:
        return 0.0
    row = [0] * (len(wanted) + 1)
    for token in found:
        diagonal = 0
        for place, other in enumerate(wanted, 1):
            above = row[place]
            row[place] = diagonal + 1 if token == other else max(above, row[place - 1])
            diagonal = above
    return 2 * row[-1] / (len(found) + len(wanted))


def _familiar(memory: ProbedMemory, items: Sequence[Item]) -> list[float]:
    many = getattr(memory, "score_many", None)
    return many(items) if many else [memory.score(item) for item in items]


def _recalled(memory: ProbedMemory, cues: Sequence[Item], rests: Sequence[Item]) -> list[Item]:
    many = getattr(memory, "recall_many", None)
    lengths = [len(rest) for rest in rests]
    return many(cues, lengths) if many else [memory.recall(*pair) for pair in zip(cues, lengths, strict=True)]


def _share_above(seen: Sequence[float], foils: Sequence[float]) -> float:
    """Share of pairs in which the seen item wins; a tie is half a win."""
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(seen, foils, strict=True)]
    return math.fsum(wins) / len(wins)


def _area_under_curve(seen: Sequence[float], foils: Sequence[float]) -> float:
    """Probability that a seen item's number is above a foil's, over all pairs."""
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in seen for b in foils]
    return math.fsum(wins) / len(wins)
