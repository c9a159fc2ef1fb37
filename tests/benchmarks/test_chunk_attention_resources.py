import pytest

pytest.importorskip("triton", reason="there are Triton wheels for Linux on x86-64 only")

from benchmarks import chunk_attention_resources as resources

A_ROW = {
    "kernel": "k", "dtype": "bf16", "gradient": "all", "target": "sm_90", "D": 5, "C": 3,
    "spill_stores": 0, "spill_loads": 0, "shared_bytes": 7, "fits": "true", "error": "",
}  # fmt: skip


def test_cases_cover_every_width_chunk_and_dtype():
    found = list(resources.cases(["sm_90"], ["dense", "sparse"], None))
    assert {(c.form, c.width) for c in found} == {
        *(("dense", w) for w in (16, 32, 64, 128)),
        *(("sparse", w) for w in (64, 128, 256, 512)),
    }
    assert {c.chunk_size for c in found} == {16, 32, 64} and {c.dtype for c in found} == {"bf16", "fp32"}
    assert len(found) == len(set(found)) == 3 * 2 * (4 + 4 * 2)
    (one, *_) = resources.cases(["sm_80"], ["sparse"], [256])
    assert str(one) == "sparse D=256 C=16 bf16 queries sm_80"
    assert one.columns() == {
        "form": "sparse", "D": 256, "C": 16, "dtype": "bf16", "gradient": "queries", "target": "sm_80",
    }  # fmt: skip


def test_summary_counts_and_names_what_is_wrong():
    rows = [A_ROW, A_ROW | {"kernel": "wide", "fits": "false", "spill_stores": 4}]
    assert resources.summary(rows).splitlines() == [
        "2 kernels: 1 spill, 1 do not fit, 0 do not compile",
        "does not fit: wide bf16 all sm_90 D=5 C=3 7",
    ]


def test_a_width_without_cases_says_so():
    with pytest.raises(SystemExit, match="no kernel was compiled: 0 cases, 0 skipped"):
        resources.main(["--widths", "17", "--jobs", "1"])
