"""The picture of what was read: a PNG, whole or not at all."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from memarch.agents import PPO, draw_recall, watch

from ._envs import SETTINGS, SIZES


def test_a_picture_of_every_layer(tmp_path: Path) -> None:
    ppo = PPO("memarch/PassiveTMaze-v0", policy=SIZES, settings=SETTINGS, env_options={"length": 9}, num_envs=4)
    episode = watch(ppo)
    draw_recall(episode, tmp_path / "one.png", title="T-Maze")
    (name,) = episode.reads
    episode.reads["other"] = episode.reads[name]
    draw_recall(episode, tmp_path / "two.png")
    one, two = imread(tmp_path / "one.png"), imread(tmp_path / "two.png")
    assert two.shape[0] > one.shape[0] > 300 and one.std() > 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one.png", "two.png"]
    with pytest.raises(OSError):
        draw_recall(episode, tmp_path / "nowhere" / "a.png")
