"""What one key-value cache does not say itself: which slots hold tokens, how they were rotated, who asked for them.

L layers, B rows, T slots, H query heads, D head width. A slot is a place in the cache; with left padding it is not a
position.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from memarch.ops.cache_rewrite import rotate_half


class CacheTracker:
    """Grows with its cache, one forward pass at a time.

    Args:
        cache: a DynamicCache or StaticCache, still empty.
        keep_queries: of how many of the newest slots queries are kept; 0 keeps none.

    Attributes:
        length: slots filled.
        step_start: int64 `[B]`, where each row's step began.
        since: int64 `[B]`, tokens of the step so far.
        from_embeddings: whether the prompt came without token ids.
    """

    def __init__(self, cache: Any, keep_queries: int) -> None:
        self._cache, self.keep_queries = weakref.ref(cache), keep_queries
        self.clear()

    def clear(self) -> None:
        """Back to an empty cache."""
        self.length = 0
        self._valid: list[Tensor] = []
        self._cos: list[Tensor] = []
        self._sin: list[Tensor] = []
        self._queries: list[tuple[int, list[Tensor]]] = []
        self._rows: Tensor | None = None
        self.from_embeddings = False

    def append(self, valid: Tensor, cos: Tensor, sin: Tensor, queries: list[Tensor], *, prompt: bool) -> None:
        """Note a forward pass.

        Args:
            valid: bool `[B, q]`, which of its tokens are no padding.
            cos: `[B or 1, q, D]`, as its keys were rotated.
            sin: like cos.
            queries: per layer `[B, q, H * D]` or `[B, q, H, D]` before rotation; [] if they are not wanted.
            prompt: whether it is a prompt that is no step of its own.
        """
        if self.length == 0:
            self.step_start = torch.zeros(valid.shape[0], dtype=torch.int64, device=valid.device)
            self.since = torch.zeros_like(self.step_start)
        for chunks, new in ((self._valid, valid), (self._cos, cos.detach()), (self._sin, sin.detach())):
            chunks.append(new)
        if queries and self.keep_queries:
            cut = max(0, valid.shape[1] - self.keep_queries)
            newest = [q[:, cut:].clone() for q in queries] if cut else queries
            self._queries.append((self.length + cut, newest))
            if self._rows is not None:
                rows = torch.arange(valid.shape[0], device=valid.device)
                self._rows = torch.cat([self._rows, rows[None]])
        self.length += valid.shape[1]
        while self._queries and self._end(0) <= self.length - self.keep_queries:
            self._queries.pop(0)
            self._rows = None if self._rows is None else self._rows[1:]
        if prompt:
            self.step_start.fill_(self.length)
        else:
            self.since = self.since + valid.sum(1)

    def begin_step(self, rows: Tensor) -> None:
        """Rows (bool `[B]`) begin a step with the next token."""
        self.step_start = self.step_start.masked_fill(rows, self.length)
        self.since = self.since.masked_fill(rows, 0)

    def reorder(self, rows: Tensor) -> None:
        """Beam search: row b goes on from row `rows[b]`. Beams of one sequence share padding and positions."""
        rows = rows.to(self.step_start.device)
        self.step_start, self.since = self.step_start[rows], self.since[rows]
        if self._queries and self._rows is None:
            self._rows = torch.arange(rows.numel(), device=rows.device).expand(len(self._queries), -1)
        if self._rows is not None:
            self._rows = self._rows[:, rows]

    @property
    def cache(self) -> Any:
        """The cache itself. It outlives its tracker's users: they are called from within its forward pass."""
        return self._cache()

    @property
    def valid(self) -> Tensor:
        """bool `[B, T]`, slots that hold a token."""
        return _joined(self._valid)

    @property
    def rotation(self) -> tuple[Tensor, Tensor]:
        """cos and sin of every slot, `[B or 1, T, D]`."""
        return _joined(self._cos), _joined(self._sin)

    def queries(self, first: int, num_heads: int) -> tuple[Tensor, int]:
        """The queries kept from slot `first` on, rotated, `[L, B, R, H, D]`, and the slot of the first of them.

        Raises: ValueError if none is kept.
        """
        begin = next((i for i in range(len(self._queries)) if self._end(i) > first), None)
        if begin is None:
            raise ValueError(f"no queries of slot {first} or later are kept; a cache of {self.length} slots")
        chunks = self._queries[begin:]
        start = max(chunks[0][0], first)
        num_layers, batch = len(chunks[0][1]), self.step_start.shape[0]
        # One concatenation for all layers and tokens, [B, L * R, H * D]: layers of one stretch lie together.
        flat = torch.cat([chunk[layer].flatten(2) for layer in range(num_layers) for _, chunk in chunks], 1)
        q = flat.view(batch, num_layers, self.length - chunks[0][0], num_heads, -1)
        if self._rows is not None:
            sizes = torch.tensor([chunk[0].shape[1] for _, chunk in chunks], device=q.device)
            rows = self._rows[begin:].repeat_interleave(sizes, 0).T[:, None]
            slots = torch.arange(q.shape[2], device=q.device)
            q = q[rows, torch.arange(num_layers, device=q.device)[:, None], slots]
        q = q[:, :, start - self.length :]
        cos, sin = (x[:, None, start:, None] for x in self.rotation)
        return (q * cos + rotate_half(q) * sin).transpose(0, 1), start

    def layers(self) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of every layer, views `[B, T, G, D]` of the filled slots."""
        keys = [layer.keys[:, :, : self.length].transpose(1, 2) for layer in self.cache.layers]
        values = [layer.values[:, :, : self.length].transpose(1, 2) for layer in self.cache.layers]
        return keys, values

    def replace(self, keys: list[Tensor], values: list[Tensor]) -> None:
        """Put other tensors `[B, T, G, D]` in the place of those of a DynamicCache."""
        for layer, k, v in zip(self.cache.layers, keys, values, strict=True):
            layer.keys, layer.values = k.transpose(1, 2), v.transpose(1, 2)

    def detach(self) -> None:
        """Cut the graph behind the cache, in truncated backpropagation through time."""
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()

    def _end(self, i: int) -> int:
        start, chunk = self._queries[i]
        return start + chunk[0].shape[1]


def _joined(chunks: list[Tensor]) -> Tensor:
    """One tensor `[B, T, ...]` out of chunks, which are replaced by it."""
    if len(chunks) > 1:
        rows = max(chunk.shape[0] for chunk in chunks)
        chunks[:] = [torch.cat([chunk.expand(rows, *chunk.shape[1:]) for chunk in chunks], 1)]
    return chunks[0]
