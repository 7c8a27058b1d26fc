"""CPU attention equals MLX's up to rounding, and is bit-identical on one core and on two."""

from collections.abc import Callable
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx_lm.models import base
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from tests.exactness import rounding_of_attention, same
from tests.marks import quick_and_slow
from workers.engine.cpu import attention as module
from workers.engine.cpu import two_cores
from workers.engine.cpu.attention import WORTH_TWO_CORES, attention
from workers.engine.kv.key_blocks import in_blocks
from workers.engine.kv.length_groups import LengthGroup
from workers.engine.kv.mlx_caches import TokenSpan
from workers.engine.kv.slab import SlabView
from workers.engine.kv.slots import Slots

Mask = Callable[[int, int, int], mx.array | str | None]


def each_row(rows: int, tokens: int, keys: int) -> mx.array:
    return mx.arange(keys)[None, None, None] < mx.arange(keys - rows, keys)[:, None, None, None]


def padded(rows: int, tokens: int, keys: int) -> mx.array:
    """Causal, and the first tokens of each row are no tokens."""
    there, here = mx.arange(keys)[None], mx.arange(keys - tokens, keys)[:, None]
    return (there <= here) & (there >= mx.arange(rows)[:, None, None, None])


MASKS: dict[str, Mask] = {
    "none": lambda rows, tokens, keys: None,
    "causal": lambda rows, tokens, keys: "causal",
    "of each row": each_row,
    "padded": padded,
    "one for all": lambda rows, tokens, keys: (mx.arange(keys) < keys // 2)[None, None, None],
    "without rows": lambda rows, tokens, keys: (mx.arange(keys) < keys // 2)[None],
    "of each head": lambda rows, tokens, keys: (
        mx.arange(keys)[None, None, None] <= mx.arange(9)[None, :, None, None]
    ),
    "a bias": lambda rows, tokens, keys: mx.arange(keys, dtype=mx.float32)[None] * -0.1,
    "a bias of each head": lambda rows, tokens, keys: (
        mx.arange(9, dtype=mx.float32)[:, None, None] * mx.arange(keys)[None, None] * -0.01
    ),
}


def random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


def close(ours: mx.array, theirs: mx.array) -> bool:
    return ours.shape == theirs.shape and bool((mx.abs(ours - theirs) < 3e-5).all())


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("rows", "tokens", "keys"), [(1, 1, 70), (5, 1, 70), (1, 33, 33), (3, 20, 70)])
def test_cpu_attention_equals_mlx_attention_up_to_rounding(
    rows: int, tokens: int, keys: int, mask: str
) -> None:
    queries = random(rows, 9, tokens, 64) * 4
    k, v = random(rows, 3, keys, 64), random(rows, 3, keys, 32)  # sizes may differ
    made = MASKS[mask](rows, tokens, keys)
    theirs = base.scaled_dot_product_attention(queries, k, v, None, 0.125, made)  # type: ignore[arg-type]
    assert close(attention(queries, k, v, None, 0.125, made), theirs)


@pytest.mark.parametrize("mask", ["none", "causal", "of each row"])
@pytest.mark.parametrize(("rows", "tokens", "keys"), [(5, 1, 600), (3, 20, 70)])
def test_cpu_attention_with_sinks_equals_mlx_attention_up_to_rounding(
    rows: int, tokens: int, keys: int, mask: str
) -> None:
    queries, sinks = random(rows, 9, tokens, 64) * 4, random(9) * 4
    k, v = random(rows, 3, keys, 64), random(rows, 3, keys, 64)
    made = MASKS[mask](rows, tokens, keys)
    theirs = base.scaled_dot_product_attention(queries, k, v, None, 0.125, made, sinks)  # type: ignore[arg-type]
    assert close(attention(queries, k, v, None, 0.125, made, sinks), theirs)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rows", quick_and_slow((5,), (32,)))
def test_cpu_attention_on_two_cores_is_bit_identical_to_one(
    rows: int, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_cores, "threads", lambda: 2)
    keys, values, queries = random(rows, 3, 1500, 64), random(rows, 3, 1500, 64), random(rows, 9, 1, 64)
    assert queries.size * keys.shape[2] >= WORTH_TWO_CORES
    made = MASKS[mask](rows, 1, keys.shape[2])
    halved = attention(queries, keys, values, None, 0.125, made)
    mx.eval(halved)
    monkeypatch.setattr(module, "WORTH_TWO_CORES", 1 << 60)
    assert mx.array_equal(halved, attention(queries, keys, values, None, 0.125, made))


@pytest.mark.parametrize("slabs", [1, 2])
@pytest.mark.parametrize("kind", ["a mask", "a bias", "a bias of each head"])
def test_a_sequence_attends_only_to_keys_within_its_length_group(kind: str, slabs: int) -> None:
    """Up to the end of its last block; with the groups in one slab, and with the last in a second, smaller slab."""
    lengths, runs = (
        [40, 38, 70, 30, 22],
        [LengthGroup(slice(0, 2), 40), LengthGroup(slice(2, 3), 70), LengthGroup(slice(3, 5), 30)],
    )
    queries, k, v = random(5, 9, 1, 64), random(5, 3, 70, 64), random(5, 3, 128, 64)
    made = mx.arange(70)[None, None, None] < mx.array(lengths)[:, None, None, None]
    if kind != "a mask":
        slope = mx.arange(9)[None, :, None, None] if kind == "a bias of each head" else mx.array(1.0)
        made = mx.where(made, mx.arange(70) * slope * -0.01, -1e30)
    beyond = mx.array([64, 64, 128, 64, 64])[:, None, None, None]
    keys, values = (mx.where(mx.arange(each.shape[2])[:, None] >= beyond, mx.nan, each) for each in (k, v))
    blocks = mx.contiguous(in_blocks(keys))
    one = [SlabView(0, blocks, values, runs)]
    two = [
        SlabView(0, blocks[:3], values[:3], runs[:2]),
        SlabView(3, blocks[3:, :, :1], values[3:, :, :64], [LengthGroup(slice(0, 2), 30)]),
    ]
    cache = SimpleNamespace(in_blocks=lambda keys, values: one if slabs == 1 else two)
    together = attention(queries, keys, values[:, :, :70], cache, 0.125, made)
    for row, length in enumerate(lengths):
        its, near = slice(row, row + 1), slice(length)
        apart = attention(queries[its], k[its, :, near], v[its, :, near], None, 0.125, made[its, ..., near])
        assert same(together[its], apart, rounding_of_attention(queries, k, v, 0.125))


GIVEN: dict[str, Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]] = {
    "what the cache holds": lambda keys, values: (keys, values),
    "its keys for both": lambda keys, values: (keys, keys),
    "its values for both": lambda keys, values: (values, values),
    "one for the other": lambda keys, values: (values, keys),
    "other keys": lambda keys, values: (keys * 2 + 1, values),
    "other values": lambda keys, values: (keys, values[..., :16]),
    "more heads": lambda keys, values: (mx.repeat(keys, 3, axis=1), mx.repeat(values, 3, axis=1)),
    "the last ones": lambda keys, values: (keys[:, :, -20:], values[:, :, -20:]),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("lengths", [[40], [40, 33], [40, 600]])  # one slab, or two
def test_attention_uses_the_keys_that_the_model_passes_even_if_the_cache_holds_others(
    lengths: list[int], given: str
) -> None:
    slots = Slots(in_blocks=True)
    begun = KVCache()
    begun.update_and_fetch(
        random(len(lengths), 3, max(lengths), 64), random(len(lengths), 3, max(lengths), 64)
    )
    slots.join([begun], [TokenSpan(row, 0, length) for row, length in enumerate(lengths)])
    slots.begin()
    [layer] = slots.layers
    mask = layer.make_mask(1, return_array=True)
    queries, new = random(len(lengths), 9, 1, 64), random(len(lengths), 3, 1, 64)
    keys, values = GIVEN[given](*layer.update_and_fetch(new, new))
    mask = mask[..., -keys.shape[2] :]
    theirs = base.scaled_dot_product_attention(queries, keys, values, None, 0.125, mask)
    assert close(attention(queries, keys, values, layer, 0.125, mask), theirs)


def test_a_query_with_all_keys_masked_gets_the_mean_of_the_values() -> None:
    queries, keys, values = random(1, 9, 2, 64), random(1, 3, 10, 64), random(1, 3, 10, 64)
    answer = attention(queries, keys, values, None, 0.125, mx.zeros((2, 10), dtype=mx.bool_))
    assert close(answer[:, ::3], mx.broadcast_to(values.mean(axis=2, keepdims=True), (1, 3, 2, 64)))


def test_attention_does_not_reuse_the_bias_of_another_mask_of_the_same_shape() -> None:
    queries, keys, values = random(1, 9, 1, 64), random(1, 3, 40, 64), random(1, 3, 40, 64)
    for end in (10, 20):
        mask = (mx.arange(40) < end)[None]
        shorter = attention(queries, keys[:, :, :end], values[:, :, :end], None, 0.125, None)
        assert close(attention(queries, keys, values, None, 0.125, mask), shorter)


def test_cpu_attention_leaves_quantized_caches_and_other_types_to_mlx() -> None:
    queries, keys, values = random(1, 9, 1, 64), random(1, 3, 40, 64), random(1, 3, 40, 64)
    q, k, v = (array.astype(mx.bfloat16) for array in (queries, keys, values))
    assert attention(q, k, v, None, 0.125, None).dtype == mx.bfloat16
    packed = QuantizedKVCache(group_size=64, bits=8)
    some, others = packed.update_and_fetch(keys, values)
    whole = attention(queries, keys, values, None, 0.125, None)
    assert bool((mx.abs(attention(queries, some, others, packed, 0.125, None) - whole) < 0.05).all())
