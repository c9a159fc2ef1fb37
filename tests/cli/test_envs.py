"""`memarch envs` as transcripts: the list, what there is to know about one, playing by pipe, keyboard and oracle."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from memarch.cli._envs_game import Game
from memarch.cli._envs_keys import keys_of, play_by_keys, read_action
from memarch.cli._envs_open import find_spec, make_env
from memarch.cli.app import app
from memarch_envs import ENVIRONMENTS, levels, task_class

from ._transcript import command, environment

COMPASS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
SHORT_MAZE = ("TMaze", "-o", "length=1", "--seed", "3")


def envs(*arguments: str, stdin: str = "", code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["envs", *arguments], input=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_the_list_names_every_environment() -> None:
    rows = [line.split("\t") for line in envs("list").stdout.splitlines()]
    assert [row[0] for row in rows] == list(ENVIRONMENTS)
    listed = json.loads(envs("list", "--json").stdout)["environments"]
    for row, found in zip(rows, listed, strict=True):
        task, sweep = task_class(row[0]), levels(row[0])
        assert row[1].startswith("Discrete(") and row[3] == str(len(sweep)) and row[-1] == task.summary != ""
        assert found["id"] == row[0] and found["observation_space"] == row[2]
        for key in ("chance", "random_return", "oracle_return"):
            assert found[key] == [getattr(level, key) for level in sweep]
    ballet = next(row for row in rows if row[0] == "memarch/Ballet-v0")
    assert ballet[1:2] + ballet[3:7] == ["Discrete(8)", "6", "0.125..0.5", "0.124..0.503", "1"]


@pytest.mark.parametrize("env_id", sorted(ENVIRONMENTS))
def test_show_tells_rules_options_keys_and_sweep(env_id: str) -> None:
    shown = envs("show", env_id).stdout
    found = json.loads(envs("show", env_id, "--json").stdout)
    assert list(found["doc"])[::8] == ["Description", "Version History"] and all(found["doc"].values())
    assert all(text in shown for text in found["doc"].values())
    assert [level["name"] for level in found["levels"]] == [level.name for level in levels(env_id)]
    for level in found["levels"]:
        assert set(level["options"]) <= set(found["options"]) and level["max_episode_steps"] > 0
        assert f"\n{level['name']}\t" in shown
    assert all(f"\n{name} " in shown for name in found["options"])
    assert len(found["action_names"]) == found["num_actions"]


def test_names_as_people_type_them() -> None:
    for name in ("memarch/Ballet-v0", "memarch_envs:memarch/Ballet-v0", "ballet", "BALLET-V0", "memarch/ballet"):
        assert find_spec(name).id == "memarch/Ballet-v0"
    wrong = envs("show", "Balet", code=2).stderr
    assert wrong.startswith("error: unknown environment 'Balet'; did you mean memarch/Ballet-v0?")
    assert "did you mean" not in envs("play", "xyzzy", code=2).stderr


def test_playing_by_pipe() -> None:
    lines = envs("play", *SHORT_MAZE, stdin="left, RIGHT\n0 up").stdout.splitlines()
    assert lines == [
        "memarch/TMaze-v0, seed 3",
        "step 0: corridor; cue -",
        "> left",
        "step 1: corridor; cue up",
        "> right",
        "step 2: corridor; cue -",
        "> right",
        "step 3: junction; cue -",
        "> up, reward 1",
        "step 4: upper arm; cue -",
        "episode 1: return 1, success, 4 steps",
    ]
    revealed = envs("play", *SHORT_MAZE, "--reveal", stdin="left").stdout
    assert "up goal, down empty" in revealed and "left after 1 step of an episode, return 0\n" in revealed
    quit_early = envs("play", *SHORT_MAZE, stdin="left q right right").stdout
    assert "left after 1 step" in quit_early and quit_early.count(">") == 1


def test_actions_after_an_end_begin_the_next_episode() -> None:
    typed = "2 0 0 3 " * 3
    three = envs("play", *SHORT_MAZE, stdin=typed).stdout.splitlines()
    results = [line for line in three if line.startswith("episode")]
    assert len(results) == 3 and {"return 1, success", "return 0, no success"} == {
        line.split(": ")[1].rsplit(",", 1)[0] for line in results
    }
    assert three[-1].startswith("3 episodes: mean return 0.") and three[-1].endswith("%")
    two = envs("play", *SHORT_MAZE, "--episodes", "2", stdin=typed).stdout.splitlines()
    assert [line for line in two if line.startswith("episode")] == results[:2]


@pytest.mark.parametrize("env_id", sorted(ENVIRONMENTS))
def test_the_oracle_succeeds_and_seeds_repeat(env_id: str) -> None:
    level = levels(env_id)[0].name
    first = envs("play", env_id, "--oracle", "--level", level, "--seed", "5", "--episodes", "3").stdout
    assert first.endswith("success 100%\n") and first.count("\nepisode ") == 3
    assert first == envs("play", env_id, "--oracle", "--level", level, "--seed", "5", "--episodes", "3").stdout
    uniform = envs("play", env_id, "--random", "--level", level, "--seed", "5").stdout
    assert uniform.startswith(f"{env_id}, seed 5\n") and "\nepisode 1: return " in uniform


def test_without_a_seed_it_says_which_one() -> None:
    title = envs("play", "MemoryLength", "--oracle").stdout.splitlines()[0]
    again = envs("play", "MemoryLength", "--oracle", "--seed", title.rsplit(" ", 1)[1])
    assert again.stdout.startswith(title)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-o", "lenght=3"), "has no option 'lenght'; its options are: length"),
        (("-o", "length"), "--option takes name=value, such as length=20; got 'length'"),
        (("-o", "length=0"), "length must be an integer at least 1, got 0"),
        (("-o", "length=long"), "got 'long'"),
        (("-o", "length=true"), "got True"),
        (("--level", "length11"), "--level must be one of length10, "),
        (("--oracle", "--random"), "not both"),
        (("--episodes", "0"), "--episodes must be at least 1; got 0"),
        (("--seed", "-1"), "--seed must be at least 0; got -1"),
        (("--fps", "0"), "--fps must be above 0"),
        (("--save", "film.avi"), "ends in .gif or .mp4; got 'film.avi'"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], told: str) -> None:
    result = envs("play", "TMaze", *arguments, code=2)
    assert told in result.stderr and result.stderr.count("\n") == 1 and result.stdout == ""


def test_a_bad_action_names_the_good_ones() -> None:
    assert "one of right, up, left, down, or 0..3; got 'west'" in envs("play", "TMaze", stdin="west", code=2).stderr
    assert "one of 0..3; got '4'" in envs("play", "ObjectPermanence", stdin="4", code=2).stderr


def test_a_gif_of_the_oracle(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "ballet.gif"
    path.write_text("old")
    told = envs("play", "Ballet", "--oracle", "--seed", "0", "--fps", "10", "--save", str(path)).stdout
    assert told.startswith("episode 1: return 1, success, 65 steps\nwrote 75 pictures to ")
    assert [entry.name for entry in tmp_path.iterdir()] == ["ballet.gif"] and path.stat().st_size < 40_000
    with Image.open(path) as film:
        seconds, shown = 0.0, set()
        for frame in range(film.n_frames):  # type: ignore[attr-defined]
            film.seek(frame)
            seconds += film.info["duration"] / 1000
            shown.add(film.convert("RGB").tobytes())
        # Start, 64 steps and a second of the last picture, at 10 a second; equal neighbours are one frame.
        assert seconds == pytest.approx(7.5) and len(shown) > 9 and min(film.size) > 100


def test_an_mp4_of_ones_own_play(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "maze.mp4"
    told = envs("play", *SHORT_MAZE, "--save", str(path), stdin="left right right up").stdout
    assert "wrote 9 pictures" in told
    ffmpeg = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        str(path),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    raw = subprocess.run(ffmpeg, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60).stdout
    picture = make_env(find_spec("TMaze"), {"length": 1})
    picture.reset(seed=3)
    height, width = (n + n % 2 for n in np.shape(picture.render())[:2])
    frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    assert len(frames) == 9 and not np.array_equal(frames[0], frames[-1])


@pytest.mark.parametrize(("suffix", "module", "extra"), [("gif", "PIL", "agents"), ("mp4", "imageio_ffmpeg", "video")])
def test_a_missing_package_is_named_before_anything_is_played(
    suffix: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = envs("play", "TMaze", "--oracle", "--save", f"film.{suffix}", code=1)
    assert f"pip install 'memarch[{extra}]'" in result.stderr and result.stdout == ""


def test_a_film_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    told = envs("play", "TMaze", "--oracle", "--save", str(tmp_path / "no" / "film.gif"), code=1).stderr
    assert told == f"error: there is no folder {tmp_path / 'no'}: create it first\n"


def test_keys_of_moves_initials_and_numbers() -> None:
    keys = keys_of(COMPASS)
    moves = {"up": 0, "u": 1, "right": 2, "n": 3, "down": 4, "b": 5, "left": 6, "y": 7}
    assert keys == moves | {str(action): action for action in range(8)}
    assert keys_of(["0", "1"]) == {"0": 0, "1": 1}
    assert keys_of(["wait", "quit", "wink"]) == {"w": 0, "u": 1, "i": 2, "0": 0, "1": 1, "2": 2}
    many = keys_of([str(action) for action in range(30)])
    assert sorted(many.values()) == list(range(30)) and "q" not in many
    assert [read_action(text, COMPASS) for text in ("n", "NE", "7")] == [0, 1, 7]


def in_terminal(*arguments: str, keys: bytes, wait_for: bytes, number: int | None = None) -> tuple[str, int, Any, Any]:
    """The command in a terminal of its own: output, exit code, and the terminal's settings before and after."""
    import pty
    import termios

    ours, theirs = pty.openpty()
    before, output, sent = termios.tcgetattr(theirs), b"", False
    with subprocess.Popen(
        command("envs", *arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=environment() | {"TERM": "xterm"}
    ) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.02)[0]:
                output += os.read(ours, 65536)
            if not sent and wait_for in output:
                sent = True
                os.write(ours, keys)
                if number is not None:
                    process.send_signal(number)
            if time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"the command did not end; it wrote {output!r}")
    after = termios.tcgetattr(theirs)
    os.close(ours)
    os.close(theirs)
    return output.decode(), process.returncode, before, after


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("keys", "number", "code"),
    [(b"\x1b[D\x1b[C0\x1b[Aq", None, 0), (b"\x03", None, 130), (b"", signal.SIGTERM, 128 + signal.SIGTERM)],
    ids=["played", "interrupted", "terminated"],
)
def test_playing_by_keyboard_restores_the_terminal(keys: bytes, number: int | None, code: int) -> None:
    output, status, before, after = in_terminal("play", *SHORT_MAZE, keys=keys, wait_for=b"q quit", number=number)
    assert status == code, output
    assert after == before
    assert output.rindex("\x1b[?1049l") > output.rindex("\x1b[?1049h")  # the alternate screen is left ...
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")  # ... and the cursor shown
    if code == 0:
        assert output.endswith("memarch/TMaze-v0, seed 3\r\nepisode 1: return 1, success, 4 steps\r\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_watching_draws_in_place() -> None:
    watch = ("play", *SHORT_MAZE, "--oracle", "--fps", "50")
    output, status, before, after = in_terminal(*watch, keys=b"", wait_for=b"")
    assert status == 0 and after == before and output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert output.count("\x1b[2K") >= 4 * 4  # four more pictures of five lines over the first
    assert output.endswith("episode 1: return 1, success, 4 steps\r\n")


def test_without_prompt_toolkit_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("MemoryLength")
    game = Game(make_env(spec, {}), spec.id, seed=0, reveal=False)
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    with pytest.raises(ImportError, match=r"pip install 'memarch\[agents\]'"):
        play_by_keys(game, None)
