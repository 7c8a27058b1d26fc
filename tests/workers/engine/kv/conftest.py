"""Slots as a CPU and as an accelerator have them."""

import pytest

from workers.engine.kv.slots import Slots


@pytest.fixture(params=["tokens", "blocks"])
def slots(request: pytest.FixtureRequest) -> Slots:
    return Slots(in_blocks=request.param == "blocks")
