"""What is computed in halves is what the whole would be, to the last bit."""

import importlib
import threading
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import activations, base

from workers.engine.halves import WORTH_ACTIVATION, WORTH_ATTENTION, activation, attention, compute_in_halves

Mask = Callable[[int, int], mx.array | str | None]
MASKS: dict[str, Mask] = {
    "none": lambda rows, keys: None,
    "causal": lambda rows, keys: "causal",
    "of each row": lambda rows, keys: (
        mx.arange(keys)[None, None, None] < mx.arange(50, 50 + rows)[:, None, None, None]
    ),
    "one for all": lambda rows, keys: (mx.arange(keys) < 50)[None, None, None],
    "without rows": lambda rows, keys: (mx.arange(keys) < 50)[None],
}


def random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rows", [2, 5, 32])
def test_attention_in_halves_is_attention(rows: int, mask: str) -> None:
    keys, values = random(rows, 3, 800, 64), random(rows, 3, 800, 64)
    queries = random(rows, 9, 1, 64)
    assert queries.size * keys.shape[2] >= WORTH_ATTENTION
    made = MASKS[mask](rows, keys.shape[2])
    whole = base.scaled_dot_product_attention(queries, keys, values, None, 0.1, made)  # type: ignore[arg-type]
    assert mx.array_equal(attention(queries, keys, values, None, 0.1, made), whole)


@pytest.mark.parametrize("shape", [(17, 1, 1536), (1, 33, 1536), (3, 7, 1000), (1, 1, 20_000)])
def test_an_activation_in_halves_is_the_activation(shape: tuple[int, ...]) -> None:
    gate, x = random(*shape), random(*shape) * 3
    assert gate.size >= WORTH_ACTIVATION
    assert mx.array_equal(activation(activations.swiglu)(gate, x), activations.swiglu(gate, x))


def test_each_thread_has_a_stream_of_its_own() -> None:
    answers: list[bool] = []

    def compute() -> None:
        gate = random(20, 1, 1536)
        answers.append(
            bool(mx.array_equal(activation(activations.swiglu)(gate, gate), activations.swiglu(gate, gate)))
        )

    for _ in range(2):
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
    assert answers == [True, True]


def test_the_models_that_are_imported_compute_so(monkeypatch: pytest.MonkeyPatch) -> None:
    llama: Any = importlib.import_module("mlx_lm.models.llama")
    monkeypatch.setattr(llama, "swiglu", activations.swiglu)
    monkeypatch.setattr(llama, "scaled_dot_product_attention", base.scaled_dot_product_attention)
    compute_in_halves(1)
    assert llama.scaled_dot_product_attention is base.scaled_dot_product_attention
    compute_in_halves(2)
    assert llama.scaled_dot_product_attention is attention
    assert llama.swiglu is not activations.swiglu
