"""The operations of a decode pass on an accelerator: no more per layer than with the caches of mlx-lm."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import BatchKVCache
from mlx_lm.models.llama import Model, ModelArgs

from tests.graphs import operations
from workers.engine.forward import feed, forward
from workers.engine.kv import slab_attention
from workers.engine.kv.mlx_caches import Cache, TokenSpan, new_cache
from workers.engine.kv.slots import Slots

pytestmark = pytest.mark.usefixtures("attention_of_mlx_lm")


def llama(layers: int) -> Any:
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 64}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": layers}
    return Model(ModelArgs(model_type="llama", rms_norm_eps=1e-5, **sizes, **heads))


def prefilled(model: Any, length: int) -> Cache:
    cache = new_cache(model)
    feed(model, cache, [[5] * length])
    return cache


def in_slots(model: Any, lengths: list[int]) -> Cache:
    slots = Slots(in_blocks=False)
    for length in lengths:
        slots.join(prefilled(model, length), [TokenSpan(0, 0, length)])
    mx.eval([layer.state for layer in slots.layers])
    slots.begin()
    return slots.layers


def by_mlx_lm(model: Any, lengths: list[int]) -> Cache:
    caches = [prefilled(model, length) for length in lengths]
    return (
        caches[0]
        if len(caches) == 1
        else [BatchKVCache.merge(layers) for layers in zip(*caches, strict=True)]
    )


def per_layer(cached: Callable[[Any, list[int]], Cache], lengths: list[int]) -> int:
    """The operations that one more layer adds to a pass over one token of each sequence."""

    def count(layers: int) -> Counter[str]:
        model = llama(layers)
        mx.eval(model.parameters())
        cache = cached(model, lengths)
        return operations(forward(model, mx.array([[5]] * len(lengths)), cache))

    return sum(count(2).values()) - sum(count(1).values())


@pytest.mark.parametrize("lengths", [[20], [20, 30, 40]])
def test_a_layer_has_no_more_operations_than_with_the_caches_of_mlx_lm(lengths: list[int]) -> None:
    assert per_layer(in_slots, lengths) <= per_layer(by_mlx_lm, lengths)


def test_sequences_of_equal_length_are_written_by_one_operation() -> None:
    model = llama(3)
    logits = forward(model, mx.array([[5]] * 3), in_slots(model, [20] * 3))
    found = operations(logits)
    assert found["SliceUpdate"] == 2 * 3 and not found["ScatterAxis"] and not found["Scatter"]


def test_one_more_slab_adds_few_operations_to_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention counts as one, as it is on an accelerator."""
    monkeypatch.setattr(slab_attention, "_theirs", lambda q, k, v, **more: q + (k + v)[:, :1, :1])
    assert per_layer(in_slots, [20, 600]) <= per_layer(in_slots, [20, 30]) + 12
