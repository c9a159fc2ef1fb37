"""`memarch train cache` as transcripts, on a tiny model: two stages, resume, Ctrl-C, bad usage."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from memarch import CacheProcessor
from memarch.cli.app import app

from ..cache._training import write_problems
from ..dialogue.generators._tiny_model import save_tiny_model
from ._transcript import command, environment

SMALL = "--processor-dim 8 --mlp-dim 8 --num-heads 2 --top-k 4 --batch-size 4 --max-eval-problems 4"
OPTIONS = ["--model", "tiny", "--data", "problems.jsonl", "--device", "cpu", *SMALL.split()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary working directory with a model and problems."""
    save_tiny_model(tmp_path / "tiny")
    write_problems(tmp_path / "problems.jsonl", count=40)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", "cache", *arguments])


def losses(folder: Path) -> list[str]:
    with (folder / "steps.csv").open(newline="") as file:
        return [row["loss"] for row in csv.DictReader(file)]


def test_two_stages(place: Path) -> None:
    result = train(*OPTIONS, "--sft-steps", "3", "--steps", "2", "--sft-lr", "0.01", "--out", "run")
    assert result.exit_code == 0, result.output
    # A tenth of the problems is kept for validation.
    assert "validation: the first 4 of" in result.output and "(40 of 40 problems)" in result.output
    assert "stage 1, fine-tuning: " in result.output and "sft  step 3/3  loss " in result.output
    assert "stage 2, processor: " in result.output and "nats per token from an answer's second line on" in result.output
    trained = Path("run") / "arm" / "step-000002"
    assert f"done; the trained processor is in {trained}" in result.output and "\x1b[" not in result.output
    assert f"what it rewrites in an answer of 5 lines: {Path('run') / 'rewrites.png'}" in result.output
    assert Path("run/rewrites.png").read_bytes().startswith(b"\x89PNG")
    model = AutoModelForCausalLM.from_pretrained("run/sft/step-000003")
    processor = CacheProcessor.from_pretrained(trained)
    assert processor.num_parameters() > 0 and processor.w_out.abs().sum() > 0
    assert processor.shape.num_layers == model.config.num_hidden_layers
    result = train(*OPTIONS, "--out", "run")
    assert result.exit_code == 2 and "run already holds a training: go on with --resume run" in result.stderr


def test_ctrl_c_saves_and_resuming_goes_on_bit_for_bit(place: Path) -> None:
    assert train(*OPTIONS, "--sft-steps", "4", "--steps", "3", "--out", "straight").exit_code == 0
    arguments = ["train", "cache", *OPTIONS, "--sft-steps", "4", "--steps", "100000", "--out", "parts"]
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    steps = place / "parts" / "arm" / "steps.csv"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (steps.exists() and steps.read_text().count("\n") > 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "go on with: memarch train cache --resume parts" in output
    done = len(losses(place / "parts" / "arm"))
    result = train("--resume", "parts", "--steps", str(done + 1), "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"resuming {Path('parts') / 'arm'} at step {done} of {done + 1}" in result.output
    assert losses(place / "parts" / "sft") == losses(place / "straight" / "sft")
    assert len(losses(place / "parts" / "arm")) == done + 1


def test_pictures_are_of_rewriters_only_and_need_matplotlib(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = train(*OPTIONS, "--arm", "mean-shift", "--steps", "1", "--out", "mean")
    assert result.exit_code == 0 and "no picture of what is rewritten: drawing what was rewritten" in result.output
    result = train(*OPTIONS, "--arm", "pause", "--steps", "1", "--out", "pause")
    assert result.exit_code == 0 and "of what is rewritten" not in result.output
    assert not list(place.glob("*/*.png"))


def test_stage_one_resumes(place: Path) -> None:
    """As after a crash between two checkpoints of stage 1."""
    options = [*OPTIONS, "--sft-steps", "4", "--steps", "2", "--save-every", "2"]
    assert train(*options, "--out", "straight").exit_code == 0
    assert train(*options, "--out", "parts").exit_code == 0
    (place / "parts" / "sft" / "step-000004").rename(place / "gone")
    (place / "parts" / "arm").rename(place / "gone too")
    result = train("--resume", "parts", "--device", "cpu")
    assert result.exit_code == 0 and "at step 2 of 4" in result.output
    for stage, file in (("sft", "model.safetensors"), ("arm", "cache_processor.safetensors")):
        assert losses(place / "parts" / stage) == losses(place / "straight" / stage)
        name = (place / "parts" / stage / "latest").read_text().strip()
        weights = [(place / run / stage / name / file).read_bytes() for run in ("straight", "parts")]
        assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--arm procesor", "--arm must be one of processor, values-only, "),
        ("--steps 0", "num_steps must be an integer of at least 1; got 0"),
        ("--sft-steps -1", "--sft-steps must be at least 0; got -1"),
        ("--num-heads 3", "processor_dim must be divisible by num_heads; got 8 and 3"),
        ("--window line", "--window must be step, all or a number; got 'line'"),
        ("--dtype float64", "--dtype must be float32 or bfloat16; got 'float64'"),
        ("--lr -1", "learning_rate must be a positive number; got -1.0"),
    ],
)
def test_bad_usage_is_code_2_and_one_line(place: Path, options: str, message: str) -> None:
    result = train(*OPTIONS, *options.split())
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr
    assert not (place / "runs").exists()


def test_what_is_missing_is_named(place: Path) -> None:
    for arguments, code, message in [
        (["--steps", "1"], 2, "--data is missing: JSON Lines of questions and answers"),
        ([*OPTIONS, "--data", "gsm8k"], 1, "gsm8k does not exist: give a JSON Lines file"),
        ([*OPTIONS, "--model", "nothere"], 1, "--model nothere is no directory with a config.json: give smollm2"),
        (["--resume", "nowhere"], 1, "nowhere holds no run"),
        (["--resume", "nowhere", "--lr", "1"], 2, "--lr is stored in the run"),
        (["--resume", "nowhere", "--out", "elsewhere"], 2, "drop --out"),
    ]:
        result = train(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (code, 1) and message in result.stderr, result.output
    assert not (place / "runs").exists()


def test_options_are_kept_in_the_run(place: Path) -> None:
    assert train(*OPTIONS, "--arm", "mean-shift", "--steps", "1").exit_code == 0
    kept = json.loads((place / "runs" / "cache-mean-shift" / "run.json").read_text())
    assert kept["arm"] == "mean-shift" and kept["data"] == str(place / "problems.jsonl") and kept["top_k"] == 4
