"""The prompts of the ablation: no memory, the last tokens, compact only, vector only, both; and who is asked what."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks._dialogue_lives import RETRIEVED, Life
from benchmarks._dialogue_locomo import Conversation, Question
from benchmarks._dialogue_prompts import RECENT, WINDOW, Coverage, lines_of
from memarch.dialogue.budget import Budget
from memarch.dialogue.generators.base import Generator
from memarch.dialogue.prompt import Prompt, compose
from memarch.dialogue.records import Hit, Turn

SYSTEM = "Answer with one short phrase, not a sentence. If it was not said, answer: not mentioned."
NO_MEMORY, LAST, COMPACT, VECTOR, BOTH = "no memory", f"last {WINDOW:,} tokens", "compact only", "vector only", "both"
EVIDENCE = "evidence alone"
ARMS = (NO_MEMORY, LAST, COMPACT, VECTOR, BOTH, EVIDENCE)


@dataclass(frozen=True)
class Asked:
    """A question as one arm asks it; evidence: share of it that the prompt states."""

    question: Question
    prompt: Prompt
    evidence: float


def sample(conversations: Sequence[Conversation], count: int, *, seed: int) -> list[list[int]]:
    """Numbers of the questions to ask of each conversation: `count` in all, or all of them for 0.

    Every (conversation, category) gives its share. Those of a smaller sample are among those of a larger one with the
    same seed, and come first, so that answers are of use again.
    """
    rng = random.Random(seed)
    places: list[tuple[float, int, int]] = []
    for number, conversation in enumerate(conversations):
        for category in sorted({question.category for question in conversation.questions}):
            group = [i for i, q in enumerate(conversation.questions) if q.category == category]
            rng.shuffle(group)
            offset = rng.random()
            places += [((rank + offset) / len(group), number, i) for rank, i in enumerate(group)]
    chosen: list[list[int]] = [[] for _ in conversations]
    for _, number, i in sorted(places)[: count or None]:
        chosen[number].append(i)
    return chosen


class Prompts:
    """Prompts about one conversation that a memory has lived through, for one model."""

    def __init__(self, life: Life, conversation: Conversation, generator: Generator) -> None:
        self._memory, self._conversation, self._generator = life.memory, conversation, generator
        self._summary, self._recent = life.memory.summary(), life.memory.turns(last=RECENT)
        self._measure = Coverage()
        self._windows: dict[int, list[Turn]] = {}

    def ask(self, arm: str, question: Question, budget_tokens: int) -> Asked:
        """The prompt of one arm. AssertionError if it is over its budget."""
        prompt = self._compose(arm, question, budget_tokens)
        assert prompt.report.used_tokens <= budget_tokens, prompt.report
        bags = self._measure.bags(lines_of(prompt))
        states = [self._measure.covers(bags, self._conversation.chunks[place].text) for place in question.evidence]
        return Asked(question, prompt, sum(states) / len(states))

    def _compose(self, arm: str, question: Question, budget_tokens: int) -> Prompt:
        if arm == NO_MEMORY:
            return self._made(question.text, Budget(budget_tokens))
        if arm == LAST:
            return self._made(question.text, _only_recent(budget_tokens), recent=self._window(budget_tokens))
        if arm == EVIDENCE:
            turns = self._memory.store.turns(numbers=[place + 1 for place in question.evidence])
            return self._made(question.text, Budget(budget_tokens), hits=[_as_hit(turn) for turn in turns])
        compact = self._summary if arm in (COMPACT, BOTH) else ""
        hits = self._memory.search(question.text, RETRIEVED, note_use=False) if arm in (VECTOR, BOTH) else []
        return self._made(question.text, Budget(budget_tokens), compact=compact, hits=hits, recent=self._recent)

    def _window(self, budget_tokens: int) -> list[Turn]:
        """The last turns that fit under every question of the conversation: so all prompts begin alike, which a model
        need not read again."""
        if budget_tokens not in self._windows:
            count = self._generator.count_tokens
            turns, left = [], WINDOW
            for turn in reversed(self._memory.turns()):
                left -= count(f"{turn.role}: {turn.text}\n")
                if left < 0:
                    break
                turns.append(turn)
            longest = max((question.text for question in self._conversation.questions), key=count)
            report = self._made(longest, _only_recent(budget_tokens), recent=turns[::-1]).report.part("recent")
            whole = set(report.kept) - {trimmed.what for trimmed in report.trimmed}
            self._windows[budget_tokens] = [turn for turn in turns[::-1] if turn.source_id in whole]
        return self._windows[budget_tokens]

    def _made(
        self,
        question: str,
        budget: Budget,
        *,
        compact: str = "",
        hits: Sequence[Hit] = (),
        recent: Sequence[Turn] = (),
    ) -> Prompt:
        return compose(
            question,
            system=SYSTEM,
            compact=compact,
            hits=hits,
            recent=recent,
            budget=budget,
            count_tokens=self._generator.count_tokens,
            count_prompt=self._generator.count_prompt,
        )


def _only_recent(tokens: int) -> Budget:
    return Budget(tokens, compact=0.0, retrieved=0.0, recent=1.0)


def _as_hit(turn: Turn) -> Hit:
    """A turn as if a search had found it."""
    return Hit(
        text=turn.text, source_id=turn.source_id, score=1.0, parts={}, age_turns=0, session=turn.session,
        role=turn.role, time=turn.time, turn=turn.turn, chunk=turn.turn,
    )  # fmt: skip
