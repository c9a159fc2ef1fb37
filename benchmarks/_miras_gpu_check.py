"""Before anything is timed: do the kernels compute the right thing on this device?

Each rule at a small size in bf16 against the float64 reference. An arm may be off by four times what the torch path is
off by (which computes in float32, so that this is bf16's rounding of the result), plus a floor. Gradients of gates and
weights leave the torch path in float32; ours come out of bf16 products, so their floor is bf16's precision.
"""

from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor

from benchmarks._miras_gpu_arms import RULES, operand_dtype
from benchmarks._miras_gpu_lab import ArmLost, DeviceLost, Lab, reason
from memarch.ops import MirasRule, miras_memory, miras_memory_reference
from memarch.testing import miras_inputs, relative_rms

SIZE, TINY_SIZE = (70, 64), (19, 16)
FACTOR, FLOOR, FLOAT32_FLOOR = 4.0, 1e-3, 3e-2


def limit(torch_error: float, *, float32: bool) -> float:
    """The largest error that is still right."""
    return FACTOR * torch_error + (FLOAT32_FLOOR if float32 else FLOOR)


def results(
    op: Callable[..., tuple[Tensor, object]],
    rule: MirasRule,
    tensors: dict[str, Tensor],
    cotangent: Tensor,
    chunk: int,
    backend: str,
) -> dict[str, Tensor]:
    """Output and gradients by name."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}
    named = {name: x for name, x in leaves.items() if not name.startswith("weight")}
    weights = tuple(x for name, x in leaves.items() if name.startswith("weight"))
    o, _ = op(**named, rule=rule, weights=weights, chunk_size=chunk, backend=backend)
    grads = torch.autograd.grad(o, list(leaves.values()), cotangent.to(o), allow_unused=True)
    found = {f"d {name}": g for name, g in zip(leaves, grads, strict=True) if g is not None}
    return {"o": o.detach(), **found}


def check_rule(rule: MirasRule, chunk: int, device: torch.device, *, tokens: int, head_dim: int) -> tuple[str, bool]:
    """(what was found, whether it is right)."""
    drawn = miras_inputs(rule, seq_len=tokens, num_heads=2, head_dim=head_dim, hidden_dim=4 * head_dim)
    dtype = operand_dtype(device)
    tensors = {n: getattr(drawn, n).to(dtype) for n in ("q", "k", "v")}
    tensors |= {n: getattr(drawn, n).float() for n in ("log_decay", "step_size")}
    if drawn.threshold is not None:
        tensors["threshold"] = drawn.threshold.float()
    tensors |= {f"weight{i}": w.float() for i, w in enumerate(drawn.weights)}
    cotangent = torch.randn(*drawn.q.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = results(
        miras_memory_reference, rule, {n: x.double() for n, x in tensors.items()}, cotangent.double(), chunk, "torch"
    )
    there = {name: x.to(device) for name, x in tensors.items()}
    ours, plain = (
        results(miras_memory, rule, there, cotangent.to(device), chunk, backend) for backend in ("triton", "torch")
    )
    found = []
    for name, expected in exact.items():
        error, usual = relative_rms(ours[name], expected), relative_rms(plain[name], expected)
        share = error / limit(usual, float32=plain[name].dtype == torch.float32)
        found.append((share <= 1.0, -share, f"{name} {error:.1e} (torch {usual:.1e})"))
    o, o_plain = relative_rms(ours["o"], exact["o"]), relative_rms(plain["o"], exact["o"])
    right, _, text = min(found)
    return f"o {o:.1e} (torch {o_plain:.1e}), nearest its limit: {text}", right


def check_name(memory: str, name: str, chunk: int) -> str:
    """How a check is called in lines and in `--without`."""
    return f"{memory} {name} C={chunk}"


def check_all(
    wanted: Iterable[tuple[str, str, int]],
    lab: Lab,
    *,
    size: tuple[int, int] = SIZE,
    without: Collection[str] = (),
) -> set[tuple[str, str, int]]:
    """Check each (memory, rule's name, chunk size), print a line each; those that must not be timed.

    size: (tokens, head width). without: names of checks under which the device was lost before.
    Raises: ArmLost if it is lost now.
    """
    refused = set()
    for memory, name, chunk in sorted(set(wanted)):
        title = check_name(memory, name, chunk)
        try:
            if title in without:
                raise DeviceLost("the device was lost under it")
            text, right = check_rule(RULES[memory][name], chunk, lab.device, tokens=size[0], head_dim=size[1])
        except Exception as error:  # the kernels under test may raise anything
            text, right = reason(error), False
            try:
                lab.free()
            except DeviceLost as lost:
                raise ArmLost(title, text) from lost
        print(f"  {title}: {text}{'' if right else ' -> WRONG, not timed'}", flush=True)
        if not right:
            refused.add((memory, name, chunk))
    return refused
