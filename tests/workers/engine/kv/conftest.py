"""Slots as a CPU and as an accelerator have them."""

from collections.abc import Iterator

import pytest

from workers.engine.cpu.install import uninstalled
from workers.engine.kv import slab_attention
from workers.engine.kv.slots import Slots


@pytest.fixture(params=["tokens", "blocks"])
def slots(request: pytest.FixtureRequest) -> Slots:
    return Slots(in_blocks=request.param == "blocks")


@pytest.fixture
def attention_of_mlx_lm() -> Iterator[None]:
    """As on an accelerator, also if other tests have installed a CPU's kernels in this process."""
    with uninstalled():
        slab_attention.install()
        yield
