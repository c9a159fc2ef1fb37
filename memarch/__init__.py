"""memarch: everything a model remembers, how it retains it, how it forgets it, and how to check.

    layer = memarch.Yaad(d_model=512, num_heads=8)
    y, state = layer(x)                     # x, y [B, T, 512]
    y, state = layer(more, state)           # any split of a sequence gives the same result

    memory = memarch.DialogueMemory("memories", user="ada")
    memory.search("Where does Nora live?")  # what was said in long dialogues

    with memarch.consolidate(model, memarch.CacheProcessor(model.config), tokenizer) as c:
        model.generate(**inputs, past_key_values=c.new_cache())  # its cache rewritten at every line

Importing memarch loads nothing else: the names below arrive on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memarch.cache import CacheProcessor, Reweaver, consolidate, reweave
    from memarch.dialogue.async_memory import AsyncDialogueMemory
    from memarch.dialogue.memory import DialogueMemory
    from memarch.layers import HCAM, Memora, Miras, Moneta, Yaad
    from memarch.ops import MirasRule, miras_memory

__version__ = "0.1.0"

__all__ = [
    "HCAM",
    "AsyncDialogueMemory",
    "CacheProcessor",
    "DialogueMemory",
    "Memora",
    "Miras",
    "MirasRule",
    "Moneta",
    "Reweaver",
    "Yaad",
    "__version__",
    "consolidate",
    "miras_memory",
    "reweave",
]

_HOME = {
    "HCAM": "memarch.layers",
    "AsyncDialogueMemory": "memarch.dialogue.async_memory",
    "CacheProcessor": "memarch.cache",
    "DialogueMemory": "memarch.dialogue.memory",
    "Memora": "memarch.layers",
    "Miras": "memarch.layers",
    "MirasRule": "memarch.ops",
    "Moneta": "memarch.layers",
    "Reweaver": "memarch.cache",
    "Yaad": "memarch.layers",
    "consolidate": "memarch.cache",
    "miras_memory": "memarch.ops",
    "reweave": "memarch.cache",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'memarch' has no attribute {name!r}; it has {', '.join(_HOME)}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
