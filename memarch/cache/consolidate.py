"""Rewriting the key-value cache of a stock transformers model at the end of every step of its text.

    with memarch.consolidate(model, processor, tokenizer) as c:
        model.generate(**inputs, past_key_values=c.new_cache(), stopping_criteria=[c.criteria])

Inside, hooks on the model note what each forward pass puts into its cache, and rewrite it when the next token ends a
step: after that token is chosen, before it is processed. They hang on this model alone and are gone afterwards.
Training runs through the same hooks, segment by segment, so it equals inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from memarch.ops import attention_mass, cache_add, cache_gather

from ._following import follow, unfollow
from .checks import attention_modules, causal_lm, check_cache, check_model
from .processor import EntryRewriter
from .recorder import ForwardRecorder
from .selection import in_order, recent_slots, to_index, top_slots
from .tracker import CacheTracker
from .triggers import Trigger, make_trigger


@dataclass(frozen=True)
class Rewrite:
    """One rewriting, for whoever watches.

    Attributes:
        length: slots of the cache.
        rows: int64 `[N]`, the rows of the batch that were rewritten.
        index: int64 `[L, N, S]`, the slots rewritten, -1 for none.
        change: `[L, N, S, W]` (W/2 for values only), what was added to them, keys unrotated.
    """

    length: int
    rows: Tensor
    index: Tensor
    change: Tensor


@contextmanager
def consolidate(
    model: Any,
    processor: EntryRewriter,
    tokenizer: Any = None,
    *,
    window: str | int = "step",
    top_k: int = 32,
    select: str = "attention",
    trigger: str | int | Trigger = "newline",
    consolidate_prompt: bool = False,
    max_step_tokens: int = 128,
    seed: int = 0,
    on_rewrite: Callable[[Rewrite], None] | None = None,
) -> Iterator[Consolidation]:
    """While inside, `processor` rewrites the caches of `model` whenever a step of the text is complete.

    Args:
        model: a transformers causal LM of the Llama family, with any attention implementation; or PEFT around one.
        processor: a `CacheProcessor` made from the model's config, on its device.
        tokenizer: the model's, for `trigger="newline"`.
        window: the recent entries to rewrite: "step", those of the step just completed; a number, the newest so many;
            "all", the whole cache (version 1 of the paper).
        top_k: how many earlier entries to rewrite with them: those that the recent tokens attended to most, per layer.
        select: "attention"; or "random", earlier entries by lot, a control.
        trigger: "newline", before any token whose text has one; a number of tokens; or a callable, see `triggers`.
        consolidate_prompt: whether the prompt is a step, too, complete when the first token after it comes. The prompt
            is all of a cache's first forward pass; its own newlines end nothing.
        max_step_tokens: of a longer step the newest so many are rewritten, and their queries count.
        seed: of `select="random"`.
        on_rewrite: told of every rewriting.

    Raises:
        ValueError: an option out of range, a model or cache that cannot be served (the message says why).
    """
    if window not in ("step", "all") and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(f"window must be 'step', 'all' or a number of at least 1; got {window!r}")
    for name, value, least in (("top_k", top_k, 0), ("max_step_tokens", max_step_tokens, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
    if select not in ("attention", "random"):
        raise ValueError(f"select must be 'attention' or 'random'; got {select!r}")
    base = causal_lm(model)
    attentions = attention_modules(base)
    check_model(base, processor)
    made = make_trigger(trigger, tokenizer)
    chosen = Selection(window, 0 if window == "all" else top_k, select, max_step_tokens)
    consolidation = Consolidation(base, processor, attentions, made, chosen, consolidate_prompt, seed, on_rewrite)
    compiled = base.generation_config.disable_compile
    base.generation_config.disable_compile = True  # generate would compile a StaticCache's forward pass on a GPU
    try:
        with consolidation.recorder:
            yield consolidation
    finally:
        base.generation_config.disable_compile = compiled
        consolidation.release()


@dataclass(frozen=True)
class Selection:
    """Which entries are rewritten; see `consolidate`."""

    window: str | int
    top_k: int
    select: str
    max_step_tokens: int

    @property
    def keep_queries(self) -> int:
        """Newest slots whose queries are needed."""
        if self.top_k == 0 or self.select != "attention":
            return 0
        return self.window if isinstance(self.window, int) else self.max_step_tokens


class Consolidation:
    """What `consolidate` yields. `criteria` goes to `generate`; it stops nothing, and notices a cache out of step."""

    def __init__(
        self,
        model: Any,
        processor: EntryRewriter,
        attentions: list[Any],
        trigger: Trigger,
        selection: Selection,
        consolidate_prompt: bool,
        seed: int,
        on_rewrite: Callable[[Rewrite], None] | None,
    ) -> None:
        from .criteria import InStepCriteria

        self.model, self.processor, self.trigger, self.selection = model, processor, trigger, selection
        self.num_rewrites = 0
        self._attentions, self._on_rewrite = attentions, on_rewrite
        self._trackers: WeakKeyDictionary[Any, CacheTracker] = WeakKeyDictionary()
        self._generator = torch.Generator().manual_seed(seed)
        self.recorder = ForwardRecorder(
            model,
            attentions,
            track=self.track,
            before=self._before,
            consolidate_prompt=consolidate_prompt,
            needs_prompt_queries=isinstance(selection.window, int),
        )
        self.criteria = InStepCriteria(self)
        self.last: CacheTracker | None = None

    def new_cache(self, *, max_length: int | None = None) -> Any:
        """A DynamicCache; or with `max_length` a StaticCache of so many slots, whose memory never moves."""
        from transformers import DynamicCache, StaticCache

        config = self.model.config
        cache = DynamicCache(config=config) if max_length is None else StaticCache(config, max_cache_len=max_length)
        self.track(cache)
        return cache

    def track(self, cache: Any) -> CacheTracker:
        """The notes on a cache; they begin here if it is empty.

        Raises: ValueError if it was filled elsewhere, or is of a kind that cannot be rewritten.
        """
        tracker = self._trackers.get(cache)
        if tracker is None:
            check_cache(cache, len(self._attentions))
            if int(cache.get_seq_length()):
                raise ValueError(
                    f"this cache was filled with {int(cache.get_seq_length())} entries outside of consolidate, which "
                    "has not seen how: begin with past_key_values=c.new_cache()"
                )
            tracker = CacheTracker(cache, self.selection.keep_queries)
            self._trackers[cache] = tracker
            follow(cache, tracker)
        self.last = tracker
        return tracker

    def rewrite(self, cache: Any, rows: Tensor | None = None) -> None:
        """End the current step of a cache now, in the rows given (bool `[B]`; None is all), and rewrite it."""
        tracker = self.track(cache)
        if tracker.length == 0:
            return
        due = tracker.since > 0
        due = due if rows is None else due & rows
        if bool(due.any()):
            self._rewrite(tracker, due)
            tracker.begin_step(due)

    def release(self) -> None:
        """Let go of every cache: from here on they are stock caches again."""
        for cache in list(self._trackers):
            unfollow(cache)
        self._trackers.clear()

    def _before(self, tracker: CacheTracker, first: Tensor, valid: Tensor) -> None:
        """The next token `[B]` of every row is known; where it ends a step, rewrite."""
        due = self.trigger(first, tracker.since) & valid & (tracker.since > 0)
        if bool(due.any()):
            self._rewrite(tracker, due)
            tracker.begin_step(due)

    def _rewrite(self, tracker: CacheTracker, due: Tensor) -> None:
        if torch.is_grad_enabled() and tracker.cache.is_compileable:
            raise ValueError("a StaticCache is rewritten in place, which has no gradient: use torch.no_grad()")
        keys, values = tracker.layers()
        cos, sin = tracker.rotation
        valid = tracker.valid & due[:, None]
        chosen = self.selection
        recent = recent_slots(valid, tracker.step_start, chosen.window, chosen.max_step_tokens)
        index = to_index(recent).expand(len(keys), -1, -1)
        candidates = valid & ~recent
        if chosen.top_k and bool(candidates.any()):
            score = self._score(tracker, keys, recent, candidates)
            index = in_order(torch.cat([index, top_slots(score, candidates, chosen.top_k)], -1))
        rows = due.nonzero()[:, 0]
        some = rows.numel() < due.numel()
        gate = self.processor.gate
        entries = cache_gather(keys, values, index, cos=cos, sin=sin)
        present = index >= 0
        if some:
            entries, present = entries[:, rows], present[:, rows]
        change = self.processor(entries.to(gate.dtype), present)
        if self._on_rewrite is not None:
            added = (change * gate[:, None, None, None]).masked_fill(~present[..., None], 0.0).detach()
            self._on_rewrite(Rewrite(tracker.length, rows, index[:, rows], added))
        if some:
            whole = change.new_zeros(len(keys), due.numel(), *change.shape[2:])
            change = whole.index_copy(1, rows, change)
        in_place = not torch.is_grad_enabled()
        new = cache_add(keys, values, index, change, gate=gate, cos=cos, sin=sin, in_place=in_place)
        if not in_place:
            tracker.replace(*new)
        self.num_rewrites += 1

    @torch.no_grad()
    def _score(self, tracker: CacheTracker, keys: list[Tensor], recent: Tensor, candidates: Tensor) -> Tensor:
        """How much each entry deserves to be rewritten, `[L, B, T]`."""
        if self.selection.select == "random":
            shape = (len(keys), *candidates.shape)
            return torch.rand(shape, generator=self._generator).to(candidates.device)
        first = int(recent.any(0).to(torch.uint8).argmax())
        queries, start = tracker.queries(first, self._attentions[0].config.num_attention_heads)
        slots = torch.arange(start, tracker.length, device=recent.device)
        query_slots = torch.where(recent[:, start:], slots, -1)
        return attention_mass(
            queries.to(keys[0].dtype).contiguous(),
            [k.detach() for k in keys],
            scale=self._attentions[0].scaling,
            query_slots=query_slots,
            valid=tracker.valid,
            exclude=~candidates,
        )
