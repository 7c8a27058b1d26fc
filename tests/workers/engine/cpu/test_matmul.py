"""Matrix products and attention of a sequence are bit-identical in any batch and with any prefill chunks."""

from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx.nn.layers.linear import Linear

from tests.exactness import SHAPES, random, rounding_of_attention, rounding_of_product, same
from workers.engine.cpu.attention import SPAN, attention
from workers.engine.cpu.matmul import linear, rows_for
from workers.engine.kv.key_blocks import BLOCK, in_blocks, out_of_blocks
from workers.engine.kv.length_groups import length_groups_of
from workers.engine.kv.slab import SlabView


@pytest.mark.parametrize(("inner", "columns"), SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_is_batch_invariant_for_any_number_of_rows(
    inner: int, columns: int, bias: bool
) -> None:
    layer = Linear(inner, columns, bias=bias)
    layer.weight = random(columns, inner)
    x = random(1, 300, inner)
    every, within = linear(layer, x)[0], rounding_of_product(x[0], layer.weight)
    for rows in [*range(1, 18), 31, 32, 33, 128]:
        assert same(linear(layer, x[:, :rows])[0], every[:rows], within[:rows])  # as a prompt is read
        assert same(linear(layer, x[0, :rows, None])[:, 0], every[:rows], within[:rows])  # as rows decode


@pytest.mark.parametrize(
    ("rows", "columns", "inner", "least"), [(1, 192, 576, 7), (1, 576, 1536, 2), (9, 192, 576, 9)]
)
def test_a_small_product_is_padded_with_as_few_rows_as_possible(
    rows: int, columns: int, inner: int, least: int
) -> None:
    assert rows_for(rows, columns, inner) == least


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200])
def test_keys_stored_in_blocks_are_read_back_unchanged(tokens: int) -> None:
    keys = random(2, 3, tokens, 16)
    blocks = in_blocks(keys)
    assert blocks.shape[2] * BLOCK - tokens in range(BLOCK)
    assert mx.array_equal(out_of_blocks(blocks, tokens), keys)


@pytest.mark.parametrize("lengths", [[1, 5, 63, 64], [65, 250], [255, 256, 257, 300], [20, 700, 3, 1030]])
def test_decode_and_prefill_attend_with_the_same_result(lengths: list[int]) -> None:
    """In a prompt read at once, in chunks, and by itself, beside rows of other lengths."""
    longest = max(lengths)
    queries, keys, values = (random(len(lengths), heads, longest, 64) for heads in (9, 3, 3))
    last = mx.concatenate([queries[i : i + 1, :, n - 1 : n] for i, n in enumerate(lengths)])
    seen = mx.arange(longest)[None] < mx.array(lengths)[:, None]
    wider = mx.pad(values, [(0, 0), (0, 0), (0, -longest % BLOCK), (0, 0)])
    shown = SlabView(0, mx.contiguous(in_blocks(keys)), wider, length_groups_of(lengths))
    cache = SimpleNamespace(in_blocks=lambda keys, values: [shown])
    decoded = attention(last, keys, values, cache, 0.125, seen[:, None, None])
    within = rounding_of_attention(queries, keys, values, 0.125)
    for i, n in enumerate(lengths):
        row = slice(i, i + 1)
        for chunk in {1, 7, 128, SPAN, n}:
            q, k, v = queries[row, :, max(0, n - chunk) : n], keys[row, :, :n], values[row, :, :n]
            assert same(attention(q, k, v, None, 0.125, "causal")[:, :, -1:], decoded[row], within)


def test_a_prefill_chunk_gives_the_same_beside_longer_prompts() -> None:
    queries, keys, values = (random(3, heads, 300, 64) for heads in (9, 3, 3))
    together = attention(queries, keys, values, None, 0.125, "causal")
    within = rounding_of_attention(queries, keys, values, 0.125)
    for n in (1, 5, 40, 256, 299):
        alone = attention(queries[:1, :, :n], keys[:1, :, :n], values[:1, :, :n], None, 0.125, "causal")
        assert same(alone, together[:1, :, :n], within)
