"""Hooks on a causal LM that note what a forward pass puts into its cache: padding, rotations, queries.

Queries are taken where they leave their projection (and their norm, where a model has one), before rotation: that is
the same for every attention implementation, and costs no launch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .checks import check_rotation
from .tracker import CacheTracker


class ForwardRecorder:
    """A context; inside, every forward pass of the model goes into the tracker of its cache.

    Args:
        model: the causal LM.
        attentions: its attention modules, by layer.
        track: gives the tracker of a cache.
        before: called before a pass that goes on with a text: tracker, its first tokens `[B]`, whether they are real.
        consolidate_prompt: whether a text's first pass belongs to its first step.
        needs_prompt_queries: whether queries of a prompt that is no step are wanted, too.
    """

    def __init__(
        self,
        model: Any,
        attentions: list[Any],
        *,
        track: Callable[[Any], CacheTracker],
        before: Callable[[CacheTracker, Tensor, Tensor], None],
        consolidate_prompt: bool,
        needs_prompt_queries: bool,
    ) -> None:
        self._model, self._attentions, self._track, self._before = model, attentions, track, before
        self._consolidate_prompt, self._needs_prompt_queries = consolidate_prompt, needs_prompt_queries
        self._handles: list[RemovableHandle] = []
        self._checks: list[RemovableHandle] = []
        self._tracker: CacheTracker | None = None

    def __enter__(self) -> None:
        rotary = self._model.model.rotary_emb
        self._handles = [
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._model.register_forward_hook(self._end),
            rotary.register_forward_hook(self._note_rotation),
        ]
        for layer, attention in enumerate(self._attentions):
            query, key = (_last(attention, name) for name in ("q", "k"))
            self._handles.append(query.register_forward_hook(self._note_into("_queries", layer)))
            self._checks.append(key.register_forward_hook(self._note_into("_projected", layer)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles + self._checks:
            handle.remove()
        self._handles, self._checks, self._tracker = [], [], None

    def _begin(self, module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "consolidate cannot look into a compiled model: leave it uncompiled (disable_compile=True)"
            )
        ids: Tensor | None = options.get("input_ids", args[0] if args else None)
        cache = options.get("past_key_values")
        if cache is None:
            raise ValueError("inside consolidate the model needs a cache: pass past_key_values=c.new_cache()")
        tracker = self._track(cache)
        given = ids if ids is not None else options.get("inputs_embeds")
        if given is None:
            raise ValueError("inside consolidate the model needs input_ids (or inputs_embeds, for a prompt)")
        self._valid = new_tokens(options.get("attention_mask"), tracker.length, given)
        if not tracker.length:
            tracker.from_embeddings = ids is None
        elif ids is None:
            raise ValueError("inputs_embeds say no token: only a prompt, in a cache's first pass, may come as them")
        else:
            self._before(tracker, ids[:, 0], self._valid[:, 0])
        num = len(self._attentions)
        self._queries: list[Any] = [None] * num
        self._projected: list[Any] = [None] * num
        self._tracker = tracker

    def _note_rotation(self, module: nn.Module, args: Any, rotation: tuple[Tensor, Tensor]) -> None:
        self._rotation = rotation

    def _note_into(self, name: str, layer: int) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            if self._tracker is not None:
                getattr(self, name)[layer] = output.detach()

        return note

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return
        cos, sin = self._rotation
        prompt = tracker.length == 0 and not self._consolidate_prompt
        if self._checks and bool(sin.abs().amax() > 0.1):
            self._check_rotation(tracker, cos, sin)
        wanted = self._queries if not prompt or self._needs_prompt_queries else []
        tracker.append(self._valid, cos, sin, wanted, prompt=prompt)

    def _check_rotation(self, tracker: CacheTracker, cos: Tensor, sin: Tensor) -> None:
        """Once, on real tokens."""
        new = slice(tracker.length, tracker.length + self._valid.shape[1])
        cached = [layer.keys[:, :, new].transpose(1, 2).detach() for layer in tracker.cache.layers]
        projected = [k.view(c.shape) for k, c in zip(self._projected, cached, strict=True)]
        check_rotation(projected, cached, cos, sin, type(self._model).__name__)
        for handle in self._checks:
            handle.remove()
        self._checks = []


def _last(attention: Any, name: str) -> nn.Module:
    """The module that a query or key leaves before rotation."""
    norm = getattr(attention, f"{name}_norm", None)
    module: nn.Module = norm if isinstance(norm, nn.Module) else getattr(attention, f"{name}_proj")
    return module


def new_tokens(mask: Tensor | dict[str, Tensor | None] | None, past: int, given: Tensor) -> Tensor:
    """bool `[B, q]`: which of the q tokens being processed are no padding.

    Args:
        mask: as given to the model: None, `[B, past + q]`, or `[B, 1, q, slots]` (bool, or added to the logits),
            or such by kind of layer.
        past: tokens before them.
        given: `[B, q]` ids or `[B, q, ...]` embeddings.

    Raises: ValueError for a mask of another size.
    """
    batch, count = given.shape[:2]
    if isinstance(mask, dict):
        mask = mask["full_attention"]
    if mask is None:
        return torch.ones(batch, count, dtype=torch.bool, device=given.device)
    if mask.dim() == 4 and mask.shape[-1] >= past + count:
        row = mask[:, 0, -1, past : past + count]
        seen = row if row.dtype == torch.bool else row > torch.finfo(row.dtype).min / 2
        return seen.to(given.device).expand(batch, -1)
    if mask.dim() == 2 and mask.shape[1] == past + count:
        return mask[:, past:].to(given.device, torch.bool)
    raise ValueError(
        f"attention_mask must be [B, {past + count}], one value for each of {past} cached and {count} new tokens; "
        f"got {list(mask.shape)}"
    )
