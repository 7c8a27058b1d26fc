"""A run directory, and the function that starts a broker process on it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.broker.stack import Stack


@pytest.fixture
def folder() -> Iterator[Path]:
    """Pytest's own is too long a path for a socket."""
    with TemporaryDirectory(prefix="mlx-") as folder:
        yield Path(folder)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Stack]]:
    """Starts a broker whose workers get these options, and ends what it left behind."""
    stacks: list[Stack] = []

    def start(*worker_options: str, **settings: object) -> Stack:
        stacks.append(Stack(folder / "run", *worker_options, **settings))
        return stacks[-1]

    yield start
    for stack in stacks:
        stack.close()
