"""Reweaving: later layers read what earlier layers said of recent tokens. Inspired by arXiv 2502.02046.

Of "contextual memory reweaving" only the abstract is specified: latent states of several layers are reconstructed into
later representations, without external memory. The formulas here are ours. B batch, T tokens, N remembered tokens, D
model width, C captured layers, P width of the reading.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._following import follow, unfollow
from ._saved import load_module, save_module
from .checks import causal_lm, check_cache
from .recorder import new_tokens

CONFIG_FILE, WEIGHTS_FILE, KIND = "reweaver.json", "reweaver.safetensors", "memarch.Reweaver"
UNREAD = -2.0
"""Less than any cosine, and finite: the sharpness has no gradient through infinity."""


@dataclass(frozen=True)
class _ModelSizes:
    """What a reweaver needs of a model's configuration."""

    num_hidden_layers: int
    hidden_size: int

    def get_text_config(self, *, decoder: bool) -> _ModelSizes:
        """As transformers' configurations have it."""
        return self


class Reweaver(nn.Module):
    """Gated reading of earlier layers' states of the last tokens, for a frozen backbone.

    At a weaving layer: s_ci = cos(W_q h_t, W_k^c h_i^c) for each captured layer c and earlier token i of the last
    `memory_tokens`; of each c the `top_k` largest; a = softmax over all of them of tau s; r_t = W_o sum a_ci W_v^c
    h_i^c; h_t += sigmoid(g) Norm(r_t). The norm's weights start at zero: a new one changes nothing, to the bit.

    Args:
        config: of the transformers model.
        capture: layers (their outputs) to remember, each below every weaving layer, so that all tokens of a pass can be
            computed at once as one by one.
        weave: layers whose inputs are changed.
        memory_tokens: how far back tokens are remembered.
        top_k: tokens read per captured layer.
        width: P.

    Raises: ValueError for layers that the model does not have or in the wrong order, or sizes below 1.
    """

    def __init__(
        self,
        config: Any,
        *,
        capture: Sequence[int],
        weave: Sequence[int],
        memory_tokens: int = 64,
        top_k: int = 8,
        width: int = 64,
    ) -> None:
        super().__init__()
        config = config.get_text_config(decoder=True)
        self.capture, self.weave = tuple(sorted(capture)), tuple(sorted(weave))
        num_layers, dim = config.num_hidden_layers, config.hidden_size
        known = all(isinstance(i, int) and 0 <= i < num_layers for i in (*self.capture, *self.weave))
        if not (self.capture and self.weave and known and self.capture[-1] < self.weave[0]):
            raise ValueError(
                f"capture and weave must be layers from 0 to {num_layers - 1}, those captured below those woven into; "
                f"got {list(capture)} and {list(weave)}"
            )
        for name, size in (("memory_tokens", memory_tokens), ("top_k", top_k), ("width", width)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be an integer of at least 1; got {size!r}")
        self.num_layers, self.d_model = num_layers, dim
        self.memory_tokens, self.top_k, self.width = memory_tokens, top_k, width
        count, layers = len(self.capture), len(self.weave)
        self.w_query = nn.Parameter(torch.randn(layers, dim, width) * dim**-0.5)
        self.w_key = nn.Parameter(torch.randn(layers, count, dim, width) * dim**-0.5)
        self.w_value = nn.Parameter(torch.randn(layers, count, dim, width) * dim**-0.5)
        self.w_out = nn.Parameter(torch.randn(layers, width, dim) * width**-0.5)
        self.norm = nn.Parameter(torch.zeros(layers, dim))
        self.gate_logit = nn.Parameter(torch.zeros(layers))
        self.log_sharpness = nn.Parameter(torch.full((layers,), 2.0))

    def forward(self, which: int, hidden: Tensor, memory: Sequence[Tensor], allowed: Tensor) -> Tensor:
        """The hidden states with what was read.

        Args:
            which: position in `weave`.
            hidden: `[B, T, D]`.
            memory: per captured layer `[B, N, D]`.
            allowed: bool `[B, T, N]`, which tokens each may read.
        """
        dtype = self.w_query.dtype
        query = F.normalize(hidden.to(dtype) @ self.w_query[which], dim=-1)
        scores, values = [], []
        for c, states in enumerate(memory):
            key = F.normalize(states.to(dtype) @ self.w_key[which, c], dim=-1)
            score = (query @ key.mT).masked_fill(~allowed, UNREAD)
            best, slots = score.topk(min(self.top_k, score.shape[-1]), -1)
            scores.append(best)
            value = states.to(dtype) @ self.w_value[which, c]
            rows = torch.arange(value.shape[0], device=value.device)[:, None, None]
            values.append(value[rows, slots])
        best = torch.cat(scores, -1)
        # A token with nothing to read reads zero; a softmax of nothing would be NaN.
        something = allowed.any(-1, keepdim=True)
        logits = (best * self.log_sharpness[which].exp()).masked_fill((best == UNREAD) & something, -torch.inf)
        share = torch.softmax(logits, -1) * something
        read = (share.unsqueeze(-2) @ torch.cat(values, -2)).squeeze(-2) @ self.w_out[which]
        woven = torch.sigmoid(self.gate_logit[which]) * self.norm[which] * F.rms_norm(read, read.shape[-1:], eps=1e-6)
        return hidden + woven.to(hidden.dtype)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write reweaver.json and reweaver.safetensors, so that they fit beside a model's own files.

        Raises:
            OSError: a full disk or an unwritable directory; files already there are unchanged.
        """
        settings = {
            "kind": KIND,
            "num_layers": self.num_layers,
            "d_model": self.d_model,
            "capture": list(self.capture),
            "weave": list(self.weave),
            "memory_tokens": self.memory_tokens,
            "top_k": self.top_k,
            "width": self.width,
        }
        save_module(self, settings, Path(directory) / CONFIG_FILE, Path(directory) / WEIGHTS_FILE)

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, device: str | torch.device = "cpu") -> Reweaver:
        """Read what `save_pretrained` wrote, in the dtype it was saved in.

        Raises:
            OSError: a file is missing.
            ValueError: a file is corrupt, or is not a reweaver's.
        """
        names = {"num_layers", "d_model", "capture", "weave", "memory_tokens", "top_k", "width"}

        def make(settings: dict[str, Any]) -> Reweaver:
            sizes = _ModelSizes(settings.pop("num_layers"), settings.pop("d_model"))
            return cls(sizes, **settings)

        config, weights = Path(directory) / CONFIG_FILE, Path(directory) / WEIGHTS_FILE
        return load_module(make, names, config, weights, kind=KIND).to(device)


@contextmanager
def reweave(model: Any, reweaver: Reweaver) -> Iterator[Reweaving]:
    """While inside, `reweaver` reads earlier layers' states into later ones, in `generate` as in training.

    Args:
        model: a transformers causal LM with model.layers, or PEFT around one. A pass with a cache goes on from what
            its earlier passes left; one without (`use_cache=False`) is a text of its own.
        reweaver: made from the model's config, on its device.

    Raises:
        ValueError: a model without such layers, or a cache that was filled elsewhere.
    """
    base = causal_lm(model)
    layers = getattr(getattr(base, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) <= reweaver.weave[-1]:
        raise ValueError(
            f"model must be a causal LM with more than {reweaver.weave[-1]} layers in model.layers; "
            f"got {type(base).__name__}"
        )
    reweaving = Reweaving(base, reweaver)
    handles = [
        base.register_forward_pre_hook(reweaving._begin, with_kwargs=True),
        base.register_forward_hook(reweaving._end),
    ]
    for c, layer in enumerate(reweaver.capture):
        handles.append(layers[layer].register_forward_hook(reweaving._capture(c)))
    for which, layer in enumerate(reweaver.weave):
        handles.append(layers[layer].register_forward_pre_hook(reweaving._weave(which), with_kwargs=True))
    try:
        yield reweaving
    finally:
        for handle in handles:
            handle.remove()
        reweaving.release()


class _Memory:
    """The captured states of a cache's newest tokens; told by `follow` what generate does with the cache."""

    def __init__(self, cache: Any) -> None:
        self._cache = weakref.ref(cache)
        self.clear()

    @property
    def cache(self) -> Any:
        return self._cache()

    def clear(self) -> None:
        self.length = 0
        self.states: list[Tensor] = []
        self.valid: Tensor | None = None

    def reorder(self, rows: Tensor) -> None:
        self.states = [x[rows.to(x.device)] for x in self.states]
        self.valid = None if self.valid is None else self.valid[rows.to(self.valid.device)]


class Reweaving:
    """What `reweave` yields."""

    def __init__(self, model: Any, reweaver: Reweaver) -> None:
        self.model, self.reweaver = model, reweaver
        self._memories: WeakKeyDictionary[Any, _Memory] = WeakKeyDictionary()
        self._now: list[Tensor] = []

    def new_cache(self, *, max_length: int | None = None) -> Any:
        """A DynamicCache, or with `max_length` a StaticCache."""
        from transformers import DynamicCache, StaticCache

        config = self.model.config
        return DynamicCache(config=config) if max_length is None else StaticCache(config, max_cache_len=max_length)

    def release(self) -> None:
        """Let go of every cache."""
        for cache in list(self._memories):
            unfollow(cache)
        self._memories.clear()

    def _memory(self, cache: Any) -> _Memory:
        memory = self._memories.get(cache)
        if memory is None:
            check_cache(cache, len(self.model.model.layers))
            if int(cache.get_seq_length()):
                raise ValueError(
                    f"this cache was filled with {int(cache.get_seq_length())} entries outside of reweave: begin with "
                    "past_key_values=r.new_cache()"
                )
            memory = _Memory(cache)
            self._memories[cache] = memory
            follow(cache, memory)
        return memory

    def _begin(self, module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = options.get("input_ids", args[0] if args else None)
        given = options.get("inputs_embeds") if given is None else given
        if given is None:
            raise ValueError("inside reweave the model needs input_ids or inputs_embeds")
        cache = options.get("past_key_values")
        if cache is None and options.get("use_cache", module.config.use_cache):
            raise ValueError("inside reweave pass past_key_values=r.new_cache(), or use_cache=False for a whole text")
        self._active = None if cache is None else self._memory(cache)
        past = 0 if self._active is None else self._active.length
        new = new_tokens(options.get("attention_mask"), past, given)
        old = None if self._active is None else self._active.valid
        self._valid = new if old is None else torch.cat([old, new], 1)
        kept, count = self._valid.shape[1] - new.shape[1], new.shape[1]
        at = torch.arange(kept + count, device=new.device)
        back = at[kept:, None] - at
        self._allowed = ((back > 0) & (back <= self.reweaver.memory_tokens)) & self._valid[:, None]
        self._now = []

    def _capture(self, c: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            past = [] if self._active is None or not self._active.states else [self._active.states[c]]
            self._now.append(torch.cat([*past, hidden], 1))

        return hook

    def _weave(self, which: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
            hidden = args[0] if args else options["hidden_states"]
            woven = self.reweaver(which, hidden, self._now, self._allowed)
            return ((woven, *args[1:]), options) if args else (args, options | {"hidden_states": woven})

        return hook

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._active is not None:
            keep = self.reweaver.memory_tokens
            self._active.length += self._allowed.shape[1]
            self._active.states = [x[:, -keep:].detach() for x in self._now]
            self._active.valid = self._valid[:, -keep:]
        self._now = []
