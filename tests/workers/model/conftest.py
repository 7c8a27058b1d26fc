"""A real folder of a tiny model, for the tests of this package."""

from pathlib import Path

import pytest

from tests.tiny_model import make_tiny_llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_llama(tmp_path / "model")
