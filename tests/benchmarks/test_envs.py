"""The speed benchmark of environments: what it measures, its ratios by hand, and what it says without peers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from gymnasium.spaces import Dict

from benchmarks import envs
from benchmarks._envs_arms import Arm, our_arms, peer_arms
from benchmarks._harness import read_rows
from memarch_envs import ENVIRONMENTS
from memarch_envs.vector import MemoryVectorEnv


def test_every_environment_is_measured_in_both_forms() -> None:
    arms = our_arms()
    assert len({arm.name for arm in [*arms, *peer_arms()]}) == len(arms) + len(peer_arms())
    for env_id in ENVIRONMENTS:
        own = [arm for arm in arms if arm.env_id == env_id]
        assert {arm.form for arm in own} == {"native", "sync"}
        for arm in own:
            made = arm.make(2)
            assert isinstance(made, MemoryVectorEnv) == (arm.form == "native") and made.num_envs == 2
            space = made.single_observation_space
            parts = space.spaces.values() if isinstance(space, Dict) else [space]
            assert any(len(part.shape or ()) == 3 for part in parts) == arm.pixels


def test_baselines_are_among_the_peers() -> None:
    assert {arm.baseline for arm in our_arms()} <= {arm.name for arm in peer_arms()}


def test_rates_and_ratios_by_hand() -> None:
    ours, theirs = (
        Arm("memarch/A-v0", "native", "B (popgym)"),
        Arm("popgym-B-v0", "sync", "B (popgym)", package="popgym"),
    )
    measured = {ours.name: [0.5, 0.25, 0.2], theirs.name: [2.0, 2.0, 1.0]}
    first, second = envs.rows_of([ours, theirs], measured, 7, {"seconds": 1.0})
    assert (first.arm, first.baseline, first.value, first.low, first.high) == (
        "A (native)",
        "B (popgym)",
        4.0,
        2.0,
        5.0,
    )
    assert (first.ratio, first.ratio_low, first.ratio_high, second.ratio) == (5.0, 4.0, 8.0, 1.0)
    assert json.loads(first.settings) == {"seconds": 1.0, "num_envs": 7, "env_id": "memarch/A-v0", "form": "native"}
    (alone,) = envs.rows_of([ours], {ours.name: [0.5]}, 7, {})
    assert (alone.baseline, alone.ratio, alone.ratio_low) == ("", None, None)


def test_a_quick_run_prints_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    path = tmp_path / "envs.csv"
    envs.main(["--quick", "--only", "PassiveTMaze", "--num-envs", "1", "4", "--results", str(path)])
    rows = read_rows(path)
    assert [(row["arm"], json.loads(row["settings"])["num_envs"]) for row in rows] == [
        (name, size) for size in (1, 4) for name in ("PassiveTMaze (native)", "PassiveTMaze (sync)")
    ]
    assert all(float(row["low"]) > 0 and row["samples"] == "2" and row["unit"] == "1/s" for row in rows)
    assert "| PassiveTMaze (native)" in capsys.readouterr().out
    assert before is None or os.sched_getaffinity(0) == before


def test_missing_peers_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("minigrid", "popgym"):
        monkeypatch.setitem(sys.modules, package, None)
    kept = envs.available([*our_arms()[:1], *peer_arms()], None)
    assert [arm.package for arm in kept] == [""]
    told = capsys.readouterr().out
    assert told.count("is not installed") == 2 and "minigrid" in told and "popgym" in told
    with pytest.raises(SystemExit, match="no environment has 'xyzzy' in its name"):
        envs.available(our_arms(), ["xyzzy"])
