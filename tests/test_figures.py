"""Figures as files: whole, or as they were before."""

import pytest
from matplotlib.figure import Figure

from memarch._figures import save_png


class Broken:
    def savefig(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")


def test_a_failure_leaves_the_old_picture(tmp_path):
    target = tmp_path / "x.png"
    save_png(Figure(), target)
    before = target.read_bytes()
    assert before.startswith(b"\x89PNG")
    with pytest.raises(OSError, match="disk full"):
        save_png(Broken(), target)
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]
