"""The benchmark of forgetting's operators: its arms agree, bytes are counted as they are by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from benchmarks import embedding_noise
from benchmarks._harness import read_rows
from benchmarks._traffic import traffic_bytes


def test_quick_run_prints_a_table_and_writes_rows_where_asked(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    embedding_noise.main(["--quick", "--results", str(path)])
    rows = read_rows(path)
    assert {(row["metric"], row["arm"]) for row in rows} == {
        (f"{metric} {what}", arm)
        for metric, arms in (("reset", ("memarch", "torch")), ("substitution", ("memarch", "rows", "clone")))
        for what in ("time", "bytes")
        for arm in arms
    }
    assert "substitution bytes" in capsys.readouterr().out


def test_all_arms_of_the_substitution_give_the_same_rows_and_keep_the_weights():
    ids = torch.randint(0, 50, (4, 9))
    outputs = [run() for _ in range(2) for run in embedding_noise.substitution_arms(50, 8, ids).values()]
    # Each call draws its own weights, so compare within a call.
    assert all(torch.equal(outputs[0], other) for other in outputs[1:3])
    assert all(torch.equal(outputs[3], other) for other in outputs[4:])


ROWS = torch.ones(3, 10)


@pytest.mark.parametrize(
    "run, expected",
    [
        (lambda a, ids: a.clone(), 2 * 400),
        (lambda a, ids: a.normal_(), 400),
        (lambda a, ids: a.mul_(2), 800),
        (lambda a, ids: a + a[0], 400 + 40 + 400),
        (lambda a, ids: a.view(-1)[3:], 0),
        (lambda a, ids: F.embedding(ids, a), 24 + 2 * 120),
        (lambda a, ids: a.index_copy_(0, ids, ROWS), 24 + 120 + 120),
    ],
    ids=["copy", "fill", "scale", "add a row", "views", "lookup", "overwrite rows"],
)
def test_bytes_by_hand(run, expected):
    a, ids = torch.ones(10, 10), torch.tensor([1, 2, 3])
    assert traffic_bytes(lambda: run(a, ids)) == expected
