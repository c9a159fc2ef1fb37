"""Processors that rewrite the key-value cache of transformers models at the end of every step of the text.

Importing this package does not load transformers; using it does.
"""

from .consolidate import Consolidation, Rewrite, consolidate
from .processor import CacheProcessor, EntryRewriter
from .reweaver import Reweaver, Reweaving, reweave
from .rewrite_picture import RewriteRecorder, draw_rewrites
from .shape import CacheShape
from .triggers import EveryTokensTrigger, NewlineTrigger

__all__ = [
    "CacheProcessor",
    "CacheShape",
    "Consolidation",
    "EntryRewriter",
    "EveryTokensTrigger",
    "NewlineTrigger",
    "Reweaver",
    "Reweaving",
    "Rewrite",
    "RewriteRecorder",
    "consolidate",
    "draw_rewrites",
    "reweave",
]
