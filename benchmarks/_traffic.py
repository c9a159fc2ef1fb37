"""Bytes that a piece of torch code reads and writes, counted operator by operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROWS_ONLY = {"aten::embedding", "aten::index_select", "aten::gather", "aten::index"}
"""Operators that read of their first tensor what they return, not all of it."""
UPDATES = {"aten::index_copy_", "aten::index_fill_", "aten::index_put_", "aten::_index_put_impl_"}
"""Operators that write into their first tensor as many bytes as their source has."""


def traffic_bytes(run: Callable[[], object]) -> int:
    """Bytes read plus bytes written by `run`, every operator's operands counted once as if nothing stayed in a cache.

    Views and allocations move nothing. A lower bound on what operators move, and exact for elementwise ones.
    """
    with _Counter() as counter:
        run()
    return counter.total


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        given = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        storages = {x.untyped_storage().data_ptr() for x in given}
        if name in ROWS_ONLY:
            read = _size(made) + _size(given[1:])
            self.total += read + _size(made)
        elif name in UPDATES:
            source = [x for x in given[1:] if x.is_floating_point()]
            moved = _size(source) if source else given[1].numel() * given[0].stride(0) * given[0].element_size()
            self.total += _size(given[1:]) + moved
        elif name.endswith("_") or any(x.untyped_storage().data_ptr() in storages for x in made):
            # In place: its target is written, and read too unless it is only filled. Views come here too.
            if not func.is_view:
                written = _size(given[:1])
                fills = name in ("aten::normal_", "aten::zero_", "aten::fill_", "aten::copy_", "aten::random_")
                self.total += written + _size(given[1:]) + (0 if fills else written)
        elif "empty" not in name:
            self.total += _size(given) + _size(made)
        return out


def _size(tensors: list[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)
