"""The scale part of the dialogue benchmark: small stores, peers replaced by what fails."""

import argparse
import json
import statistics

import numpy as np
import pytest

from benchmarks import _dialogue_scale as scale
from benchmarks._dialogue_scale_arms import DURABLE, EMBEDDED, VOLATILE
from benchmarks._dialogue_scale_data import TextVectors, queries, texts, time_of
from benchmarks._harness import append_rows, read_rows

OPTIONS = argparse.Namespace(embedder="none", quick=False, sizes=None)


def test_arms_are_measured_and_peers_that_fail_are_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "mem0.py").write_text("raise ImportError('there is no mem0 here')")
    (tmp_path / "txtai.py").write_text("import socket\nsocket.create_connection(('127.0.0.1', 9))")
    monkeypatch.setitem(scale.ENVIRONMENT, "PYTHONPATH", str(tmp_path))
    rows = scale.run(OPTIONS, sizes=(40,), rounds=1)
    append_rows(tmp_path / "rows.csv", rows)
    found = {(row["arm"], row["metric"]): row for row in read_rows(tmp_path / "rows.csv")}
    assert {arm for arm, _ in found} == {"FAISS flat", "ours", "ours, words only"}
    assert json.loads(found["ours", scale.GIVEN]["settings"])["num_chunks"] == 40
    for arm, ways in (
        ("FAISS flat", {DURABLE, VOLATILE}),
        ("ours", {DURABLE, EMBEDDED}),
        ("ours, words only", {DURABLE}),
    ):
        assert {m for a, m in found if a == arm and m.startswith("write")} == ways
        assert float(found[arm, "peak memory"]["value"]) > 1e7 and float(found[arm, "disk"]["value"]) > 1e3
        assert int(found[arm, scale.GIVEN]["samples"]) == scale.PER_ROUND
    # A vector of 384 floats a turn is on disk.
    assert float(found["FAISS flat", "disk"]["value"]) == pytest.approx(40 * 384 * 4, rel=0.1)
    assert found["ours", scale.GIVEN]["baseline"] == "FAISS flat" and float(found["ours", scale.GIVEN]["ratio"]) > 0
    shown = capsys.readouterr().out
    assert "mem0: not measured (mem0, load: ImportError: there is no mem0 here)" in shown
    assert "txtai: not measured (txtai, load: OSError: the benchmark lets nobody reach the network" in shown


def test_our_own_failure_is_not_hidden(tmp_path):
    (tmp_path / "ours").write_text("a file where the store's directory should be")
    with pytest.raises(scale.ArmError, match="ours, open: "):
        scale.measure(tmp_path, 3, ["ours"], with_model=False, rounds=1)


def test_a_process_that_takes_too_long_is_ended(tmp_path):
    process = scale.Process("FAISS flat", tmp_path / "flat", False, timeout_seconds=0.01)
    with pytest.raises(scale.ArmError, match="FAISS flat ended at 'load' .limit 0 s"):
        process.do("load")
    process.end()


def test_ratios_compare_rounds():
    base = scale.Figures(seconds={"search": [[0.1, 0.3, 0.2], [0.4]]})
    ours = scale.Figures(seconds={"search": [[0.4], [0.1, 0.1, 9.0]]}, once={"open": 0.5}, size={"disk": 7})
    rows = {(r.arm, r.metric): r for r in scale.rows_of({"FAISS flat": base, "ours": ours}, {"part": "scale"})}
    row = rows["ours", "search"]
    assert (row.ratio_low, row.ratio_high) == pytest.approx((0.5, 4.0)) and row.value == statistics.median(
        [0.1, 0.1, 0.4, 9]
    )
    assert (rows["ours", "open"].value, rows["ours", "disk"].unit) == (0.5, "bytes")
    shown = scale.show(list(rows.values()), {"mem0": "no"})
    assert "250.00 (100.00..77" in shown and "mem0: not measured (no)" in shown


def test_texts_do_not_depend_on_the_range():
    assert texts(9_998, 4) == texts(9_990, 20)[8:12]
    assert len(set(texts(0, 500))) == 500 and queries(3, 1)[0].endswith("?")
    assert not set(queries(0, 50)) & set(texts(0, 50))
    assert time_of(20) > time_of(19)
    words = " ".join(texts(0, 500)).split()
    assert len(set(words)) > 1000 and words.count("a") > 50  # some are rare, some are everywhere


def test_vectors_follow_from_the_text():
    vectors = TextVectors()
    made = vectors.embed_documents(["ada", "bob", "ada"])
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(made[0], made[2])
    np.testing.assert_array_equal(made[1], vectors.embed_query("bob"))
    assert abs(float(made[0] @ made[1])) < 0.3
    vectors.model = TextVectors()
    np.testing.assert_array_equal(made[1], vectors.embed_query("bob"))
