"""Slots: a sequence computes what it computes alone, whichever sequences join, leave or move."""

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache

from tests.marks import quick_and_slow
from tests.tiny_model import make_tiny_llama, make_tiny_model
from tests.workers.engine.kv.decoding import alone, step
from workers.engine.forward import feed
from workers.engine.kv import copies
from workers.engine.kv.buffers import BlockBuffer, TokenBuffer
from workers.engine.kv.decode_caches import Merged
from workers.engine.kv.footprint import ROWS, SMALL, TOKENS, slab_for
from workers.engine.kv.kept_prefix import KeptPrefix
from workers.engine.kv.length_groups import LengthGroup
from workers.engine.kv.mlx_caches import Cache, TokenSpan, divide, evaluate, merge, new_cache, spans
from workers.engine.kv.slab import Slab
from workers.engine.kv.slots import SLABS, Slots
from workers.model.load import inspect, load

LONG = SMALL + 1  # tokens; the slabs of shorter sequences have slots in reserve


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_tiny_llama(Path(tmp_path_factory.mktemp("tiny")) / "model")
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True).model


def read(model: Any, prompts: list[list[int]]) -> tuple[Cache, list[TokenSpan]]:
    cache = merge([new_cache(model) for _ in prompts])
    if any(prompts):
        feed(model, cache, prompts)
    return cache, spans(cache, [0] * len(prompts), [len(prompt) for prompt in prompts])


def some_ids(rng: random.Random, most: int) -> list[int]:
    return [rng.randrange(3, 250) for _ in range(rng.randrange(most))]


@pytest.mark.parametrize("seed", quick_and_slow((0, 1), (2, 3, 4, 5)))
def test_sequences_that_join_leave_and_move_between_slots_compute_what_they_compute_alone(
    slots: Slots, model: Any, seed: int
) -> None:
    rng = random.Random(seed)
    rows = list[list[int]]()
    for _ in range(25):
        if not rows or rng.random() < 0.5:
            new = [some_ids(rng, 40) for _ in range(rng.randrange(1, 4))]
            slots.join(*read(model, new))
            rows += new
        tokens = [rng.randrange(3, 250) for _ in rows]
        logits = step(model, slots, tokens)
        for row, token, mine in zip(rows, tokens, logits, strict=True):
            row.append(token)
            assert mx.allclose(mine, alone(model, row), atol=1e-4)
        keep = [row for row in range(len(rows)) if rng.random() < 0.7]
        rows = [rows[row] for row in slots.keep(keep)]


def test_the_cache_of_a_slot_can_be_copied_as_a_sequences_own(slots: Slots, model: Any) -> None:
    slots.join(*read(model, [[5, 6, 7], list(range(10, 30))]))
    step(model, slots, [8, 30])
    taken = slots.cache_of(1)
    evaluate(taken)
    assert {layer.offset for layer in taken} == {21}
    goes_on = model(mx.array([[31]]), cache=taken)[0, -1]
    assert mx.allclose(goes_on, alone(model, [*range(10, 32)]), atol=1e-4)


def test_a_slot_mask_shows_a_sequence_its_own_tokens_and_only_the_last_of_a_window(
    slots: Slots, model: Any
) -> None:
    slots.join(*read(model, [[5] * 4, [6]]))
    step(model, slots, [7, 8])
    layer = slots.layers[0]
    assert layer.make_mask(1)[:, 0, 0].tolist() == [[True] * 5, [True, True, False, False, False]]
    assert layer.make_mask(1, window_size=2)[:, 0, 0].tolist() == [
        [False, False, False, True, True],
        [True, True, False, False, False],
    ]


def test_sequences_of_equal_length_need_no_mask_unless_the_model_asks_for_one(
    slots: Slots, model: Any
) -> None:
    slots.join(*read(model, [[5] * 4, [6] * 4]))
    step(model, slots, [7, 8])
    layer = slots.layers[0]
    assert layer.make_mask(1) is None
    assert layer.make_mask(1, return_array=True).all()


def test_each_pass_puts_a_long_sequence_into_a_length_group_of_its_own(model: Any) -> None:
    slots = Slots(in_blocks=True, by_length=False)  # all in one slab
    slots.join(*read(model, [[5] * 20, [6] * 1000]))
    [(_, slab)] = slots.slabs
    for width in (21, 22):
        step(model, slots, [7, 7])
        assert slab.groups == [LengthGroup(slice(0, 1), width), LengthGroup(slice(1, 2), width + 980)]
    slots.keep([0])
    step(model, slots, [7])
    assert slab.groups == [LengthGroup(slice(0, 1), 23)]


def test_sequences_of_unlike_length_are_in_different_slabs(model: Any) -> None:
    slots = Slots(in_blocks=True)
    assert slots.join(*read(model, [[5] * 20, [6] * 1000])) == [0, 1]
    assert slots.join(*read(model, [[7] * 700, [8] * 30])) == [0, 3, 1, 2]
    assert [slab.lengths for _, slab in slots.slabs] == [[20, 30], [1000, 700]]
    assert slots.keep([1, 2, 3]) == [1, 2, 3]
    assert slots.keep([1, 2]) == [1, 2]
    assert [slab.lengths for _, slab in slots.slabs] == [[1000, 700]]


@pytest.mark.parametrize(
    ("widths", "length", "at"),
    [
        ([], 5, 0),
        ([5], 256, 0),
        ([5], 600, 1),
        ([300, 1000], 550, 1),
        ([300, 1000], 500, 0),
        ([2000], 999, 1),
    ],
)
def test_a_sequence_joins_a_slab_whose_width_is_within_a_factor_of_two(
    widths: list[int], length: int, at: int
) -> None:
    assert slab_for([(1, width) for width in widths], length, SLABS) == at


@pytest.mark.parametrize(("rows", "length", "at"), [(2, 200, 0), (31, 120, 0), (31, 200, 1)])
def test_a_sequence_does_not_join_a_slab_that_would_have_to_grow_for_many_others(
    rows: int, length: int, at: int
) -> None:
    assert slab_for([(rows, 100)], length, SLABS) == at


def test_when_all_slabs_are_in_use_a_sequence_joins_the_nearest_one() -> None:
    assert slab_for([(9, 100), (9, 10_000)], 1000, 2) == 0
    assert slab_for([(9, 100), (9, 10_000)], 3000, 2) == 1


def test_a_long_sequence_makes_no_slab_of_short_ones_grow(model: Any) -> None:
    slots = Slots(in_blocks=True)
    slots.join(*read(model, [[5] * 20 for _ in range(8)]))
    step(model, slots, [7] * 8)
    before, arrays = slots.nbytes, [layer.state[1] for layer in slots.layers]
    slots.join(*read(model, [[6] * 2000]))
    assert slots.nbytes - before == before // 8 * (2048 // TOKENS)
    assert all(layer.state[1] is array for layer, array in zip(slots.layers, arrays, strict=True))


@pytest.mark.parametrize("row", [0, 1])
def test_only_prefilled_sequences_with_a_batch_slot_join_the_merged_caches(tmp_path: Path, row: int) -> None:
    """A batch cache of mlx-lm, from a pass that also prefilled a prompt with max_tokens 0."""
    folder = make_tiny_model(tmp_path / "model", "sliding")
    model = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True).model
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    cache = merge([new_cache(model) for _ in prompts])
    feed(model, cache, prompts)
    merged = Merged()
    merged.join(cache, [spans(cache, [0, 0], [4, 4])[row]])
    logits = model(mx.array([[13]]), cache=merged.layers)
    assert logits.shape[0] == 1
    assert mx.allclose(logits[0, -1], alone(model, [*prompts[row], 13]), atol=1e-4)


def read_behind(model: Any, rows: list[list[int]], length: int, parts: int) -> tuple[Cache, list[TokenSpan]]:
    """Rows of which the first ``length`` tokens are in caches that others hold."""
    begun = []
    for row in rows:
        rest, held = new_cache(model), []
        feed(model, rest, [[*row[:length], 5]])
        for _ in range(parts - 1):
            first, rest = divide(rest, length // parts)
            held.append(first)
        begun.append(KeptPrefix([*held, rest], length))
    cache, more = merge(begun), [row[length:] for row in rows]
    if any(more):
        feed(model, cache, more)
    evaluate(cache)
    return cache, spans(cache, [length] * len(rows), [len(ids) for ids in more])


def addresses(arrays: list[mx.array]) -> list[int]:
    return [np.array(array, copy=False).__array_interface__["data"][0] for array in arrays]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("rests", [(0,), (20,), (7, 40, 1), (9, 9)])
def test_the_arrays_of_a_pass_become_those_of_a_new_slab(
    slots: Slots, model: Any, rests: tuple[int, ...], parts: int
) -> None:
    """Without a copy where they lie alike. Sequences that decode there, join or leave compute what they do alone."""
    rng = random.Random(0)
    rows = [[rng.randrange(3, 250) for _ in range(LONG + rest)] for rest in rests]
    cache, where = read_behind(model, rows, LONG, parts)
    passed = [addresses(layer.state) for layer in cache]
    slots.join(cache, where)
    alike = slice(1, 2) if slots._in_blocks else slice(2)  # the values, or the keys too
    assert [addresses(layer.state)[alike] for layer in slots.layers] == [each[alike] for each in passed]
    for round in range(3):
        for _ in range(2):
            tokens = [rng.randrange(3, 250) for _ in rows]
            for row, token, mine in zip(rows, tokens, step(model, slots, tokens), strict=True):
                row.append(token)
                assert mx.allclose(mine, alone(model, row), atol=1e-4)
        if round == 0:
            new = [[rng.randrange(3, 250) for _ in range(LONG + 3)] for _ in range(2)]
            order = slots.join(*read_behind(model, new, LONG, 1))
            rows = [[*rows, *new][row] for row in order]
        else:
            rows = [rows[row] for row in slots.keep(list(range(1, len(rows))))]


def test_a_padded_pass_leaves_zeros_behind_each_sequence_of_a_new_slab(slots: Slots, model: Any) -> None:
    """A masked NaN is still NaN, so nothing of the padding may lie there."""
    ends = (LONG + 40, LONG + 1)
    slots.join(*read_behind(model, [[7] * ends[0], [8] * ends[1]], LONG, 1))
    for layer in slots.layers:
        keys, values = next(slab.keys_and_values(layer.number, slab.tokens) for _, slab in slots.slabs)
        for row, end in enumerate(ends):
            assert all(
                mx.any(array[row, :, end - 1]) and not mx.any(array[row, :, end:]) for array in (keys, values)
            )


def spoilt(model: Any, tokens: int) -> Cache:
    """A prefilled cache whose keys are NaN and whose values are infinite."""
    cache = merge([new_cache(model)])
    feed(model, cache, [[5] * tokens])
    for layer in cache:
        layer._arrays = layer.keys * mx.nan, layer.values * mx.inf
    return cache


@pytest.mark.parametrize("layout", [TokenBuffer, BlockBuffer])
@pytest.mark.parametrize("length", [0, 5, 64, 100])
def test_stale_tokens_behind_a_shorter_sequence_are_cleared(
    layout: type[TokenBuffer | BlockBuffer], length: int
) -> None:
    new, old = mx.ones((1, 2, length, 8)), mx.full((1, 2, 170, 8), mx.nan)
    footprint = layout(new)
    footprint.resize(2, 256)
    footprint.fill(1, old, 0)
    footprint.fill(1, new, 170)
    held = footprint.first(slice(1, 2), 256)
    assert (held[:, :, :length] == 1).all()
    assert (held[:, :, length:] == 0).all()


@pytest.mark.parametrize("joined", [[5, 6, 7, 8, 9], []])
@pytest.mark.parametrize("mover", [False, True])
def test_nan_of_an_ended_sequence_does_not_reach_the_next_one_in_its_slot(
    slots: Slots, model: Any, mover: bool, joined: list[int]
) -> None:
    """Although a pass attends to as many keys as the longest sequence has."""
    longest = list(range(10, 160))
    slots.join(*read(model, [longest]))
    slots.join(spoilt(model, 170), [TokenSpan(0, 0, 170)])
    if mover:
        slots.join(*read(model, [joined]))
    slots.keep([0, 2] if mover else [0])
    if not mover:
        slots.join(*read(model, [joined]))
    logits = step(model, slots, [9, 10])
    assert mx.allclose(logits[0], alone(model, [*longest, 9]), atol=1e-4)
    assert mx.allclose(logits[1], alone(model, [*joined, 10]), atol=1e-4)


def test_a_leaving_sequence_moves_only_the_last_slots() -> None:
    slab = Slab([], in_blocks=True)
    slab.lengths = [1] * 6
    assert slab.order_with([0, 1, 3, 5]) == [0, 1, 5, 3]
    slab.keep([0, 1, 5, 3], [])
    assert slab.order_with([0, 1, 2]) == [0, 1, 2]


def capacity(slots: Slots) -> list[tuple[int, int]]:
    """The slots and tokens of each slab, checked in all layers."""
    [held] = {
        tuple((values.shape[0], values.shape[2]) for values in layer.state[1::2]) for layer in slots.layers
    }
    return list(held)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("seed", quick_and_slow((0,), (1, 2)))
def test_the_predicted_footprint_of_slabs_equals_the_bytes_they_hold(
    slots: Slots, model: Any, seed: int, compact: bool
) -> None:
    rng = random.Random(seed)
    rows, slots.compact = 0, compact
    for _ in range(12):
        joining = [rng.choice([3, 130, 300, 600]) for _ in range(rng.randrange(1, 4))]
        promised = slots.footprint().arrays(joining, 1, compact=compact)
        slots.join(*read(model, [[5] * length for length in joining]))
        rows += len(joining)
        step(model, slots, [6] * rows)
        assert capacity(slots) == promised
        slabs = [slab for _, slab in slots.slabs]
        assert not compact or promised == [(len(slab), slots.least(slab.width)) for slab in slabs]
        rows = len(slots.keep([row for row in range(rows) if rng.random() < 0.6]))
        if rows:
            promised = slots.footprint().arrays([], 1, compact=compact)
            step(model, slots, [6] * rows)
            assert capacity(slots) == promised


def some_keys(layers: int, tokens: int) -> Cache:
    cache = [KVCache() for _ in range(layers)]
    for layer in cache:
        layer.update_and_fetch(mx.ones((1, 8, tokens, 64)), mx.ones((1, 8, tokens, 64)))
    evaluate(cache)
    return cache


def test_joining_sequences_are_copied_layer_by_layer(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak is less than the whole prefilled cache and the whole batch together."""
    monkeypatch.setattr(copies, "AHEAD", 1)
    layers, tokens = 16, 8 * TOKENS - 1
    slots.join(some_keys(layers, tokens), [TokenSpan(0, 0, tokens)])
    read = some_keys(layers, tokens)
    others = mx.get_active_memory() - 2 * slots.nbytes
    mx.reset_peak_memory()
    slots.join(read, [TokenSpan(0, 0, tokens)])
    assert mx.get_peak_memory() - others < (1 + 4 / layers) * slots.nbytes


def test_kv_buffers_grow_layer_by_layer(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak is less than two copies of all layers."""
    monkeypatch.setattr(copies, "AHEAD", 1)
    layers = 16
    slots.join(some_keys(layers, TOKENS - 1), [TokenSpan(0, 0, TOKENS - 1)])
    slots.begin()
    mx.reset_peak_memory()
    held, others = slots.nbytes, mx.get_active_memory() - slots.nbytes
    slots.begin()
    evaluate(slots.layers)
    assert slots.nbytes == 2 * held
    assert mx.get_peak_memory() - others < (2 + 4 / layers) * held


def test_kv_buffers_grow_in_steps_and_shrink_when_far_too_large(slots: Slots, model: Any) -> None:
    slots.join(*read(model, [[5] * 10]))
    assert capacity(slots) == [(ROWS, TOKENS)]
    slots.join(*read(model, [[5] * 300 for _ in range(ROWS)]))
    assert capacity(slots) == [(2 * ROWS, 3 * TOKENS)]
    slots.keep([0])
    step(model, slots, [6])
    assert capacity(slots) == [(ROWS, TOKENS)]
    slots.keep([])
    assert slots.nbytes == 0
