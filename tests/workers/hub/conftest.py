"""A model on a hub of this machine, for the tests of this package."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, hub_of
from tests.tiny_model import make_tiny_llama


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_of(make_tiny_llama(tmp_path / "model"), tmp_path / "home") as hub:
        yield hub
