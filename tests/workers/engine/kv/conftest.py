"""Slots as a CPU and as an accelerator have them."""

import sys

import pytest
from mlx_lm.models import base

from workers.engine.cpu.attention import attention
from workers.engine.kv.slots import Slots


@pytest.fixture(params=["tokens", "blocks"])
def slots(request: pytest.FixtureRequest) -> Slots:
    return Slots(in_blocks=request.param == "blocks")


@pytest.fixture
def attention_of_mlx_lm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator, also if other tests have installed a CPU's kernels in this process."""
    for name, module in list(sys.modules.items()):
        if (
            name.startswith("mlx_lm.models.")
            and vars(module).get("scaled_dot_product_attention") is attention
        ):
            monkeypatch.setattr(module, "scaled_dot_product_attention", base.scaled_dot_product_attention)
