"""The fixture that runs a test once for every store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ._stores import WORLDS, World


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Each store in turn, empty."""
    made = WORLDS[request.param](tmp_path)
    yield made
    made.close()
