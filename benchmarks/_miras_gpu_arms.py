"""Our arms and torch's attention: what each computes in a case, on inputs that all arms of the case share."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks._miras_gpu_cases import Case
from memarch.ops import MEMORA, MONETA, TTT_LINEAR, TTT_MLP, YAAD, MirasRule, miras_memory

RULES: dict[str, dict[str, MirasRule]] = {
    "mlp": {"l2": TTT_MLP, "yaad": YAAD.replace(huber="norm"), "moneta": MONETA, "memora": MEMORA},
    "matrix": {"l2": TTT_LINEAR, "yaad-matrix": TTT_LINEAR.replace(bias="huber", huber="norm")},
}
# A model's layers: so many memories take turns in a decoding step, more than a cache holds.
LAYERS = 16


def operand_dtype(device: torch.device) -> torch.dtype:
    """bf16; float32 in a dry run, because Triton's interpreter multiplies bf16's bits as integers."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@dataclass
class Arm:
    """One function under test: `call` builds a graph where gradients are on; `leaves` are what it is differentiated by.

    steps: how many times `call` does the work that a row is about (the layers of a decoding step).
    """

    call: Callable[[], Tensor]
    leaves: tuple[Tensor, ...] = ()
    cotangent: Tensor | None = None
    steps: int = 1

    @torch.no_grad()
    def forward(self) -> None:
        """One pass without gradients."""
        self.call()

    def forward_backward(self) -> None:
        """One pass and the gradients of every leaf, none accumulated."""
        out = self.call()
        cotangent = torch.ones_like(out) if self.cotangent is None else self.cotangent.to(out.dtype)
        torch.autograd.grad(out, self.leaves, cotangent, allow_unused=True)


@dataclass
class Inputs:
    """Tensors `[B, T, H, D]` in `operand_dtype` with unit q and k, and gates `[B, T, H]` in float32."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    step_size: Tensor
    threshold: Tensor
    cotangent: Tensor


def draw_inputs(case: Case, device: torch.device, *, tokens: int | None = None, grad: bool = True) -> Inputs:
    """Random inputs of a case, or of `tokens` tokens, made on the device."""
    g = torch.Generator(device).manual_seed(0)
    shape = (case.batch, case.tokens if tokens is None else tokens, case.heads, case.head_dim)
    dtype = operand_dtype(device)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, device=device)

    def vectors(*, unit: bool) -> Tensor:
        x = randn(*shape)
        return (F.normalize(x, dim=-1) if unit else x).to(dtype).requires_grad_(grad)

    q, k, v = vectors(unit=True), vectors(unit=True), vectors(unit=False)
    log_decay = F.logsigmoid(randn(*shape[:3]) + 3).requires_grad_(grad)
    step_size = (0.3 * torch.sigmoid(randn(*shape[:3]))).requires_grad_(grad)
    threshold = F.softplus(randn(*shape[:3]) + 0.5).requires_grad_(grad)
    return Inputs(q, k, v, log_decay, step_size, threshold, randn(*shape).to(dtype))


def draw_weights(case: Case, rule: MirasRule, device: torch.device, *, grad: bool = True) -> tuple[Tensor, ...]:
    """Start of the memory: unit gain, unit q-norm where the rule divides by one."""
    g = torch.Generator(device).manual_seed(1)
    d, hidden = case.head_dim, 4 * case.head_dim
    shapes = [(d, hidden), (hidden, d)] if rule.memory == "mlp" else [(d, d)]
    weights = [torch.randn(case.heads, *s, generator=g, device=device) / s[1] ** 0.5 for s in shapes]
    if rule.link == "lq":
        weights = [w / torch.linalg.vector_norm(w, rule.q, dim=(1, 2), keepdim=True) for w in weights]
    return tuple(w.requires_grad_(grad) for w in weights)


def own_arm(name: str, case: Case, inputs: Inputs, device: torch.device, *, backend: str = "triton") -> Arm:
    """`miras_memory` under the rule called `name`."""
    rule = RULES[case.memory][name]
    weights = draw_weights(case, rule, device)
    x = inputs
    threshold = x.threshold if rule.needs_threshold else None

    def call() -> Tensor:
        return miras_memory(
            x.q, x.k, x.v, x.log_decay, x.step_size,
            rule=rule, weights=weights, threshold=threshold, chunk_size=case.chunk, backend=backend,
        )[0]  # fmt: skip

    gates = (x.log_decay, x.step_size, *(() if threshold is None else (threshold,)))
    return Arm(call, (x.q, x.k, x.v, *gates, *weights), x.cotangent)


def sdpa_arm(inputs: Inputs, device: torch.device) -> Arm:
    """Causal attention by torch's flash backend (on a CPU whichever it has)."""
    q, k, v = (x.detach().transpose(1, 2).requires_grad_() for x in (inputs.q, inputs.k, inputs.v))

    def call() -> Tensor:
        with flash_only(device):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return Arm(call, (q, k, v), inputs.cotangent.transpose(1, 2))


def flash_only(device: torch.device) -> AbstractContextManager[None]:
    """The context in which attention runs by the flash backend or raises."""
    flash, any_size = SDPBackend.FLASH_ATTENTION, SDPBackend.MATH
    return sdpa_kernel([flash] if device.type == "cuda" else [flash, any_size])


def own_decode_arm(name: str, case: Case, device: torch.device, layers: int = LAYERS) -> Arm:
    """`miras_step` on `layers` memories in turn, their states overwritten."""
    from memarch.ops.miras_step import decoding_state, miras_step

    rule = RULES[case.memory][name]
    x = draw_inputs(case, device, tokens=1, grad=False)
    threshold = x.threshold if rule.needs_threshold else None
    weights = draw_weights(case, rule, device, grad=False)
    _, first = miras_memory(
        x.q, x.k, x.v, x.log_decay, x.step_size,
        rule=rule, weights=weights, threshold=threshold, chunk_size=case.chunk,
    )  # fmt: skip
    states = [decoding_state(first) for _ in range(layers)]

    def call() -> Tensor:
        o = x.q
        for state in states:
            o = miras_step(
                x.q, x.k, x.v, x.log_decay, x.step_size,
                rule=rule, state=state, threshold=threshold, backend="triton",
            )  # fmt: skip
        return o

    return Arm(call, steps=layers)


def sdpa_decode_arm(case: Case, device: torch.device, layers: int = LAYERS) -> Arm:
    """Attention of one query over `layers` caches of T keys and values."""
    shape = (case.batch, case.heads, case.tokens, case.head_dim)
    dtype = operand_dtype(device)
    caches = [[torch.randn(*shape, device=device, dtype=dtype) for _ in "kv"] for _ in range(layers)]
    q = torch.randn(case.batch, case.heads, 1, case.head_dim, device=device, dtype=dtype)

    def call() -> Tensor:
        o = q
        with flash_only(device):
            for k, v in caches:
                o = F.scaled_dot_product_attention(q, k, v)
        return o

    return Arm(call, steps=layers)
