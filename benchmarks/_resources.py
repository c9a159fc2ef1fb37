"""What the compiler says of the kernels that host code launches, without a GPU: registers, shared memory, spills.

Host code runs up to `kernel[grid](...)`, on meta tensors. There the kernel is compiled for a given architecture by the
path a launch takes, which types and specialises its arguments, and nothing is launched.
"""

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, NamedTuple

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.cache import get_cache_manager
from triton.runtime.jit import JITFunction


class Target(NamedTuple):
    """An architecture and the shared memory that one block may have there."""

    capability: int
    shared_limit: int


DEFAULTS: dict[str, Any] = {"num_warps": 4, "num_stages": 3, "maxnreg": None}
"""Triton's launch options that decide what the compiler makes of a kernel."""
TARGETS = {"sm_90": Target(90, 227 * 1024), "sm_80": Target(80, 163 * 1024)}


@dataclass(frozen=True)
class Usage:
    """What ptxas says of one kernel. serialized: products of matrices wait for each other, for want of registers."""

    registers: int = 0
    stack_bytes: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    serialized: bool = False


@dataclass(frozen=True)
class Compiled:
    """One kernel as launched; `error` says why the compiler failed, empty if it did not.

    maxnreg: the launch's limit of registers, None if it sets none. tiles: the compile-time sizes named B and a letter.
    """

    kernel: str
    num_warps: int
    num_stages: int
    maxnreg: int | None
    tiles: str
    shared_bytes: int = 0
    usage: Usage = Usage()
    cubin: bytes = b""
    error: str = ""


def parse_ptxas(log: str) -> Usage:
    """Figures of `ptxas -v`: bytes and registers of a thread, spills of all functions of the kernel together.

    Raises: ValueError if the log has no figures.
    """
    registers = re.findall(r"Used (\d+) registers", log)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if not registers or not frames:
        raise ValueError(f"no registers and spills in the log of ptxas, is it run with -v? It says: {log[:500]!r}")
    whole = re.findall(r"(\d+) bytes cumulative stack size", log)
    stacks, stores, loads = zip(*(map(int, frame) for frame in frames), strict=True)
    return Usage(
        registers=max(map(int, registers)),
        stack_bytes=max(map(int, whole), default=max(stacks)),
        spill_stores=sum(stores),
        spill_loads=sum(loads),
        serialized="wgmma.mma_async instructions are serialized" in log,
    )


class _Compiler:
    """Stands in for a GPU's driver, which Triton asks what to compile for."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.target.capability, 32)

    def get_current_device(self) -> int:
        # Triton keeps what it compiled by device.
        return self.target.capability

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling(
    target: Target, *, wanted: Callable[[str], bool] = lambda name: True, changes: Mapping[str, object] | None = None
) -> Iterator[list[Compiled]]:
    """Inside, launches compile for `target` instead, and the list given grows by one entry per launch.

    Args:
        target: see TARGETS.
        wanted: of a kernel's name, whether to compile it; other launches do nothing.
        changes: arguments and launch options to replace, by name. A launch that has no such argument raises ValueError.

    Raises:
        ValueError: TRITON_INTERPRET is set: then there are no kernels to compile.
    """
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise ValueError(
            f"TRITON_INTERPRET={os.environ['TRITON_INTERPRET']} makes kernels interpreted functions, which cannot be "
            "compiled; unset it"
        )
    # Not driver.active and reset_active: both look for a GPU.
    launch, active, found = JITFunction.run, driver._active, []

    def record(self: Any, *args: object, grid: object, warmup: bool, **options: Any) -> None:
        if not wanted(self.__name__):
            return
        for name in changes or ():
            if name not in (*self.arg_names, *DEFAULTS):
                known = ", ".join([*(p.name for p in self.params if p.is_constexpr), *DEFAULTS])
                raise ValueError(f"{self.__name__} takes no {name}, only {known}")
        options |= changes or {}
        named = {name: value for name, value in options.items() if name in self.arg_names}
        # A launch that does not fit the kernel's parameters is the host's mistake: it goes back to the host.
        self.signature.bind(*args, **named)
        found.append(_compile(launch, self, args, grid, named, options))

    JITFunction.run = record
    driver.set_active(_Compiler(target))
    try:
        with knobs.nvidia.scope():
            knobs.nvidia.dump_ptxas_log = True
            yield found
    finally:
        JITFunction.run = launch
        driver.set_active(active)


def _compile(
    launch: Callable[..., Any],
    kernel: Any,
    args: tuple[object, ...],
    grid: object,
    named: Mapping[str, object],
    options: Mapping[str, Any],
) -> Compiled:
    tiles = " ".join(f"{name}={value}" for name, value in named.items() if re.fullmatch("B[A-Z]", name))
    launched = {**DEFAULTS, **{name: options[name] for name in DEFAULTS if name in options}}
    try:
        binary, log = _binary_and_log(launch, kernel, args, grid, options)
        usage = parse_ptxas(log)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
        return Compiled(kernel.__name__, tiles=tiles, error=reason, **launched)
    return Compiled(
        kernel.__name__,
        tiles=tiles,
        shared_bytes=binary.metadata.shared,
        usage=usage,
        cubin=binary.asm["cubin"],
        **launched,
    )


def _binary_and_log(
    launch: Callable[..., Any], kernel: Any, args: tuple[object, ...], grid: object, options: Mapping[str, object]
) -> tuple[Any, str]:
    """The compiled kernel and what ptxas said when it was made; the log is kept beside it in Triton's cache."""

    def compile_once() -> tuple[Any, str]:
        with redirect_stdout(io.StringIO()) as said:
            binary = launch(kernel, *args, grid=grid, warmup=True, **options)
        return binary, said.getvalue()

    binary, log = compile_once()
    cache, name = get_cache_manager(binary.hash), f"{binary.name}.ptxas"
    path = cache.get_file(name)
    if not log and path is not None:
        with open(path, encoding="utf-8") as file:
            return binary, file.read()
    if not log:
        # Somebody else compiled this one and did not keep the log.
        with knobs.compilation.scope():
            knobs.compilation.always_compile = True
            kernel.device_caches.clear()
            binary, log = compile_once()
    cache.put(log, name, binary=False)
    return binary, log
