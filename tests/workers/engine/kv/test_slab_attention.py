"""On an accelerator sequences of unlike length are in slabs as well, each attended to by one operation of its own."""

from typing import Any

import mlx.core as mx
import pytest

from tests.graphs import operations
from tests.marks import quick_and_slow
from tests.tiny_model import VOCABULARY, make_folder, make_tiny_llama
from tests.workers.engine.kv.decoding import alone, step
from tests.zoo import config_of
from workers.engine.forward import feed, forward
from workers.engine.kv import slab_attention
from workers.engine.kv.footprint import ROWS, TOKENS
from workers.engine.kv.mlx_caches import TokenSpan, new_cache
from workers.engine.kv.slots import SLABS_OF_ACCELERATOR, Slots
from workers.model.load import inspect, load

LENGTHS = [20, 600, 30]
pytestmark = pytest.mark.usefixtures("attention_of_mlx_lm")


@pytest.fixture(
    scope="module", params=quick_and_slow(("llama", "gemma3_text"), ("falcon_h1", "gpt_oss", "lfm2"))
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    make_folder(folder, config_of(request.param, VOCABULARY))
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True).model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_tiny_llama(tmp_path_factory.mktemp("llama") / "model")
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True).model


@pytest.fixture
def slots() -> Slots:
    return Slots(in_blocks=False)


def ids_of(length: int) -> list[int]:
    return [(7 * i + length) % 250 + 3 for i in range(length)]


def joined(slots: Slots, model: Any, lengths: list[int]) -> list[list[int]]:
    """The ids of the sequences, in the order of the batch."""
    rows = list[list[int]]()
    for length in lengths:
        cache = new_cache(model)
        feed(model, cache, [ids_of(length)])
        order = slots.join(cache, [TokenSpan(0, 0, length)])
        rows = [[*rows, ids_of(length)][row] for row in order]
    return rows


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Rows, queries and keys of each call of MLX's attention."""
    found = list[tuple[int, int, int]]()

    def spy(q: mx.array, k: mx.array, v: mx.array, **more: Any) -> mx.array:
        found.append((q.shape[0], q.shape[2], k.shape[2]))
        return theirs(q, k, v, **more)

    theirs = slab_attention._theirs
    monkeypatch.setattr(slab_attention, "_theirs", spy)
    return found


def test_sequences_in_several_slabs_compute_what_they_compute_alone(slots: Slots, model: Any) -> None:
    rows = joined(slots, model, LENGTHS)
    assert [len(slab) for _, slab in slots.slabs] == [2, 1]
    tokens = [9, 10, 11]
    for row, token, mine in zip(rows, tokens, step(model, slots, tokens), strict=True):
        assert mx.allclose(mine, alone(model, [*row, token]), atol=2e-4)


def test_each_slab_is_attended_to_by_one_operation_over_its_own_keys(
    slots: Slots, model: Any, calls: list[tuple[int, int, int]]
) -> None:
    rows = joined(slots, model, LENGTHS)
    calls.clear()
    slots.begin()
    logits = forward(model, mx.array([[9]] * len(rows)), slots.layers)
    assert [(2, 1, 31), (1, 1, 601)] in [calls[at : at + 2] for at in range(0, len(calls), 2)]
    assert {(rows, queries) for rows, queries, _ in calls} == {(2, 1), (1, 1)}
    assert not operations(logits)["Pad"], "keys of several slabs would be padded to one array"


def test_sequences_with_several_tokens_in_a_pass_are_attended_to_side_by_side(
    slots: Slots, llama: Any, calls: list[tuple[int, int, int]]
) -> None:
    rows, counts = joined(slots, llama, [20, 30, 600]), [3, 1, 2]
    calls.clear()
    slots.begin(counts)
    fed = [ids_of(5)[:count] for count in counts]
    logits = forward(llama, mx.array([[id] for ids in fed for id in ids]), slots.layers)[:, -1]
    assert {each[:2] for each in calls} == {(2, 3), (1, 2)}
    place = 0
    for row, ids in zip(rows, fed, strict=True):
        for number in range(len(ids)):
            assert mx.allclose(logits[place], alone(llama, [*row, *ids[: number + 1]]), atol=2e-4)
            place += 1


def test_a_short_sequence_beside_a_long_one_takes_the_memory_of_its_own_length(
    slots: Slots, llama: Any
) -> None:
    joined(slots, llama, [1000])
    before = slots.nbytes
    [promised] = slots.footprint().arrays([], 1, compact=False)
    assert slots.footprint().arrays([20], 1, compact=False) == [promised, (ROWS, TOKENS)]
    cache = new_cache(llama)
    feed(llama, cache, [ids_of(20)])
    slots.join(cache, [TokenSpan(0, 0, 20)])
    assert slots.nbytes == before + before * ROWS * TOKENS // (promised[0] * promised[1])


def test_a_model_with_an_attention_of_its_own_gets_one_slab_from_its_second_pass_on(
    slots: Slots, llama: Any
) -> None:
    def pass_without_attention() -> None:
        slots.begin()
        for layer in slots.layers:
            heads, size = layer.state[0].shape[1], layer.state[0].shape[3]
            layer.update_and_fetch(*[mx.zeros((len(slots.offset), heads, 1, size))] * 2)

    joined(slots, llama, [20, 600])
    pass_without_attention()
    assert slots.footprint().most == SLABS_OF_ACCELERATOR
    pass_without_attention()
    assert slots.footprint().most == 1


def test_arrays_that_no_cache_gave_are_attended_to_as_mlx_does() -> None:
    q, k, v = (mx.random.normal((2, 4, 1, 16), key=mx.random.key(number)) for number in range(3))
    ours, theirs = slab_attention.attention, slab_attention._theirs
    assert mx.array_equal(ours(q, k, v, scale=0.25), theirs(q, k, v, scale=0.25))
