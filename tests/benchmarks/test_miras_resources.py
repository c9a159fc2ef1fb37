import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="there are Triton wheels for Linux on x86-64 only")

from benchmarks import miras_resources
from benchmarks._resources import TARGETS, Usage, compiling, parse_ptxas

ROOT = Path(__file__).parents[2]
LOG = """\
ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient\
 register resources for the function 'matrix_backward'
ptxas info    : 28 bytes gmem
ptxas info    : Compiling entry function 'matrix_backward' for 'sm_90a'
ptxas info    : Function properties for matrix_backward
    2344 bytes stack frame, 2456 bytes spill stores, 2900 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 2352 bytes cumulative stack size
"""
PLAIN = """\
ptxas info    : Compiling entry function 'f' for 'sm_80'
ptxas info    : Function properties for f
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 400 bytes cmem[0]
"""
CALLED = (
    "ptxas info    : Function properties for g\n    8 bytes stack frame, 5 bytes spill stores, 3 bytes spill loads\n"
)
A_ROW = {
    "kernel": "k", "dtype": "bf16", "rule": "yaad", "gates": "head", "target": "sm_90", "D": 5, "C": 3,
    "spill_stores": 0, "spill_loads": 0, "shared_bytes": 7, "fits": "true", "error": "",
}  # fmt: skip

# Figures of a training step's forward and of a decoded token, the forward's binary and what cuobjdump says of it.
INSPECT = """
import subprocess
from triton import knobs
from benchmarks._resources import TARGETS, compiling
from benchmarks.miras_resources import Case, scan, step

for host in (step, scan):
    case = Case(host, "matrix", 32, 16, "bf16", "yaad", "head", "sm_80")
    with compiling(TARGETS["sm_80"], wanted=lambda name: name != "matrix_backward") as found:
        host(case)
    (compiled,) = found
    usage = compiled.usage
    print(compiled.kernel, usage.registers, usage.stack_bytes, usage.spill_stores, usage.spill_loads)
with open(PATH, "wb") as file:
    file.write(compiled.cubin)
command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", PATH]
print(subprocess.run(command, capture_output=True, text=True).stdout)
"""


def in_new_process(*arguments):
    """Output of Python without TRITON_INTERPRET, which would leave nothing to compile."""
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ptxas_log_by_hand():
    assert parse_ptxas(LOG) == Usage(
        registers=255, stack_bytes=2352, spill_stores=2456, spill_loads=2900, serialized=True
    )
    assert parse_ptxas(PLAIN) == Usage(registers=40)
    assert parse_ptxas(PLAIN + CALLED) == Usage(registers=40, stack_bytes=8, spill_stores=5, spill_loads=3)


@pytest.mark.parametrize("log", ["", "ptxas info    : 28 bytes gmem", PLAIN.replace("Used", "Kept")])
def test_a_log_without_figures_is_an_error(log):
    with pytest.raises(ValueError, match="no registers and spills in the log of ptxas"):
        parse_ptxas(log)


def test_the_interpreter_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1 .* unset it"):
        with compiling(TARGETS["sm_90"]):
            pass


def test_summary_counts_and_names_what_is_wrong():
    rows = [
        A_ROW,
        A_ROW | {"spill_loads": 4},
        A_ROW | {"kernel": "wide", "fits": "false", "spill_stores": 4},
        A_ROW | {"kernel": "bad", "fits": "false", "error": "PTXASError: no"},
    ]
    counts, *named = miras_resources.summary(rows).splitlines()
    assert counts == "4 kernels: 2 spill, 1 do not fit, 1 do not compile"
    assert named == [
        "does not fit: wide bf16 yaad head sm_90 D=5 C=3 7",
        "does not compile: bad bf16 yaad head sm_90 D=5 C=3 PTXASError: no",
    ]


def test_cases_cover_every_width_chunk_and_rule():
    found = list(miras_resources.cases(["sm_90"], ["matrix", "mlp"], None))
    assert {(c.memory, c.head_dim) for c in found} == {
        *(("matrix", d) for d in (16, 48, 64, 96, 128)),
        *(("mlp", d) for d in (32, 48, 64, 96, 128)),
    }
    assert len(found) == len(set(found)) == 2 * (5 + 4) * (3 + 1)
    assert {c.chunk_size for c in found if c.host is miras_resources.scan} == {16, 32, 64}
    kinds = {(c.dtype, c.rule, c.gates) for c in found if c.head_dim == 64}
    assert kinds == {
        ("bf16", "yaad", "head"), ("fp32", "yaad", "head"), ("bf16", "yaad", "channel"),
        ("bf16", "moneta", "head"), ("bf16", "memora", "head"),
    }  # fmt: skip
    (one, *_) = miras_resources.cases(["sm_80"], ["mlp"], [96])
    assert str(one) == "mlp D=96 C=16 bf16 yaad head sm_80"


@pytest.mark.parametrize("text", ["num_warps", "=4", "num_warps="])
def test_a_malformed_change_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        miras_resources.main(["--set", text])
    assert f"expected NAME=VALUE, like num_warps=16; got {text!r}" in capsys.readouterr().err


def test_a_width_without_cases_says_so():
    with pytest.raises(SystemExit, match="no kernel was compiled: 0 cases, 0 skipped"):
        miras_resources.main(["--head-dims", "17", "--jobs", "1"])


@pytest.mark.slow
def test_matrix_kernels_compile_without_a_gpu(tmp_path):
    path = tmp_path / "rows.csv"
    command = ["-m", "benchmarks.miras_resources", "--memory", "matrix", "--head-dims", "64", "--jobs", "1"]
    shown = in_new_process(
        *command, "--target", "sm_90", "--only", "ward matrix D=64 C=64 bf16 yaad head", "--results", str(path)
    )
    with path.open(newline="") as file:
        forward, backward = csv.DictReader(file)
    assert (forward["kernel"], backward["kernel"]) == ("matrix_forward", "matrix_backward")
    for row in (forward, backward):
        assert (row["D"], row["C"], row["target"], row["fits"], row["error"]) == ("64", "64", "sm_90", "true", "")
        assert 32 <= int(row["registers"]) <= 255 and int(row["shared_bytes"]) >= 64 * 64 * 2
        assert row["num_warps"] in ("4", "8", "16") and row["tiles"].startswith("BC=64 BD=64")
        assert row["triton"] and row["commit"] and row["date"]
    assert re.search(r"^2 kernels: \d spill, 0 do not fit, 0 do not compile; 0 cases skipped", shown, re.M)


@pytest.mark.slow
def test_figures_are_those_of_the_binary_and_small_kernels_do_not_spill(tmp_path):
    path = tmp_path / "kernel.cubin"
    step, forward, *usage = in_new_process("-c", INSPECT.replace("PATH", repr(str(path)))).splitlines()
    assert path.read_bytes()[:4] == b"\x7fELF"
    name, registers, stack, *spills = forward.split()
    assert (name, spills) == ("matrix_forward", ["0", "0"])
    assert f"REG:{registers} STACK:{stack} " in "".join(usage)
    assert step.split()[0] == "matrix_step" and step.split()[3:] == ["0", "0"]


@pytest.mark.slow
def test_a_change_reaches_the_compiler_and_an_unknown_one_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    command = ["-m", "benchmarks.miras_resources", "--memory", "matrix", "--head-dims", "16", "--jobs", "1"]
    command += ["--only", "forward matrix D=16 C=16 bf16 yaad head sm_90", "--set"]
    in_new_process(*command, "num_warps=1", "maxnreg=64", "--results", str(path))
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["num_warps"], row["maxnreg"]) == ("1", "64") and int(row["registers"]) <= 64
    with pytest.raises(AssertionError, match="matrix_forward takes no num_wraps, only C, BC, D, .* num_warps"):
        in_new_process(*command, "num_wraps=1")
