"""Every registered environment is in the catalogue, with a picture, a description, oracle and chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import envs_catalogue as catalogue
from memarch_envs import ENVIRONMENTS, levels, task_class

README = (catalogue.ROOT / catalogue.README).read_text(encoding="utf-8")
PAGE = (catalogue.ROOT / catalogue.PAGE).read_text(encoding="utf-8")
IDS = sorted(ENVIRONMENTS)


@pytest.mark.parametrize("env_id", IDS)
def test_every_environment_is_in_the_catalogue(env_id: str) -> None:
    row = next(line for line in README.splitlines() if f"`{env_id}`" in line)
    image, told, num_levels, chance, oracle = (cell.strip() for cell in row.strip("|").split("|"))
    assert f'src="{catalogue.picture_path(env_id)}"' in image and task_class(env_id).summary in told
    assert num_levels == str(len(levels(env_id))) and 0 < float(chance.split()[0]) < 1
    assert float(oracle.split()[-1]) == pytest.approx(max(level.oracle_return for level in levels(env_id)), rel=1e-2)
    section = PAGE.split(f"## {env_id.split('/')[1]}\n")[1].split("\n## ")[0]
    assert f'src="pictures/{catalogue.picture_path(env_id).name}"' in section
    for level in levels(env_id):
        cells = [cell.strip() for cell in next(c for c in section.splitlines() if f"| {level.name} " in c).split("|")]
        assert level.chance is not None and float(cells[3]) == pytest.approx(level.chance, rel=1e-2)
        assert float(cells[4]) == pytest.approx(level.random_return, rel=5e-3, abs=6e-3)
        assert float(cells[5]) == pytest.approx(level.oracle_return, rel=5e-3, abs=6e-3)


@pytest.mark.parametrize("env_id", IDS)
def test_every_environment_has_a_small_picture_of_more_than_one_moment(env_id: str) -> None:
    path = catalogue.ROOT / catalogue.picture_path(env_id)
    assert 100 < path.stat().st_size < 40_000
    picture = catalogue.pixels(path)
    assert picture is not None and picture.shape[1] <= catalogue.WIDTH_PIXELS
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) >= 4


def test_the_catalogue_is_up_to_date() -> None:
    assert list(catalogue.outdated(catalogue.ROOT)) == [], "run python -m benchmarks.envs_catalogue"


def test_what_is_missing_or_old_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text(f"head\n{catalogue.BEGIN}old\n{catalogue.END}tail\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="1"):
        catalogue.main(["--root", str(tmp_path), "--check"])
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    catalogue.main(["--root", str(tmp_path)])
    assert len(list(tmp_path.glob("envs/pictures/*.png"))) == len(ENVIRONMENTS)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"head\n{catalogue.BEGIN}") and text.endswith(f"{catalogue.END}tail\n") and "old" not in text
    capsys.readouterr()
    catalogue.main(["--root", str(tmp_path), "--check"])
    assert capsys.readouterr().out == "everything is up to date\n"


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs one line"):
        catalogue.between_marks(f"{catalogue.END}{catalogue.BEGIN}", "table\n")


def test_grids() -> None:
    square, wide = np.zeros((2, 3, 3), np.uint8), np.zeros((2, 5, 3), np.uint8)
    gap, room = catalogue.GAP_PIXELS, catalogue.WIDTH_PIXELS
    assert catalogue.grid([square] * 3).shape == (2 * 69, 3 * 3 * 69 + 2 * gap, 3)  # 69 = (640 - 16) // 3 // 3
    picture = catalogue.grid([wide] * 3)
    scale = (room - gap) // 2 // 5
    assert picture.shape == (2 * 2 * scale + gap, 2 * 5 * scale + gap, 3)
    assert picture[-1, -1].tolist() == [255] * 3 and picture[0, 0].tolist() == [0] * 3
