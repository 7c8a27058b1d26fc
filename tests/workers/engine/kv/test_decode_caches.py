"""Which caches take tokens back."""

from pathlib import Path

import pytest

from tests.tiny_model import Kind, make_tiny_model
from workers.engine.kv.decode_caches import caches_of
from workers.engine.speculation.speculator import may_speculate
from workers.model.load import inspect, load


@pytest.mark.parametrize(
    ("kind", "takes_back"), [("llama", True), ("sliding", False), ("recurrent", False), ("hybrid", False)]
)
def test_only_layers_that_keep_all_tokens_and_no_state_take_some_back(
    tmp_path: Path, kind: Kind, takes_back: bool
) -> None:
    folder = make_tiny_model(tmp_path / "model", kind)
    loaded = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
    assert caches_of(loaded.model, 8, None).takes_back is takes_back
    assert not caches_of(loaded.model, 1, None).takes_back
    assert not caches_of(loaded.model, 8, "it computes something else in company").takes_back


def test_a_model_may_speculate_where_its_caches_take_tokens_back_and_no_bit_changes_or_the_operator_says_so() -> (
    None
):
    assert may_speculate("auto", "exact", True)
    assert may_speculate("on", "rounding", True)
    assert not may_speculate("auto", "rounding", True)
    assert not may_speculate("off", "exact", True)
    assert not may_speculate("on", "exact", False)
