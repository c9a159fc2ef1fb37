"""Other people's operators beside ours: flash-linear-attention's and titans-pytorch's. All of them are optional."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._miras_gpu_arms import LAYERS, RULES, Arm, Inputs, draw_inputs, operand_dtype
from benchmarks._miras_gpu_cases import Case
from benchmarks._miras_gpu_lab import reason
from memarch.ops import MirasRule, miras_memory

PACKAGES = {"fla": "pip install flash-linear-attention", "titans_pytorch": "pip install titans-pytorch"}


class PeerMissing(RuntimeError):
    """A peer cannot run here; the text says why."""


def peer(module: str, name: str) -> Any:
    """`name` of a peer's module. Raises: PeerMissing with the install command."""
    package = module.partition(".")[0]
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # an import of a GPU package can fail in any way
        raise PeerMissing(f"{module}.{name} is not here ({reason(error)}): {PACKAGES[package]}") from error


def first_that_runs(variants: Mapping[str, Callable[[], Tensor]]) -> Callable[[], Tensor]:
    """The first of several ways to call a peer that does not raise: its versions differ in dtypes and arguments.

    Raises: PeerMissing with the error of each way; out of memory passes through.
    """
    errors = []
    for text, call in variants.items():
        try:
            with torch.no_grad():
                call()
            return call
        except (torch.OutOfMemoryError, TimeoutError):
            raise
        except Exception as error:  # whatever a foreign kernel raises
            errors.append(f"{text}: {reason(error)}")
    raise PeerMissing("; ".join(errors))


def fla_arm(name: str, case: Case, inputs: Inputs) -> Arm:
    """A chunked operator of flash-linear-attention ("fla-gdr", "fla-kda", "fla-ttt") on the case's inputs."""
    x, half = inputs, inputs.q.dtype
    gates: tuple[Tensor, ...] = (x.log_decay, x.step_size)
    if name == "fla-gdr":
        op = peer("fla.ops.gated_delta_rule", "chunk_gated_delta_rule")
        named: dict[str, Any] = {"q": x.q, "k": x.k, "v": x.v, "g": x.log_decay, "scale": 1.0}
        variants = {
            "float32 gates": lambda: op(**named, beta=x.step_size, output_final_state=True)[0],
            "bf16 beta": lambda: op(**named, beta=x.step_size.to(half), output_final_state=True)[0],
            "plain": lambda: op(x.q, x.k, x.v, x.log_decay, x.step_size.to(half))[0],
        }
    elif name == "fla-kda":
        op = peer("fla.ops.kda", "chunk_kda")
        # KDA decays every channel on its own.
        g = x.log_decay.detach().unsqueeze(-1).expand_as(x.q).contiguous().requires_grad_()
        named = {"q": x.q, "k": x.k, "v": x.v, "g": g, "scale": 1.0}
        variants = {
            "float32 gates": lambda: op(**named, beta=x.step_size, output_final_state=True)[0],
            "bf16 beta": lambda: op(**named, beta=x.step_size.to(half), output_final_state=True)[0],
            "plain": lambda: op(x.q, x.k, x.v, g.to(half), x.step_size.to(half))[0],
        }
        gates = (g, x.step_size)
    else:
        op = peer("fla.ops.ttt", "chunk_ttt_linear")
        shape, device = (case.heads, case.head_dim), x.q.device
        gain, shift = torch.ones(shape, device=device), torch.zeros(shape, device=device)
        eta = x.step_size.unsqueeze(-1)

        def ttt(dtype: torch.dtype) -> Tensor:
            o: Tensor = op(
                x.q, x.k, x.v, gain.to(dtype), shift.to(dtype), eta.to(half),
                scale=1.0, chunk_size=case.chunk, output_final_state=True,
            )[0]  # fmt: skip
            return o

        variants = {str(dtype): partial(ttt, dtype) for dtype in (half, torch.float32)}
        gates = (x.step_size,)
    return Arm(first_that_runs(variants), (x.q, x.k, x.v, *gates), x.cotangent)


def fla_decode_arm(case: Case, device: torch.device, layers: int = LAYERS) -> Arm:
    """fla's recurrent gated delta rule for one token on `layers` states in turn; new states go to new memory."""
    op = peer("fla.ops.gated_delta_rule", "fused_recurrent_gated_delta_rule")
    x = draw_inputs(case, device, tokens=1, grad=False)
    d = case.head_dim
    states = [torch.randn(case.batch, case.heads, d, d, device=device) for _ in range(layers)]

    def call() -> Tensor:
        o = x.q
        for s in states:
            o, _ = op(
                q=x.q, k=x.k, v=x.v, g=x.log_decay, beta=x.step_size,
                scale=1.0, initial_state=s, output_final_state=True,
            )  # fmt: skip
        return o

    return Arm(first_that_runs({"float32 gates": call}), steps=layers)


class InTitansShell(nn.Module):
    """NeuralMemory with its memory replaced by `miras_memory`: as in benchmarks.miras_cpu, at any size and backend."""

    def __init__(self, titans: Any, rule: MirasRule, case: Case, backend: str) -> None:
        super().__init__()
        self.titans, self.rule, self.case, self.backend = titans, rule, case, backend
        self.raw_threshold = nn.Parameter(torch.zeros(case.heads))

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, T, H D]`, T a multiple of the chunk size."""
        titans, heads, chunk, (batch, length, _) = self.titans, self.case.heads, self.case.chunk, x.shape
        stored, asked = titans.store_norm(x), titans.retrieve_norm(x)
        q, k, v = (
            y.view(batch, length, heads, self.case.head_dim)
            for y in (titans.to_queries(asked), titans.to_keys(stored), titans.to_values(stored))
        )
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        step = titans.adaptive_step_transform(titans.to_adaptive_step(stored)).view(batch, heads, length).mT.to(wide)
        chunk_mean = titans.reduce_to_chunk_rep(stored, chunk_size=chunk)
        decay = titans.to_decay_factor(chunk_mean).to(wide).sigmoid().view(batch, heads, -1).mT
        # One decay a chunk, applied before the chunk's writes: all of it on the chunk's first token.
        rest = decay.new_zeros(batch, decay.shape[1], chunk - 1, heads)
        log_decay = torch.cat([torch.log1p(-decay).unsqueeze(2), rest], 2).flatten(1, 2)
        threshold = None
        if self.rule.needs_threshold:
            threshold = F.softplus(self.raw_threshold.to(wide)).expand(batch, length, heads)
        named = dict(zip(titans.memory_model_parameter_names, titans.memory_model_parameters, strict=True))
        first, second = (w.to(wide) for name, w in named.items() if "weights" in name)
        # Their loss is the mean over the width of e^2, ours is half the sum: a factor of 2 / width in the step.
        o, _ = miras_memory(
            q, k, v, log_decay, step * (2 / self.case.head_dim),
            rule=self.rule, weights=(second.mT, first.mT), threshold=threshold, chunk_size=chunk, backend=self.backend,
        )  # fmt: skip
        gate = titans.retrieve_gate(asked).transpose(1, 2)
        out: Tensor = titans.combine_heads((o * gate).flatten(2))
        return out


def titans_module(case: Case, **own: Any) -> Any:
    """The baseline: every gradient of a chunk is taken at the chunk's start, as ours are."""
    torch.manual_seed(0)
    return peer("titans_pytorch", "NeuralMemory")(
        dim=case.heads * case.head_dim, heads=case.heads, dim_head=case.head_dim,
        chunk_size=case.chunk, batch_size=case.chunk, momentum=False, **own,
    )  # fmt: skip


def titans_arm(name: str, case: Case, device: torch.device, *, backend: str = "triton") -> Arm:
    """NeuralMemory whole ("titans"), or around our memory (the name of a rule); parameters and input in bf16."""
    module = titans_module(case)
    if name != "titans":
        module = InTitansShell(module, RULES[case.memory][name], case, backend)
    dtype = operand_dtype(device)
    module = module.to(device, dtype)
    g = torch.Generator(device).manual_seed(0)
    shape = (case.batch, case.tokens, case.heads * case.head_dim)
    x, cotangent = (torch.randn(*shape, generator=g, device=device).to(dtype) for _ in range(2))
    leaf = x.requires_grad_()

    def call() -> Tensor:
        result = module(leaf)
        return result if isinstance(result, Tensor) else result[0]

    return Arm(call, (leaf, *module.parameters()), cotangent)


def titans_difference() -> float:
    """Relative difference of outputs between the baseline with our memory's formula and the shell around ours.

    In float64 on the CPU, by the torch path, as in `benchmarks.miras_cpu --check`: the baseline answers a chunk's last
    query with the memory after the chunk, as our running read does, the others with the one before, as "frozen" does.
    """
    same = importlib.import_module("benchmarks.miras_cpu").SameMemory
    case = Case(kind="titans", memory="mlp", batch_heads=2, head_dim=64, tokens=32, chunk=8)
    rule = RULES["mlp"]["l2"]
    titans = titans_module(case, model=same(), mem_model_norm_add_residual=False).double()
    x = torch.randn(2, case.tokens, 128, dtype=torch.float64)
    with torch.no_grad():
        theirs, _ = titans(x)
        running, frozen = (
            InTitansShell(titans, r, case, "torch").double()(x) for r in (rule, rule.replace(read="frozen"))
        )
    end = torch.arange(case.tokens) % case.chunk == case.chunk - 1
    pairs = ((running, end), (frozen, ~end))
    return max(((o - theirs)[:, at].norm() / theirs[:, at].norm()).item() for o, at in pairs)
