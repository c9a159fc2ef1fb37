"""Measure what any memory recognises, recalls and retains: a fine-tuned model, a layer's state, a store of dialogue.

    probe = FewShotMemory(study, foils={"novel": novel}, others=others)
    report = probe.run(FineTunedLM(model), exposures=(0, 1, 3, 10), updates=(1, 10, 100))

A memory is anything with `write(items)`, `score(item)` and `recall(cue)`; an item is a tuple of tokens or words.
"""

from .adapters import FineTunedLM, SearchedMemory, StateMemory
from .few_shot import FewShotMemory, Item, ProbedMemory, ProbeReport, ProbeRow, overlap

__all__ = [
    "FewShotMemory",
    "FineTunedLM",
    "Item",
    "ProbeReport",
    "ProbeRow",
    "ProbedMemory",
    "SearchedMemory",
    "StateMemory",
    "overlap",
]
