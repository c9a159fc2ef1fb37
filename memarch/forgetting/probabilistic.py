"""Probabilistic temporary forgetting: for one step, some tokens of the batch have fresh random embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from memarch.ops import embedding_substitute, substitute_logits, substituted_tokens

from ._embeddings import check_count, find_embedding, initial_std, rows_to_keep

GRADIENTS = ("none", "kept_rows")


class ProbabilisticForgetting:
    """While it is entered, every token is replaced with `probability` by a fresh random row, alike wherever it stands.

        forget = ProbabilisticForgetting(model)
        for batch in batches:
            with forget:
                loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            forget.step()

    Source: third version of arXiv 2406.00053, known from public code. The weights are never written, so afterwards they
    are what they were, to the bit. A tied output layer sees the same rows: the logits of replaced tokens are corrected.
    Any layer that looks up in the embedding (F.embedding) or multiplies by it (F.linear) is served; another use of the
    matrix inside the block raises.

    Args:
        model: a model, whose token embedding is found, or an nn.Embedding.
        probability: with which each token is replaced, 0.1 in the paper.
        every: forget at every so-manieth step only.
        stop_after: the last step that forgets; None never stops.
        std: of the rows that stand in; None is the model's config.initializer_range.
        keep_rows: token ids never replaced; None spares the padding token of the embedding.
        gradient: "none": the embedding gets no gradient from a forgetting step at all, as in the paper (its `grad`
            stays None, so an optimizer skips it; DistributedDataParallel then wants find_unused_parameters=True). It
            learns in the steps between only: with `every=1` never.
            "kept_rows": rows that were not replaced learn as usual.
        seed: in [0, 2^64).

    Raises:
        ValueError: no embedding or several, an unknown option, numbers out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        probability: float = 0.1,
        every: int = 1,
        stop_after: int | None = None,
        std: float | None = None,
        keep_rows: Sequence[int] | None = None,
        gradient: str = "none",
        seed: int = 0,
    ) -> None:
        self.embedding = find_embedding(model)
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1]; got {probability}")
        self.every, self.stop_after = check_count("every", every), stop_after
        if stop_after is not None and check_count("stop_after", stop_after) < every:
            raise ValueError(f"stop_after={stop_after} comes before the first forgetting step {every}")
        self.std = initial_std(model) if std is None else std
        if not 0 <= self.std < float("inf"):
            raise ValueError(f"std must be finite and at least 0; got {std}")
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(map(repr, GRADIENTS))}; got {gradient!r}")
        self.probability, self.gradient, self.seed = probability, gradient, check_count("seed", seed, least=0)
        self.keep = rows_to_keep(self.embedding, keep_rows)
        self.num_steps = 0
        self._mode: _Substituting | None = None

    @property
    def forgets_now(self) -> bool:
        """Whether the coming step, number num_steps + 1, is one that forgets."""
        step = self.num_steps + 1
        return step % self.every == 0 and (self.stop_after is None or step <= self.stop_after)

    def step(self) -> None:
        """Count one optimiser step. Within one step all forward passes replace the same tokens by the same rows."""
        self.num_steps += 1

    def __enter__(self) -> ProbabilisticForgetting:
        if self._mode is not None:
            raise RuntimeError("this ProbabilisticForgetting is entered already")
        if self.forgets_now:
            self._mode = _Substituting(self)
            self._mode.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._mode is not None:
            mode, self._mode = self._mode, None
            mode.__exit__(*exception)

    def state_dict(self) -> dict[str, int]:
        """How far training has come, and by which noise: whole numbers only."""
        return {"num_steps": self.num_steps, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state_dict`, to the same bits. Raises: ValueError if it is of another seed."""
        if state["seed"] != self.seed:
            raise ValueError(
                f"the saved state has seed={state['seed']}, this one seed={self.seed}: make it with the same"
            )
        self.num_steps = state["num_steps"]


class _Substituting(TorchFunctionMode):
    """Sees every torch function called inside; those that use the embedding's weight are answered here."""

    def __init__(self, forget: ProbabilisticForgetting) -> None:
        self.forget, self.weight = forget, forget.embedding.weight
        self.step = forget.num_steps + 1
        self.seen: Tensor | None = None
        self.handlers: dict[Any, Callable[..., Tensor]] = {F.embedding: self._embedding, F.linear: self._linear}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not any(value is self.weight for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        handler = self.handlers.get(func)
        if handler is not None:
            return handler(*args, **kwargs)
        if getattr(func, "__name__", "") in _LOOKS or torch.compiler.is_compiling():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", func)
        raise NotImplementedError(
            f"inside ProbabilisticForgetting {name} got the embedding's weight, rows to be forgotten included: "
            "only F.embedding and F.linear can be answered without them"
        )

    def _embedding(
        self,
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor:
        if max_norm is not None:
            raise NotImplementedError("an embedding with max_norm writes to its weights at each lookup: leave it out")
        if scale_grad_by_freq or sparse:
            raise NotImplementedError(
                "scale_grad_by_freq and sparse gradients of an embedding cannot be substituted in"
            )
        forget = self.forget
        tokens = input.unique()
        self.seen = tokens if self.seen is None else torch.cat([self.seen, tokens]).unique()
        source = weight.detach() if forget.gradient == "none" else weight
        rows = embedding_substitute(
            input,
            source,
            probability=forget.probability,
            std=forget.std,
            seed=forget.seed,
            step=self.step,
            keep=forget.keep,
        )
        if padding_idx is None or forget.gradient == "none":
            return rows
        return torch.where((input == padding_idx % len(weight))[..., None], rows.detach(), rows)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        forget = self.forget
        if self.seen is None:
            raise RuntimeError("the tied output layer was used before any token was embedded in this block")
        logits = F.linear(input, weight.detach() if forget.gradient == "none" else weight)
        tokens = substituted_tokens(
            self.seen, probability=forget.probability, seed=forget.seed, step=self.step, keep=forget.keep
        )
        logits = substitute_logits(logits, input, tokens, std=forget.std, seed=forget.seed, step=self.step)
        return logits if bias is None else logits + bias


_LOOKS = frozenset(
    "__get__ dim size numel stride element_size is_floating_point is_complex data_ptr detach __hash__ __repr__ "
    "requires_grad_ type is_contiguous get_device untyped_storage storage_offset __len__".split()
)
"""Calls that look at the weight without computing with its rows."""
