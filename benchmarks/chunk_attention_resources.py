"""Registers, shared memory and spills of every shipped chunk attention kernel configuration, without a GPU.

As `benchmarks.miras_resources`: the host code runs on tensors without memory and each kernel is compiled for sm_90
(H100) and sm_80 (A100). D is the width of a head (dense) or of a row of memory (sparse). "memory": the sparse backward
that also gives the memory's gradient; the dense one always does.

The rows file is written as a whole by a run of all cases and left alone by every other run; --results writes the rows
of any run to a file of your choice. Two cores: about 5 minutes.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import _resources_runs
from benchmarks._harness import RESULTS
from benchmarks._resources import TARGETS
from benchmarks._resources_runs import add_options, compile_rows, finish
from memarch.ops._dispatch import kernels

NAME = "chunk_attention_resources"
# As in training: the sizes decide the arguments' divisibility and the queries a tile, nothing else.
BATCH, TIME, CHUNKS, HEADS, TOP_K = 8, 512, 128, 8, 8
WIDTHS = {"dense": (16, 32, 64, 128), "sparse": (64, 128, 256, 512)}
CHUNK_SIZES = (16, 32, 64)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Case:
    """A training step of one form, for one architecture."""

    form: str
    width: int
    chunk_size: int
    dtype: str
    gradient: str
    target: str

    def __str__(self) -> str:
        return f"{self.form} D={self.width} C={self.chunk_size} {self.dtype} {self.gradient} {self.target}"

    def columns(self) -> dict[str, object]:
        """The case in a line of the rows file."""
        named = ("form", "width", "chunk_size", "dtype", "gradient", "target")
        return {{"width": "D", "chunk_size": "C"}.get(name, name): getattr(self, name) for name in named}

    def launch(self) -> None:
        """Forward, and backward to everything or to all but the memory."""
        module = kernels("chunk_attention")
        rows = (BATCH, CHUNKS, self.chunk_size)
        q = self._tensor(BATCH, TIME, HEADS, self.width)
        real = torch.empty(*rows, dtype=torch.bool, device="meta")
        if self.form == "dense":
            k, v = (self._tensor(*rows, HEADS, self.width) for _ in range(2))
            spread = torch.empty(BATCH, TIME, CHUNKS, device="meta", requires_grad=True)
            o = module.dense_chunks(q, k, v, real, spread)
        else:
            memory = self._tensor(*rows, self.width, grad=self.gradient == "memory")
            position = self._tensor(self.chunk_size, self.width, grad=False)
            chunk = torch.empty(BATCH, TIME, TOP_K, dtype=torch.int64, device="meta")
            weight = torch.empty(BATCH, TIME, TOP_K, device="meta", requires_grad=True)
            o = module.sparse_chunks(q, memory, real, position, chunk, weight)
        o.backward(torch.empty_like(o))

    def _tensor(self, *shape: int, grad: bool = True) -> Tensor:
        return torch.empty(*shape, dtype=DTYPES[self.dtype], device="meta", requires_grad=grad)


def cases(targets: Sequence[str], forms: Sequence[str], widths: Sequence[int] | None) -> Iterator[Case]:
    """All cases: every width and chunk size, in bfloat16 and in float32."""
    for form in forms:
        for width in WIDTHS[form]:
            if widths is not None and width not in widths:
                continue
            for dtype in DTYPES:
                for gradient in ("all",) if form == "dense" else ("queries", "memory"):
                    for chunk_size in CHUNK_SIZES:
                        for target in targets:
                            yield Case(form, width, chunk_size, dtype, gradient, target)


def summary(rows: Sequence[Mapping[str, object]]) -> str:
    """How many spill, do not fit and do not compile, and which."""

    def describe(row: Mapping[str, object]) -> str:
        named = " ".join(str(row[name]) for name in ("kernel", "dtype", "gradient", "target"))
        return f"{named} D={row['D']} C={row['C']}"

    return _resources_runs.summary(rows, describe)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", nargs="+", default=list(WIDTHS), choices=WIDTHS, help="default: both")
    parser.add_argument("--widths", type=int, nargs="+", help="default: all")
    add_options(parser, name=NAME, example="sparse_backward sparse D=256 C=32 bf16 queries sm_90")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Compile the cases; see the module's docstring."""
    options = parse(arguments)
    chosen = list(cases(options.target, options.form, options.widths))
    if options.quick:
        chosen = [c for c in chosen if (c.target, c.dtype, c.chunk_size) == ("sm_90", "bf16", 32)]
        chosen = [c for c in chosen if (c.form, c.width) in (("dense", 64), ("sparse", 256))]
    whole = not options.only and not options.set and chosen == list(cases(list(TARGETS), list(WIDTHS), None))
    path = options.results or (RESULTS / f"{NAME}.csv" if whole else None)
    rows, skipped = compile_rows(chosen, options, path)
    finish(_resources_runs.show(rows, hidden=("num_stages", "error")), summary(rows), rows, skipped, path)


if __name__ == "__main__":
    main()
