"""The self-check sees whether passes copy the keys and values that they should write to."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from shared.settings import load_settings
from tests.tiny_model import make_tiny_llama
from workers.device import ACCELERATOR_PATH
from workers.engine.kv.slots import SlotLayer
from workers.job import Job, Served
from workers.model.load import inspect, load
from workers.model.serve_model import serve_model
from workers.self_check.pass_memory import pass_memory


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Served[Job]:
    monkeypatch.setenv(ACCELERATOR_PATH, "1")
    folder = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    return serve_model(load(folder, inspect(folder), lambda *told: None, trusted=True), load_settings())


def holding(given: Callable[..., Any], held: list[Any]) -> Callable[..., Any]:
    def spy(*arrays: Any) -> Any:
        held.append(given(*arrays))
        return held[-1]

    return spy


def test_arrays_that_are_held_show_as_memory_beside_the_keys_and_values(
    served: Served[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pass_memory(served, 4)
    assert first.rows == 4 and first.kv
    held = list[tuple[mx.array, mx.array]]()
    monkeypatch.setattr(SlotLayer, "update_and_fetch", holding(SlotLayer.update_and_fetch, held))
    assert pass_memory(served, 4).beside >= first.beside + first.kv
