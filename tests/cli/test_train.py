"""`memarch train lm` as transcripts: several files, resume, Ctrl-C, a full disk, bad usage."""

import csv
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memarch.cli.app import app
from memarch.models import storage

from ._transcript import TEXT, TINY, command, environment, memarch


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary working directory with two text files."""
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.txt").write_text(TEXT.replace("cat", "dog"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", "lm", *arguments])


def column(run_dir: Path, name: str) -> list[str]:
    with (run_dir / "steps.csv").open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_several_files_after_one_data_flag(place: Path) -> None:
    result = train("--data", "a.txt", "b.txt", "--memory", "yaad", "--steps", "3", "--out", "both", *TINY)
    assert result.exit_code == 0, result.output
    assert "text: a.txt and 1 more (the user's own)" in result.output
    assert "yaad  step 3/3  loss " in result.output and " tokens/s" in result.output
    assert "bits per byte, perplexity" in result.output
    assert "\x1b[" not in result.output
    assert 'done; try: memarch generate both --prompt "The"' in result.output
    assert column(place / "both", "step") == ["1", "2", "3"]
    assert (place / "both" / "step-000003" / "tokenizer.json").exists()
    assert list((place / "both" / "tensorboard").glob("events*"))
    notes = storage.read_json(place / "both" / "step-000003" / "trainer.json")["notes"]
    assert [Path(path).name for path in notes["data"]] == ["a.txt", "b.txt"]


def test_resume_goes_on_bit_for_bit(place: Path) -> None:
    options = ["--data", "a.txt", "--memory", "attention", "--tokenizer", "byte", "--eval-every", "0", *TINY]
    assert train(*options, "--steps", "8", "--out", "straight").exit_code == 0
    assert train(*options, "--steps", "8", "--out", "parts", "--save-every", "3").exit_code == 0
    # As after a crash at step 7: the newest checkpoint is that of step 6.
    (place / "parts" / "step-000008").rename(place / "gone")
    result = train("--resume", "parts")
    assert result.exit_code == 0 and f"resuming {Path('parts') / 'step-000006'} at step 6 of 8" in result.output
    assert column(place / "parts", "loss") == column(place / "straight", "loss")
    weights = [(place / run / "step-000008" / "model.safetensors").read_bytes() for run in ("straight", "parts")]
    assert weights[0] == weights[1]
    result = train("--resume", "parts", "--steps", "9")
    assert result.exit_code == 0 and column(place / "parts", "step")[-1] == "9"


def test_ctrl_c_saves_and_says_how_to_go_on(place: Path) -> None:
    arguments = ["train", "lm", "--data", "a.txt", "--memory", "attention", "--steps", "100000", "--out", "run", *TINY]
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    steps = place / "run" / "steps.csv"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (steps.exists() and steps.read_text().count("\n") > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == ""
    step = int((place / "run" / "latest").read_text().strip().removeprefix("step-"))
    saved = Path("run") / f"step-{step:06d}"
    assert f"interrupted at step {step}, saved {saved}; go on with: memarch train lm --resume run" in output
    assert train("--resume", "run", "--steps", str(step + 1)).exit_code == 0


def test_a_full_disk_is_one_line_and_keeps_the_last_good_checkpoint(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", "a.txt", "--memory", "attention", "--save-every", "2", "--steps", "4", "--out", "run", *TINY]
    real = storage.sync

    def full(path: Path) -> None:
        if path.parent.name == ".step-000004.tmp" and "model" in path.name:
            raise OSError(28, "No space left on device")
        real(path)

    monkeypatch.setattr(storage, "sync", full)
    result = train(*options)
    assert result.exit_code == 1
    good = Path("run") / "step-000002"
    assert (
        f"error: cannot save {Path('run') / 'step-000004'}: No space left on device; the last good checkpoint {good} "
        in (result.stderr)
    )
    assert result.stderr.count("\n") == 1
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert train("--resume", "run").exit_code == 0 and (place / "run" / "step-000004").is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--memory yad", "got 'yad'; did you mean 'yaad'"),
        ("--steps 0", "num_steps must be an integer of at least 1; got 0"),
        ("--d-model 30", "d_model must be divisible by num_heads; got 30 and 4"),
        ("--lr -1", "learning_rate must be a positive number; got -1.0"),
        ("--attention-every 2", "needs window_tokens"),
        ("--window-tokens 8", "has no effect on 'yaad'"),
        ("--tokenizer words", "tokenizer must be one of byte, bpe; got 'words'"),
        ("--vocab-size 100", "at least 257; got 100"),
        ("--device nonsense", "--device nonsense cannot be used here"),
    ],
)
def test_bad_usage_is_code_2_and_one_line(place: Path, options: str, message: str) -> None:
    result = train("--data", "a.txt", *options.split())
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr
    assert sorted(path.name for path in place.iterdir()) == ["a.txt", "b.txt"]


def test_bad_data_is_code_1_and_one_line(place: Path) -> None:
    (place / "empty.txt").write_text("")
    (place / "binary.bin").write_bytes(b"a\x00b")
    (place / "short.txt").write_text("one\ntwo\n")
    for files, message in [
        (["a.txt", "nothere.txt"], "nothere.txt does not exist"),
        (["a.txt", "empty.txt"], "empty.txt is empty"),
        (["binary.bin"], "binary.bin is a binary file"),
        (["."], ". is a directory"),
        (["short.txt"], "give more text"),
    ]:
        result = train("--data", *files, "--steps", "2", *TINY)
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr


def test_a_run_is_never_overwritten_and_keeps_its_settings(place: Path) -> None:
    options = ["--data", "a.txt", "--memory", "attention", "--steps", "2", *TINY]
    assert train(*options).exit_code == 0
    assert (place / "runs" / "lm-attention" / "latest").exists()
    result = train(*options)
    assert result.exit_code == 2 and "already holds a training: go on with --resume" in result.stderr
    result = train("--resume", "runs/lm-attention", "--lr", "0.1")
    assert result.exit_code == 2 and "--lr is stored in the run" in result.stderr
    result = train("--resume", "runs/lm-attention", "--out", "elsewhere")
    assert result.exit_code == 2 and "drop --out" in result.stderr
    result = train("--resume", "runs/lm-attention", "--data", "b.txt", "--steps", "3")
    assert result.exit_code == 1 and "the text is not the one this training began with" in result.stderr
    result = train("--resume", "nowhere")
    assert result.exit_code == 1 and "nowhere holds no checkpoint" in result.stderr
    result = train("stray.txt")
    assert result.exit_code == 2 and "unexpected extra argument" in result.stderr


def test_without_data_it_reads_the_language_reference(place: Path) -> None:
    result = train("--memory", "attention", "--steps", "1", *TINY)
    assert result.exit_code == 0 and "language reference (pydoc_data.topics) (PSF-2.0" in result.output


def test_a_bug_keeps_its_traceback(place: Path) -> None:
    broken = (
        "import memarch.training.lm as lm\n"
        "def bug(self): raise ValueError('a bug, not the user')\n"
        "lm.LMTrainer._train_step = bug\n"
        "from memarch.cli import main; main()"
    )
    arguments = command("train", "lm", "--data", "a.txt", "--memory", "attention", *TINY)
    arguments[2] = broken
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "Traceback" in done.stderr and "a bug, not the user" in done.stderr


def test_help_lists_the_options(place: Path) -> None:
    done = memarch(place, "train", "lm", "--help")
    assert done.returncode == 0
    for option in ("--data", "--memory", "--steps", "--resume", "--attention-every"):
        assert option in done.stdout
