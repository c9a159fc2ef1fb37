"""The tiny model, made once."""

from pathlib import Path

import pytest

from ._tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))
