"""Slots of models that are not full attention in all layers: windows, recurrent states, and both beside full layers."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import CacheList

from tests.marks import quick_and_slow
from tests.tiny_model import VOCABULARY, make_folder
from tests.workers.engine.kv.decoding import alone, step
from tests.zoo import WINDOW, config_of
from workers.engine.forward import feed
from workers.engine.kv import footprint
from workers.engine.kv.decode_caches import Merged, caches_for
from workers.engine.kv.mlx_caches import (
    Cache,
    TokenSpan,
    can_pad,
    extract,
    merge,
    nbytes,
    new_cache,
    spans,
)
from workers.engine.kv.slots import Slots
from workers.model.load import inspect, load

# By architecture: how many sequences' bytes a leave and a join may copy. A state has no room for one more.
COPIED = {"gemma3_text": (3, 1), "lfm2": (3, 1), "falcon_h1": (3, 1), "mamba2": (5, 7)}
ROWS, TOKENS = 6, 300
LONG = footprint.SMALL + 9
REST = 250  # tokens behind a long prefix; they nearly fill the array of a cache of mlx-lm


def tiny(folder: Path, kind: str) -> Any:
    make_folder(folder, config_of(kind, VOCABULARY))
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True).model


@pytest.fixture(
    scope="module",
    params=quick_and_slow(("gemma3_text", "falcon_h1"), ("mamba2", "lfm2", "recurrent_gemma", "baichuan_m1")),
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny(Path(tmp_path_factory.mktemp(request.param)) / "model", request.param)


def read(model: Any, prompts: list[list[int]]) -> tuple[Cache, list[TokenSpan]]:
    """Prompts that were prefilled together, or a single one in a cache of its own."""
    caches = [new_cache(model) for _ in prompts]
    cache = caches[0] if len(prompts) == 1 else merge(caches)
    if any(prompts):
        feed(model, cache, prompts)
    return cache, spans(cache, [0] * len(prompts), [len(prompt) for prompt in prompts])


def some_prompts(model: Any, rng: random.Random) -> list[list[int]]:
    """Of unlike length where the caches can be padded; one in four is longer than the window, one may be empty."""
    lengths = [rng.choice([0, 3, 17, 2 * WINDOW + 5]) for _ in range(rng.randrange(1, 4))]
    if not can_pad(model):
        lengths = lengths[:1] * len(lengths)
    return [[rng.randrange(3, 250) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("seed", quick_and_slow((0,), (1, 2, 3)))
def test_sequences_of_every_kind_of_layer_compute_in_slots_what_they_compute_alone(
    slots: Slots, model: Any, seed: int
) -> None:
    rng = random.Random(seed)
    rows = list[list[int]]()
    for _ in range(8):
        if not rows or rng.random() < 0.5:
            new = some_prompts(model, rng)
            order = slots.join(*read(model, new))
            rows = [[*rows, *new][row] for row in order]
        for _ in range(3):
            tokens = [rng.randrange(3, 250) for _ in rows]
            logits = step(model, slots, tokens)
            for row, token in zip(rows, tokens, strict=True):
                row.append(token)
        for row, mine in zip(rows, logits, strict=True):
            assert mx.allclose(mine, alone(model, row), atol=2e-4)
        keep = [row for row in range(len(rows)) if rng.random() < 0.7]
        rows = [rows[row] for row in slots.keep(keep)]


def test_sequences_of_unlike_length_in_several_slabs_keep_their_states_and_windows(model: Any) -> None:
    slots = Slots(in_blocks=True)
    rows = [[5] * 20, [6] * 600, [7] * 30, [8] * 700]
    ordered = list[list[int]]()
    for row in rows:
        ordered = [[*ordered, row][at] for at in slots.join(*read(model, [row]))]
    assert len(list(slots.slabs)) == 2
    ordered = [ordered[at] for at in slots.keep([0, 2, 3])]
    logits = step(model, slots, [9, 10, 11])
    for row, token, mine in zip(ordered, [9, 10, 11], logits, strict=True):
        assert mx.allclose(mine, alone(model, [*row, token]), atol=2e-4)


@pytest.mark.parametrize("length", [3, WINDOW - 1, WINDOW, 3 * WINDOW])
def test_a_sequence_goes_on_from_a_copy_of_its_slot(slots: Slots, model: Any, length: int) -> None:
    ids = [(7 * i) % 250 + 3 for i in range(length)]
    slots.join(*read(model, [[5, 6, 7]]))
    slots.join(*read(model, [ids]))
    step(model, slots, [8, 30])
    own = slots.cache_of(1)
    step(model, slots, [9, 31])  # the copy is the sequence's own
    for more in ([40], [41, 42, 43]):
        forked = extract(own, 0)
        goes_on = model(mx.array([more]), cache=forked)[0, -1]
        assert mx.allclose(goes_on, alone(model, [*ids, 30, *more]), atol=2e-4)


def test_a_model_has_slots_unless_its_layers_have_several_attentions(tmp_path: Path, model: Any) -> None:
    assert isinstance(caches_for(new_cache(model)), Slots)
    several = tiny(tmp_path / "model", "deepseek_v32")
    assert isinstance(caches_for(new_cache(several)), Merged)


def arrays(layer: Any) -> Iterator[mx.array]:
    if isinstance(layer, CacheList):
        layer = layer.caches
    parts = layer if isinstance(layer, list | tuple) else layer.state
    for part in parts:
        if isinstance(part, mx.array):
            yield part
        elif not isinstance(part, int | None):
            yield from arrays(part)


@pytest.mark.parametrize("rows", [1, 2])
def test_sequences_of_every_kind_of_layer_go_on_in_slots_behind_long_prefixes(
    slots: Slots, model: Any, rows: int
) -> None:
    """Prefixes that were read before, and of which mlx-lm's caches have made arrays of any length."""
    ids = [[(7 * i + row) % 247 + 3 for i in range(LONG + REST)] for row in range(rows)]
    begun = [new_cache(model) for _ in ids]
    for cache, row in zip(begun, ids, strict=True):
        feed(model, cache, [row[:LONG]])
    together = begun[0] if rows == 1 else merge(begun)
    feed(model, together, [row[LONG:] for row in ids])
    slots.join(together, spans(together, [LONG] * rows, [REST] * rows))
    assert all(slab.tokens % footprint.TOKENS == 0 for _, slab in slots.slabs)
    for token in (20, 30):
        logits = step(model, slots, [token] * rows)
        for row, mine in zip(ids, logits, strict=True):
            row.append(token)
            assert mx.allclose(mine, alone(model, row), atol=1e-4)


def test_prompts_of_no_token_and_of_one_are_read_in_one_pass(slots: Slots, model: Any) -> None:
    """mlx-lm takes a pass of one token for one of a decode batch, which has no padding."""
    if not can_pad(model):
        pytest.skip("its states would include the padding")
    rows = [list[int](), [5]]
    slots.join(*read(model, rows))
    for token in (20, 30):
        logits = step(model, slots, [token] * 2)
        for row, mine in zip(rows, logits, strict=True):
            row.append(token)
            assert mx.allclose(mine, alone(model, row), atol=1e-4)


def sequences_copied(caches: Slots, one: int, change: Callable[[], object]) -> float:
    """The memory that a change takes for a moment beside what was there, in sequences of ``one`` bytes."""

    def settle() -> None:
        mx.eval([list(arrays(layer)) for layer in caches.layers])
        mx.synchronize()

    settle()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    change()
    settle()
    return (mx.get_peak_memory() - before) / one


@pytest.mark.parametrize("make", [lambda: Slots(in_blocks=True), lambda: Slots(in_blocks=False)])
@pytest.mark.parametrize("kind", quick_and_slow(("gemma3_text", "falcon_h1"), ("mamba2", "lfm2")))
def test_a_join_or_a_leave_copies_the_bytes_of_one_sequence_and_not_of_the_batch(
    tmp_path: Path, kind: str, make: Callable[[], Slots]
) -> None:
    model, caches = tiny(tmp_path / "model", kind), make()

    for _ in range(ROWS):
        caches.join(*read(model, [[5] * TOKENS]))
    step(model, caches, [5] * ROWS)
    one = nbytes(caches.cache_of(0))
    leave = sequences_copied(caches, one, lambda: caches.keep([0, 2, 3, 4, 5]))
    more = read(model, [[5] * TOKENS])
    mx.eval([list(arrays(layer)) for layer in more[0]])
    join = sequences_copied(caches, one, lambda: caches.join(*more))
    assert leave <= COPIED[kind][0] and join <= COPIED[kind][1]
