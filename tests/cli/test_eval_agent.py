"""`memarch eval agent`: numbers on unseen seeds, a film, the recall picture, other options, bad usage."""

import json
from pathlib import Path

import pytest
from matplotlib.image import imread
from PIL import Image
from typer.testing import CliRunner, Result

from memarch.cli.app import app

from .test_train_agent import TINY, train


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", "agent", *arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of HCAM in a short T-Maze."""
    out = str(tmp_path_factory.mktemp("runs") / "run")
    options = ["--env", "memarch/PassiveTMaze-v0", "-o", "length=9", "--steps", "48", "--out", out]
    result = train(*options, *TINY)
    assert result.exit_code == 0, result.output
    return out


def test_numbers_a_film_and_what_was_read(run: str, tmp_path: Path) -> None:
    film, picture = tmp_path / "a.gif", tmp_path / "a.png"
    result = evaluate(run, "--episodes", "16", "--video", str(film), "--recall", str(picture))
    assert result.exit_code == 0, result.output
    assert f"{run}: unseen seeds: success " in result.output and "16 episodes of " in result.output
    assert f"wrote {film} and {picture}" in result.output
    with Image.open(film) as frames:
        assert frames.format == "GIF" and min(frames.size) > 50
    assert imread(picture).shape[0] > 300


def test_json_options_and_seeds(run: str) -> None:
    def told(*arguments: str) -> dict:
        result = evaluate(run, "--json", "--episodes", "16", *arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    first = told("--stochastic")
    assert first == told("--stochastic") != told("--stochastic", "--seed", "1")
    assert told("-o", "length=3")["episode_steps"] <= 4 < first["episode_steps"]
    assert told("--env", "memarch/PassiveTMaze-v0")["episode_steps"] > 4


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recall", "a.jpg"], 2, "--recall takes a name that ends in .png"),
        (["--video", "a.avi"], 2, "takes a name that ends in .gif or .mp4"),
        (["-o", "length=0"], 1, "does not take {'length': 0}"),
        (["--env", "CartPole-v1"], 1, "this agent's observation_space is"),
        (["--env", "CartPole-v1", "-o", "a=1"], 2, "drop it or --env"),
    ],
)
def test_bad_usage_is_one_line(run: str, arguments: list[str], code: int, message: str) -> None:
    result = evaluate(run, *arguments)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr


def test_no_agent_there(tmp_path: Path) -> None:
    result = evaluate(str(tmp_path))
    assert result.exit_code == 1 and "holds no checkpoint" in result.stderr
