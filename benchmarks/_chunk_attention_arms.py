"""What benchmarks.chunk_attention compares: one read of a memory of chunks, by ours and by others, on equal tensors."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memarch.ops import ChunkAttentionWeights, chunk_attention
from memarch.ops._chunk_attention_inputs import sinusoids

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Size:
    """B sequences of T queries over M chunks of C rows, D wide, H heads, k chunks a query."""

    B: int
    T: int
    M: int
    C: int = 32
    D: int = 256
    H: int = 8
    k: int = 8
    dtype: str = "float32"

    @property
    def top_k(self) -> int:
        """Chunks read: all if there are fewer than k."""
        return min(self.k, self.M)

    @property
    def label(self) -> str:
        """As printed and as --only matches it."""
        return f"B={self.B} T={self.T} M*C={self.M * self.C}"

    def text(self) -> str:
        """As the rows' settings; `Size(**json.loads(text))` is this size."""
        return json.dumps(asdict(self), sort_keys=True)


class Inputs(NamedTuple):
    """x `[B, T, D]`, contents `[B, M, C, D]` and their means, unit-variance; weights of unit gain."""

    size: Size
    x: Tensor
    contents: Tensor
    summaries: Tensor
    weights: ChunkAttentionWeights


def make_inputs(size: Size, device: torch.device, *, grad: bool) -> Inputs:
    """Random numbers from one seed. grad: to x and to the weights, as in training; never to what is stored."""
    generator = torch.Generator(device).manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=DTYPES[size.dtype])

    x, contents = randn(size.B, size.T, size.D), randn(size.B, size.M, size.C, size.D)
    weights = [randn(size.D, size.D) / size.D**0.5 for _ in ChunkAttentionWeights._fields]
    for leaf in (x, *weights):
        leaf.requires_grad_(grad)
    return Inputs(size, x, contents, contents.mean(2), ChunkAttentionWeights(*weights))


def ours(i: Inputs, *, form: str | None = None, backend: str | None = None) -> Tensor:
    """`memarch.ops.chunk_attention` as the HCAM layer calls it."""
    size, w = i.size, i.weights
    return chunk_attention(
        i.x, i.summaries, i.contents, weights=w, num_heads=size.H, top_k=size.top_k, form=form, backend=backend
    )


def released(i: Inputs) -> Tensor:
    """The released module's algorithm (F0): rows gathered for every query, keys and values projected after that."""
    size, w = i.size, i.weights
    chunk, weight = route(i)
    batch = torch.arange(size.B, device=i.x.device)[:, None, None]
    rows = i.contents[batch, chunk] + sinusoids(size.C, size.D, i.contents)
    q, k, v = (_heads(y, size) for y in (i.x @ w.query.mT, rows @ w.key.mT, rows @ w.value.mT))
    scores = torch.einsum("bthe,btkche->btkhc", q, k) * (size.D // size.H) ** -0.5
    mixed = torch.einsum("btkhc,btkche->btkhe", scores.softmax(-1), v).flatten(3) @ w.output.mT
    return (mixed * weight.unsqueeze(-1)).sum(2)


def full_attention(i: Inputs) -> Tensor:
    """Scaled dot product attention over the whole memory: one softmax over all rows, no chunks."""
    q, k, v = _project_memory(i)
    y = F.scaled_dot_product_attention(q, k, v)
    return y.transpose(1, 2).flatten(2) @ i.weights.output.mT


def flex(i: Inputs) -> Tensor:
    """flex_attention over the selected chunks: one softmax over all of a query's rows, which is another function.

    A softmax inside each chunk, weighted by the router, has no form in it.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    size = i.size
    chunk, _ = route(i)
    selected = torch.zeros(size.B, size.T, size.M, dtype=torch.bool, device=i.x.device).scatter_(-1, chunk, True)

    def reads(b: Tensor, h: Tensor, t: Tensor, row: Tensor) -> Tensor:
        return selected[b, t, row // size.C]

    mask = create_block_mask(reads, size.B, None, size.T, size.M * size.C, device=str(i.x.device))
    y = _compiled_flex()(*_project_memory(i), block_mask=mask)
    return y.transpose(1, 2).flatten(2) @ i.weights.output.mT


def htm(i: Inputs) -> Callable[[], Tensor]:
    """htm-pytorch's HTMAttention with our weights, its biases zero; it takes the chunks' means itself."""
    from htm_pytorch import HTMAttention

    size, w = i.size, i.weights
    module: Any = HTMAttention(size.D, size.H, topk_mems=size.top_k, mem_chunk_size=size.C, dim_head=size.D // size.H)
    module = module.to(i.x.device, i.x.dtype)
    named = {
        module.to_summary_queries: w.router_query, module.to_summary_keys: w.router_key, module.attn.to_q: w.query,
        module.attn.to_kv: torch.cat([w.key, w.value]), module.attn.to_out: w.output,
    }  # fmt: skip
    with torch.no_grad():
        for linear, weight in named.items():
            linear.weight.copy_(weight)
            if linear.bias is not None:
                linear.bias.zero_()
    for parameter in module.parameters():
        parameter.requires_grad_(i.x.requires_grad)
    return lambda: module(i.x, i.contents.flatten(1, 2))


ARMS: dict[str, Callable[[Inputs], Callable[[], Tensor]]] = {
    "released": lambda i: lambda: released(i),
    "ours": lambda i: lambda: ours(i),
    "ours-dense": lambda i: lambda: ours(i, form="dense"),
    "ours-absorbed": lambda i: lambda: ours(i, form="absorbed"),
    "ours-torch": lambda i: lambda: ours(i, backend="torch"),
    "htm": htm,
    "sdpa": lambda i: lambda: full_attention(i),
    "flex": lambda i: lambda: flex(i),
}
"""From inputs to a call."""
SAME_FUNCTION = ("released", "ours-dense", "ours-absorbed", "htm")


def check(device: torch.device) -> dict[str, float]:
    """Relative difference to ours of the arms that compute the same function, in float64 at a small size."""
    i = make_inputs(Size(B=2, T=5, M=7, C=3, D=16, H=2, k=3, dtype="float64"), device, grad=False)
    expected = ours(i, backend="torch")
    known = [arm for arm in SAME_FUNCTION if arm != "htm" or htm_installed()]
    found = {arm: ARMS[arm](i)() for arm in known}
    return {arm: ((y - expected).norm() / expected.norm()).item() for arm, y in found.items()}


def htm_installed() -> bool:
    """Whether the peer can be imported."""
    return importlib.util.find_spec("htm_pytorch") is not None


def step_of(arm: str, i: Inputs, which: str) -> Callable[[], None]:
    """One forward pass without gradients, or one forward and backward to x and the weights."""
    call = ARMS[arm](i)
    cotangent = torch.ones_like(i.x)

    def forward() -> None:
        with torch.no_grad():
            call()

    def forward_backward() -> None:
        for leaf in (i.x, *i.weights):
            leaf.grad = None
        call().backward(cotangent)

    return forward if which == "forward" else forward_backward


def route(i: Inputs) -> tuple[Tensor, Tensor]:
    """The released router: (chunks, weights), `[B, T, k]` each."""
    w = i.weights
    scores = (i.x @ w.router_query.mT) @ (i.summaries @ w.router_key.mT).mT * w.router_query.shape[0] ** -0.5
    top, chunk = scores.topk(i.size.top_k, dim=-1)
    return chunk, top.softmax(-1)


def _project_memory(i: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v `[B, H, T or M C, D/H]` of the whole memory."""
    rows = (i.contents + sinusoids(i.size.C, i.size.D, i.contents)).flatten(1, 2)
    pairs = ((i.x, i.weights.query), (rows, i.weights.key), (rows, i.weights.value))
    q, k, v = (_heads(y @ w.mT, i.size).transpose(1, 2) for y, w in pairs)
    return q, k, v


def _heads(y: Tensor, size: Size) -> Tensor:
    return y.unflatten(-1, (size.H, -1))


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False)
    return compiled
