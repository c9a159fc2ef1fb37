"""The benchmark of agents: tasks as data, rows that are not made twice, what is missing, tables by hand, curves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import memarch_envs
from benchmarks import _agents_speed as speed
from benchmarks import agents, hcam_start, plot
from benchmarks._agents_learning import interval_text, summary
from benchmarks._agents_tasks import MEMORIES, PRESETS, TASKS, Task, tasks_of
from benchmarks._harness import read_rows
from memarch.agents import bootstrap_interval

QUICK = ["--quick", "--part", "learning", "--tasks", "fast-binding", "--memories", "gru", "hcam"]


def test_learning_writes_rows_and_does_not_repeat_a_finished_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agents.csv"
    agents.main([*QUICK, "--results", str(path)])
    first, curves = read_rows(path), read_rows(tmp_path / "agents_curves.csv")
    shown = capsys.readouterr().out
    assert "[2/2] fast-binding hcam seed 0" in shown
    tests = {(r["arm"], json.loads(r["settings"]).get("test"), r["metric"]) for r in first}
    distractors = [f"{n} distractors" for n in (0, 2, 5, 10, 20)]
    for arm in ("gru", "hcam"):
        assert {(arm, test, metric) for test in distractors for metric in ("success", "total_reward")} <= tests
        assert {(arm, None, "training time"), (arm, None, "training steps per second")} <= tests
    assert len(tests) == len(first) == 2 * (5 * 2 + 2)
    assert {r["metric"] for r in curves} == {"success"} and all(json.loads(r["settings"])["step"] > 0 for r in curves)
    agents.main([*QUICK, "--results", str(path), "--reuse", "any"])
    again = capsys.readouterr().out
    assert read_rows(path) == first and "[1/" not in again
    assert again.splitlines()[:7] == shown.splitlines()[2:9]  # the table, from the rows alone
    agents.main([*QUICK, "--results", str(path), "--reuse", "any", "--seeds", "2", "--memories", "gru"])
    assert "[1/1] fast-binding gru seed 1" in capsys.readouterr().out

    plot.main(["--results", str(tmp_path)])
    assert (tmp_path / "agents_curves.png").stat().st_size > 1000
    (axis,) = plot.curves_figure(read_rows(tmp_path / "agents_curves.csv")).axes
    assert axis.get_title() == "fast-binding" and [line.get_label() for line in axis.get_lines()] == ["gru", "hcam"]


def test_rows_from_before_a_setting_existed_count_with_its_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agents.csv"
    command = [*QUICK[:-1], "--results", str(path), "--reuse", "any"]
    agents.main(command)
    text = path.read_text(encoding="utf-8")
    assert '""chunk_summary"": ""mean"", ' in text
    path.write_text(text.replace('""chunk_summary"": ""mean"", ', ""), encoding="utf-8")
    capsys.readouterr()
    agents.main(command)
    assert "[1/1]" not in capsys.readouterr().out


def test_a_run_that_was_cut_short_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agents.csv"
    command = [*QUICK[:-1], "--results", str(path), "--reuse", "any"]
    agents.main(command)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    capsys.readouterr()
    agents.main(command)
    assert "[1/1]" in capsys.readouterr().out


def test_a_quick_run_writes_nothing_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "RESULTS", tmp_path)
    agents.main([*QUICK[:-1]])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", PRESETS)
def test_tasks_are_what_they_say(preset: str) -> None:
    """Options that the environments take, and rollouts that minibatches can be cut from."""
    tasks = tasks_of(preset)
    assert all(name == task.name for name, task in tasks.items())
    for task in tasks.values():
        assert task.num_envs * task.settings.num_windows >= task.settings.num_minibatches
        assert set(task.aims) <= set(task.tests) and task.settings_for(7).seed == 7
        if not task.package:
            cls = memarch_envs.task_class(task.env)
            for options in task.tests.values():
                made = cls(1, **{**task.options, **options})
                assert made.max_episode_steps <= max(task.episode_steps, 1024 if "Ballet" in task.env else 0)
    if preset == "gpu":
        assert tasks["ballet8-pixels"].settings.mixed_precision and not tasks.keys() & {"RepeatPreviousEasy"}


def test_gtrxl_alone_sees_a_whole_episode() -> None:
    task = TASKS["tmaze"]
    assert {m: task.policy_for(m).attention_steps for m in MEMORIES} == {
        m: 251 if m == "gtrxl" else 32 for m in MEMORIES
    }
    assert task.describe("gtrxl", 0) != task.describe("hcam", 0)


def test_summary_by_hand() -> None:
    task = Task("maze", "x", tests={"": {}, "long": {"length": 9}}, aims={"long": 0.9})
    scores = {
        ("maze", "", "hcam"): {0: 1.0, 1: 1.0, 2: 1.0},
        ("maze", "", "gru"): {0: 0.5},
        ("maze", "long", "hcam"): {0: 0.2, 1: 0.6, 2: 1.0},
    }
    lines = [line.strip("| ").split("|") for line in summary(scores, [task], ["hcam", "gru"]).splitlines()]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells[0][0].endswith("3 seeds")
    assert [c for c in cells[2] if c] == ["maze", "success", "1.00 [1.00, 1.00]", "0.50"]
    assert [c for c in cells[3] if c] == ["maze long", "success", interval_text([0.2, 0.6, 1.0]), "0.9 missed"]
    value, low, high = bootstrap_interval([0.2, 0.6, 1.0])
    assert value == pytest.approx(0.6) and interval_text([0.2, 0.6, 1.0]) == f"0.60 [{low:.2f}, {high:.2f}]"


def test_missing_packages_and_unknown_tasks_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "popgym", None)
    with pytest.raises(SystemExit, match="no task is left to run"):
        agents.main(["--quick", "--part", "learning", "--tasks", "AutoencodeEasy"])
    assert "AutoencodeEasy is left out: popgym is not installed: pip install" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--tasks of the preset cpu are tmaze, .*; got 'tmaze51'"):
        agents.main(["--part", "learning", "--tasks", "tmaze51"])
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    agents.main(["--quick", "--part", "speed", "--memories", "gru"])
    shown = capsys.readouterr().out
    assert "sb3-contrib is not installed, so it is left out: pip install" in shown and "| gru" in shown


def test_speeds_and_ratios_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed.importlib.metadata, "version", lambda name: "1.2.3")
    sizes = speed.Sizes(rollout_steps=10, rollouts=2)
    ours, theirs = (speed.Arm(name, n, lambda: None, lambda: None) for name, n in (("lstm", 1200), (speed.BASELINE, 9)))
    rows = speed.rows_of([ours, theirs], {"lstm": [0.5, 0.25, 1.0], speed.BASELINE: [5.0, 5.0, 5.0]}, sizes)
    assert (rows[0].value, rows[0].low, rows[0].high, rows[0].baseline) == (640.0, 320.0, 1280.0, speed.BASELINE)
    assert (rows[0].ratio, rows[0].ratio_low, rows[0].ratio_high, rows[1].ratio) == (10.0, 5.0, 20.0, None)
    assert json.loads(rows[1].settings)["version"] == "1.2.3"
    text = speed.summary(rows, [ours, theirs])
    assert "10.0x [5.0, 20.0]" in text and "10x reached" in text and "1,200" in text


def test_starts_of_hcam_write_rows_and_are_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hcam_start.csv"
    hcam_start.main(["--quick", "--results", str(path)])
    rows = read_rows(path)
    scores = [r for r in rows if r["metric"] != hcam_start.TIME]
    assert {r["arm"] for r in rows} == set(hcam_start.ARMS) and len(rows) == len(hcam_start.ARMS) * 6
    assert all(0 <= float(r["value"]) <= 1 for r in scores)
    capsys.readouterr()
    hcam_start.main(["--quick", "--results", str(path), "--reuse", "any"])
    assert "seed 0:" not in capsys.readouterr().out and read_rows(path) == rows


def test_lessons_are_the_oracle_s_choices_where_there_is_one() -> None:
    lessons = hcam_start.Lessons(hcam_start.Sizes(num_envs=4), seed=0)
    for _ in range(3):
        _, reset, _, choice, question = lessons.window()
        assert question.any() and bool((choice | ~question).all()) and not bool((reset & question).any())
        # The step after a question only begins the next episode, whose first step comes then.
        assert bool(reset[:, 2:][question[:, :-2]].all())
