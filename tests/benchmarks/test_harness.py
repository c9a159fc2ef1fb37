import csv
import json
import math

import pytest

from benchmarks import _harness
from benchmarks._harness import (
    COLUMNS,
    Row,
    append_rows,
    interval_text,
    peak_bytes_during,
    read_rows,
    run_fresh,
    settings_text,
    single_run,
    t_interval,
    table,
    time_rounds,
    timing_row,
)


def a_row(**changes):
    fixed = {"benchmark": "b", "arm": "ours", "metric": "time", "unit": "s", "value": 2.0, "low": 1.0, "high": 3.0}
    return Row(**(fixed | {"samples": 3} | changes))


def test_t_interval_by_hand():
    # Mean 2, sample deviation 1, 3 values: half-width 4.3027 / sqrt(3).
    mean, low, high = t_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.3027 / math.sqrt(3)) == pytest.approx(mean - low)
    # 32 values, half 0 and half 2: deviation sqrt(32 / 31), quantile for 31 degrees of freedom 2.040.
    mean, low, high = t_interval([0.0, 2.0] * 16)
    assert (mean, high - mean) == (1.0, pytest.approx(2.040 * math.sqrt(1 / 31), rel=2e-3))


def test_t_interval_of_one_or_infinite_values_is_unbounded_and_of_none_an_error():
    assert t_interval([5.0]) == (5.0, -math.inf, math.inf)
    assert t_interval([1.0, math.inf])[1:] == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


def test_timing_row_takes_the_median_of_paired_ratios():
    seconds = {"ours": [1.0, 2.0, 4.0], "theirs": [10.0, 10.0, 10.0]}
    row = timing_row("b", "ours", "theirs", "time", seconds, "{}")
    assert (row.value, row.low, row.high, row.samples) == (2.0, 1.0, 4.0, 3)
    assert (row.ratio, row.ratio_low, row.ratio_high) == (5.0, 2.5, 10.0)


def test_rounds_interleave_the_arms_after_warming_up_each():
    calls = []
    seconds = time_rounds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert "".join(calls) == "ab" + "ab" * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert all(t >= 0 for times in seconds.values() for t in times)


def test_a_spent_budget_still_makes_two_rounds():
    assert len(time_rounds({"a": lambda: None}, rounds=9, budget_seconds=0.0)["a"]) == 2
    with pytest.raises(ValueError, match="rounds must be >= 1, got 0"):
        time_rounds({"a": lambda: None}, rounds=0)


def test_rows_are_appended_with_machine_columns_and_read_back(tmp_path):
    path = tmp_path / "new" / "b.csv"
    append_rows(path, [a_row(settings=settings_text({"T": 5, "C": 2}))])
    append_rows(path, [a_row(arm="other", value=1 / 3)])
    first, second = read_rows(path)
    assert tuple(first) == COLUMNS
    assert json.loads(first["settings"]) == {"C": 2, "T": 5}
    assert (first["value"], first["ratio"], second["arm"], second["value"]) == ("2", "", "other", "0.333333")
    assert (
        first["device"]
        and first["torch"]
        and int(first["threads"]) > 0
        and first["dirty"] in ("true", "false", "unknown")
    )
    with path.open(newline="") as file:
        assert sum(line[0] == "benchmark" for line in csv.reader(file)) == 1


def test_a_file_of_another_layout_is_left_alone(tmp_path):
    path = tmp_path / "old.csv"
    path.write_text("speed,when\n1,2\n")
    with pytest.raises(ValueError, match="old.csv has columns .*speed.* move the old file away"):
        append_rows(path, [a_row()])
    assert path.read_text() == "speed,when\n1,2\n"


def test_missing_results_are_no_rows(tmp_path):
    assert read_rows(tmp_path / "none.csv") == []


def test_settings_text_does_not_depend_on_order():
    assert settings_text({"a": 1, "b": 2}) == settings_text({"b": 2, "a": 1})


def test_table_aligns_columns():
    assert table(["arm", "x"], [["ours", "1"], ["b", "22.5"]]).splitlines() == [
        "| arm  |    x |",
        "|------|-----:|",
        "| ours |    1 |",
        "| b    | 22.5 |",
    ]


@pytest.mark.skipif(not _harness.Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_peak_memory_sees_what_was_freed_again():
    def hold_64_mib():
        block = bytearray(64 * 2**20)
        block[::4096] = b"x" * len(block[::4096])

    assert 60 * 2**20 < peak_bytes_during(hold_64_mib) < 120 * 2**20


def test_fresh_process_reports_json_or_its_error(tmp_path):
    (tmp_path / "report.json").write_text('{"bytes": 3}')
    assert run_fresh(["json.tool", "--compact", str(tmp_path / "report.json")]) == {"bytes": 3}
    with pytest.raises(RuntimeError, match="python -m no_such_module exited with 1: .*No module named"):
        run_fresh(["no_such_module"])


def test_interval_text():
    mean, _, high = t_interval([0.2, 0.3, 0.7])
    assert interval_text([0.2, 0.3, 0.7]) == f"{mean:.3f} +- {high - mean:.3f}"
    assert interval_text([0.2, 0.3, 0.7], digits=2, sign="+") == f"+{mean:.2f} +- {high - mean:.2f}"
    assert interval_text([0.25]) == "0.250" and interval_text([]) == ""


def test_a_single_run_has_no_spread():
    row = single_run("bench", "ours", "loss", 0.5, unit="nats", settings="{}")
    assert (row.value, row.low, row.high, row.samples, row.statistic) == (0.5, 0.5, 0.5, 1, "single run")
    assert (row.benchmark, row.arm, row.metric, row.unit) == ("bench", "ours", "loss", "nats")
