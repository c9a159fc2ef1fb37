"""`memarch train agent` as transcripts: runs, seeds, resume, Ctrl-C, bad usage; `memarch eval agent` follows."""

import csv
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memarch.cli.app import app

from ._transcript import command, environment

TINY = (
    "--num-envs 4 --d-model 16 --num-heads 2 --chunk-size 3 --top-k 2 --num-chunks 4 --attention-steps 4 "
    "--rollout-steps 12 --minibatches 2 --epochs 1"
).split()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", "agent", *arguments])


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "updates.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("steps_per_second", "train_seconds")}
            for row in csv.DictReader(file)
        ]


def test_a_run_leaves_everything_behind(place: Path) -> None:
    result = train("--env", "memarch/PassiveTMaze-v0", "-o", "length=5", "--steps", "150", *TINY)
    assert result.exit_code == 0, result.output
    run = place / "runs" / "agent-passivetmaze-hcam"
    assert "memarch/PassiveTMaze-v0: hcam, " in result.output and "4 environments, on cpu; run: runs/" in result.output
    assert "hcam  step 192/150  return " in result.output and " steps/s  ETA 0:00:00" in result.output
    assert "unseen seeds: success " in result.output and "\x1b[" not in result.output
    assert "done; try: memarch eval agent runs/agent-passivetmaze-hcam --recall recall.png" in result.output
    assert {path.name for path in run.iterdir()} == {
        "latest",
        "run.json",
        "step-000192",
        "tensorboard",
        "updates.csv",
        "evaluations.csv",
    }
    assert json.loads((run / "run.json").read_text())["agent"]["env_options"] == {"length": 5}
    assert [row["step"] for row in rows(run)] == ["48", "96", "144", "192"]
    result = train("--env", "memarch/PassiveTMaze-v0", *TINY)
    assert result.exit_code == 2 and "already holds a training: --resume it" in result.stderr


def test_several_seeds_are_aggregated_and_resumed_together(place: Path) -> None:
    result = train("--memory", "gru", "--steps", "96", "--seeds", "3", "--out", "three", *TINY)
    assert result.exit_code == 0, result.output
    assert "3 runs: success interquartile mean " in result.output
    summary = json.loads((place / "three" / "summary.json").read_text())
    assert summary["runs"] == ["seed-0", "seed-1", "seed-2"] and len(summary["success"]["scores"]) == 3
    assert rows(place / "three" / "seed-0") != rows(place / "three" / "seed-1")
    result = train("--resume", "three", "--steps", "144")
    assert result.exit_code == 0 and result.output.count("at step 96 of 144") == 3
    result = train("--resume", "three")
    assert result.exit_code == 0 and result.output.count("is done after 144 steps") == 3


def test_resume_goes_on_bit_for_bit_after_ctrl_c(place: Path) -> None:
    options = ["--steps", "2000", "--memory", "lstm", *TINY]
    assert train(*options, "--out", "straight").exit_code == 0
    child = subprocess.Popen(
        command("train", "agent", *options, "--out", "parts"),
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not (place / "parts" / "updates.csv").exists() or len(rows(place / "parts")) < 3:
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=100)
    assert child.returncode == 130, output
    assert "interrupted at step" in output and "go on with: memarch train agent --resume parts" in output
    result = train("--resume", "parts")
    assert result.exit_code == 0 and "resuming parts at step" in result.output
    assert rows(place / "parts") == rows(place / "straight")
    last = (place / "straight" / "latest").read_text().strip()
    weights = [(place / run / last / "model.safetensors").read_bytes() for run in ("straight", "parts")]
    assert weights[0] == weights[1]


def test_a_threshold_ends_the_run(place: Path) -> None:
    result = train("--memory", "gru", "--steps", "50000", "--stop-return", "-100", "--out", "run", *TINY)
    assert result.exit_code == 0 and "unseen seeds" in result.output
    assert int(rows(place / "run")[-1]["step"]) < 20_000
    assert "is done" in train("--resume", "run").output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--env", "memarch/TMazes-v0"], 2, "unknown environment 'memarch/TMazes-v0' "),
        (["--memory", "hcamm"], 2, "did you mean 'hcam'?"),
        (["-o", "length"], 2, "--option takes name=value"),
        (["-o", "lenght=3"], 2, "does not take {'lenght': 3}"),
        (["--seeds", "0"], 2, "--seeds must be at least 1; got 0"),
        (["--lr", "-1"], 2, "learning_rate must be a positive number; got -1.0"),
        (["--window-steps", "7"], 2, "window_steps must divide rollout_steps=12; got 7"),
        (["--schedule", "cosine"], 2, "schedule must be 'linear' or 'constant'; got 'cosine'"),
        (["--save-every", "-3"], 2, "every_steps must be an integer of at least 1; got -3"),
        (["--resume", "nowhere"], 1, "nowhere holds no checkpoint"),
    ],
)
def test_bad_usage_is_one_line(place: Path, arguments: list[str], code: int, message: str) -> None:
    result = train(*([] if "--resume" in arguments else TINY), *arguments)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr


def test_what_is_stored_in_the_run_cannot_be_changed(place: Path) -> None:
    assert train("--memory", "none", "--steps", "48", "--out", "run", *TINY).exit_code == 0
    for arguments, message in (
        (["--memory", "gru"], "--memory is stored in the run; a resumed one takes --steps, --device, "),
        (["--env", "CartPole-v1"], "--env is stored in the run"),
        (["--out", "other"], "a resumed run stays in run; got --out other: drop --out"),
        (["--steps", "10"], "--steps must be at least the 48 steps already done; got 10"),
    ):
        result = train("--resume", "run", *arguments)
        assert result.exit_code == 2 and message in result.stderr, result.stderr
