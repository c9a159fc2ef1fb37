"""Active and temporary forgetting: re-initialise the token embedding every so many steps, optimiser moments with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from memarch.ops import embedding_reset

from ._embeddings import check_count, find_embedding, initial_std, rows_to_keep
from ._shards import full_matrix, local_rows
from .learning_rates import RateChange, Replay, Rewarm, group_of, schedule_of

STATES = ("embeddings", "all", "none")
RATES = ("keep", "replay")


class EmbeddingForgetting:
    """Re-initialise a token embedding every `every` optimiser steps: call `step` after each optimizer.step().

    Active forgetting (Chen et al., arXiv 2307.01163) never stops; temporary forgetting (Anand et al., arXiv 2406.00053)
    stops after `stop_after` steps and trains on. The matrix is overwritten in place: tied weights, captured graphs and
    the optimiser's references stay. Noise is counted by seed, step, row and column, so data-parallel ranks agree
    without a word between them, and so do CPU and GPU.

    Args:
        model: a model, whose token embedding is found, or an nn.Embedding.
        every: optimiser steps from one reset to the next, K in the paper (1000 there).
        stop_after: the last step at which a reset may happen; None never stops.
        init: "model": N(0, config.initializer_range^2), or `std`; "match": with the standard deviation that the rows
            have just before the reset; or a function that fills a `[V, D]` tensor in place, on every rank alike. The
            published toy code drew N(0, 1): `std=1.0`.
        std: of "model", in place of the config's.
        keep_rows: token ids whose rows and moments stay; None keeps the padding row of the embedding (the paper zeroed
            it, which padding rows are anyway).
        optimizer_state: whose moments and step counters start afresh: "embeddings" (as in the paper's code), "all"
            parameters', or "none" (both are found in the published toy code).
        lr: "keep" leaves learning rates alone; `Rewarm(n)`; `Replay(total_steps)` as in arXiv 2307.01163; "replay" is
            Replay with the steps that `ForgettingCallback` knows. The last three need the embedding in a parameter
            group of its own: `give_own_group(optimizer, forget.weight)`.
        tied: "both": an output layer that shares the matrix is reset with it. "input": such a layer gets its own copy
            now, which is not reset; so make the optimizer afterwards. An untied output layer is never touched.
        seed: of the noise; another seed, other rows.

    Raises:
        ValueError: no embedding or several, an unknown option, numbers out of range, `stop_after` below `every`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 1000,
        stop_after: int | None = None,
        init: str | Callable[[Tensor], object] = "model",
        std: float | None = None,
        keep_rows: Sequence[int] | None = None,
        optimizer_state: str = "embeddings",
        lr: str | Rewarm | Replay = "keep",
        tied: str = "both",
        seed: int = 0,
    ) -> None:
        self.embedding = find_embedding(model)
        self.every, self.stop_after = check_count("every", every), stop_after
        if stop_after is not None and check_count("stop_after", stop_after) < every:
            raise ValueError(
                f"stop_after={stop_after} comes before the first reset at step {every}: nothing would happen"
            )
        self.init = _check_init(init, std)
        self.std = initial_std(model) if init == "model" and std is None else std
        if self.std is not None and not 0 <= self.std < float("inf"):
            raise ValueError(f"std must be finite and at least 0; got {std}")
        self.keep = rows_to_keep(self.embedding, keep_rows)
        self.optimizer_state = _check_option("optimizer_state", optimizer_state, STATES)
        if not isinstance(lr, Rewarm | Replay):
            _check_option("lr", lr, RATES)
        self.lr, self.seed = lr, check_count("seed", seed, least=0)
        if _check_option("tied", tied, ("both", "input")) == "input":
            _untie(model, self.embedding)
        self.num_steps = 0
        self._rate: RateChange | None = None
        self._watched: Optimizer | None = None

    @property
    def weight(self) -> Tensor:
        """The matrix that is reset."""
        return self.embedding.weight

    @property
    def num_resets(self) -> int:
        """Resets up to now."""
        return self.last_reset // self.every

    @property
    def last_reset(self) -> int:
        """The step of the latest reset, 0 before the first."""
        until = self.num_steps if self.stop_after is None else min(self.num_steps, self.stop_after)
        return until - until % self.every

    def step(self, optimizer: Optimizer, scheduler: Any = None, *, master: Tensor | None = None) -> bool:
        """Count one optimiser step, and reset if it is time. True if it was.

        Args:
            optimizer: holds the embedding, or its master. Wrappers with an `optimizer` attribute are looked through.
            scheduler: needed to replay its schedule only.
            master: float32 copy of the embedding that the optimizer holds in its place; reset to the same numbers.

        Raises: ValueError if the optimizer holds neither, or a rate is to change and the group has other parameters.
            Then nothing has changed.
        """
        optimizer = getattr(optimizer, "optimizer", optimizer)
        held = self.weight if master is None else master
        group = group_of(optimizer, held)
        if master is not None and master.shape != self.weight.shape:
            raise ValueError(f"master must be {list(self.weight.shape)} like the embedding; got {list(master.shape)}")
        if self.lr != "keep" and self._watched is not optimizer:
            self._watch(optimizer, group, scheduler)
        self.num_steps += 1
        if self.last_reset != self.num_steps:
            return False
        self._reset(optimizer, held)
        return True

    def state_dict(self) -> dict[str, int]:
        """How far training has come, and by which noise: whole numbers only."""
        return {"num_steps": self.num_steps, "seed": self.seed, "every": self.every}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state_dict`, to the same bits. Raises: ValueError if it is of another seed or interval."""
        for name, own in (("seed", self.seed), ("every", self.every)):
            if state[name] != own:
                raise ValueError(
                    f"the saved state has {name}={state[name]}, this one {name}={own}: make it with the same"
                )
        self.num_steps = state["num_steps"]

    def _reset(self, optimizer: Optimizer, held: Tensor) -> None:
        own = optimizer.state.get(held, {})
        tensors = [value for name, value in own.items() if isinstance(value, Tensor) and name != "step"]
        moments = [value for value in tensors if value.shape == held.shape] if self.optimizer_state != "none" else []
        copies = [] if held is self.weight else [self.weight]
        if callable(self.init):
            self._fill(held, moments, copies)
        else:
            shard, first_row = local_rows(held)
            embedding_reset(
                shard,
                std=self._present_std(held) if self.std is None else self.std,
                seed=self.seed,
                step=self.num_steps,
                keep=None if self.keep is None else self.keep[first_row : first_row + shard.shape[0]],
                moments=[local_rows(moment)[0] for moment in moments],
                copies=[local_rows(copy)[0] for copy in copies],
                first_row=first_row,
            )
        if self.optimizer_state == "none":
            return
        for parameter, state in optimizer.state.items():
            if parameter is held or self.optimizer_state == "all":
                _start_afresh(state, done=moments if parameter is held else [])

    def _fill(self, held: Tensor, moments: list[Tensor], copies: list[Tensor]) -> None:
        """What `embedding_reset` does, with the user's function for the numbers."""
        assert callable(self.init)
        fresh = torch.empty_like(held.data)
        self.init(fresh)
        rows = torch.arange(held.shape[0], device=held.device)
        rows = rows if self.keep is None else rows[~self.keep]
        for target in (held.data, *(copy.data for copy in copies)):
            target[rows] = fresh[rows].to(target.dtype)
        for moment in moments:
            moment[rows] = 0

    def _present_std(self, held: Tensor) -> float:
        rows = full_matrix(held.detach())
        return float((rows if self.keep is None else rows[~self.keep]).float().std())

    def _watch(self, optimizer: Optimizer, group: dict[str, Any], scheduler: Any) -> None:
        """Change the embedding's learning rate from the next step on."""
        if len(group["params"]) > 1:
            raise ValueError(
                f"lr={self.lr!r} changes the learning rate of the embedding alone, but its parameter group has "
                f"{len(group['params'])} parameters: call give_own_group(optimizer, forget.weight) before making the "
                "scheduler"
            )
        rate: Callable[[float], float]
        if isinstance(self.lr, Rewarm):
            rate = self._rewarmed
        elif isinstance(self.lr, Replay):
            rate = self._replayed(self.lr, group, scheduler, optimizer)
        else:
            raise ValueError("lr='replay' needs the number of training steps: pass lr=Replay(total_steps)")
        if self._rate is not None:
            self._rate.remove()
        self._rate, self._watched = RateChange(optimizer, group, rate), optimizer

    def _rewarmed(self, lr: float) -> float:
        assert isinstance(self.lr, Rewarm)
        since = self.num_steps - self.last_reset
        return lr if not self.last_reset else lr * min(1.0, (since + 1) / self.lr.steps)

    def _replayed(
        self, replay: Replay, group: dict[str, Any], scheduler: Any, optimizer: Optimizer
    ) -> Callable[[float], float]:
        index = next(i for i, each in enumerate(optimizer.param_groups) if each is group)
        factor = replay.schedule or schedule_of(scheduler, index)

        def rate(lr: float) -> float:
            if self.stop_after is not None and self.num_steps >= self.stop_after:
                return lr
            initial = float(group.get("initial_lr", lr))
            return initial * factor(replay.at(self.num_steps, self.every))

        return rate


def _start_afresh(state: dict[str, Any], done: list[Tensor]) -> None:
    """Zero a parameter's moments and step counter, in place where they are tensors."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            if all(value is not other for other in done):
                value.zero_()
        elif name == "step":
            state[name] = 0


def _untie(model: nn.Module, embedding: nn.Embedding) -> None:
    if model is embedding:
        raise ValueError(
            "tied='input' needs the model, not its embedding alone: it gives the output layer its own weights"
        )
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if output is None:
        raise ValueError(f"tied='input' needs get_output_embeddings(), which {type(model).__name__} lacks")
    if output.weight is embedding.weight:
        output.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=embedding.weight.requires_grad)
        config: Any = getattr(model, "config", None)
        if hasattr(config, "tie_word_embeddings"):
            config.tie_word_embeddings = False  # else saving would tie them again


def _check_init(init: object, std: float | None) -> Any:
    if callable(init) or init == "match":
        if std is not None:
            raise ValueError(f"std={std} is for init='model'; got init={init!r}")
        return init
    return _check_option("init", init, ("model", "match"))


def _check_option(name: str, value: object, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}")
    return str(value)
