"""One fault stack per module, checked after every test."""

from collections.abc import Iterator

import pytest

from tests.faults.stack import FaultStack, fault_stack


@pytest.fixture(scope="module")
def running() -> Iterator[FaultStack]:
    """One for each module: what its tests do to it, it has to survive."""
    with fault_stack("--step", "0.01") as stack:
        yield stack


@pytest.fixture
def stack(running: FaultStack) -> Iterator[FaultStack]:
    """Checked after each test."""
    yield running
    running.check()
