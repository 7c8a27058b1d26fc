"""On an accelerator joins, leaves and growths wait once at most, and nothing is copied that a pass still uses."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, KVCache

from workers.device import ACCELERATOR_PATH
from workers.engine.kv.buffers import TokenBuffer
from workers.engine.kv.copies import Copies
from workers.engine.kv.mlx_caches import Cache, TokenSpan, evaluate
from workers.engine.kv.slots import Slots

LAYERS, TOKENS, SIZE = 12, 120, 16
WAITS = ("eval", "synchronize")

pytestmark = pytest.mark.usefixtures("accelerator")


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ACCELERATOR_PATH, "1")


def prefilled(tokens: int = TOKENS) -> Cache:
    """Half of the layers have full attention, the others a state."""
    cache: Cache = [KVCache() if number % 2 else ArraysCache(2) for number in range(LAYERS)]
    for layer in cache:
        if isinstance(layer, KVCache):
            layer.update_and_fetch(mx.ones((1, 2, tokens, SIZE)), mx.ones((1, 2, tokens, SIZE)))
        else:
            layer.cache = [mx.ones((1, 3, SIZE)), mx.ones((1, SIZE))]
    evaluate(cache)
    return cache


def decode(slots: Slots) -> list[mx.array]:
    """What a pass writes and reads; not evaluated."""
    slots.begin()
    outputs = list[mx.array]()
    for layer in slots.layers:
        if isinstance(layer, ArraysCache):
            states: list[Any] = layer.cache
            layer.cache = states = [array + 1 for array in states]
            outputs += states
        else:
            rows = len(slots.offset)
            keys, values = layer.update_and_fetch(*[mx.ones((rows, 2, 1, SIZE))] * 2)
            outputs.append(keys.sum() + values.sum())
    return outputs


@pytest.fixture
def slots() -> Slots:
    """Four sequences, and a pass on its way."""
    slots = Slots()
    for _ in range(4):
        slots.join(prefilled(), [TokenSpan(0, 0, TOKENS)])
    mx.eval(decode(slots))
    mx.async_eval(decode(slots))
    return slots


def waits(monkeypatch: pytest.MonkeyPatch, change: Callable[[], Any]) -> int:
    count = 0

    def counted(wait: Callable[..., None]) -> Callable[..., None]:
        def spy(*arrays: Any) -> None:
            nonlocal count
            count += 1
            wait(*arrays)

        return spy

    with monkeypatch.context() as patched:
        for name in WAITS:
            patched.setattr(mx, name, counted(getattr(mx, name)))
        change()
    return count


def test_a_join_waits_once_for_all_layers(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    more = prefilled()
    assert waits(monkeypatch, lambda: slots.join(more, [TokenSpan(0, 0, TOKENS)])) == 0  # for it grows
    more = prefilled()
    assert waits(monkeypatch, lambda: slots.join(more, [TokenSpan(0, 0, TOKENS)])) == 1


def test_a_slab_takes_over_the_arrays_of_a_pass_when_it_has_ended(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass holds them, so the next one would copy each of them whole."""
    more = prefilled(1000)
    assert waits(monkeypatch, lambda: slots.join(more, [TokenSpan(0, 0, 1000)])) == 1
    assert [slab.tokens for _, slab in slots.slabs] == [128, 1024]


def test_a_leave_waits_once_for_all_layers_and_only_if_a_sequence_moves(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert waits(monkeypatch, lambda: slots.keep([0, 1, 2])) == 0
    assert waits(monkeypatch, lambda: slots.keep([1, 2])) == 1


def test_a_growth_waits_for_nothing(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    [(_, slab)] = slots.slabs
    before = slab.tokens
    while slab.tokens == before:
        assert waits(monkeypatch, slots.begin) == 0


def test_copies_on_their_way_take_a_bounded_memory() -> None:
    layer = 1 << 20
    started = Copies(ahead=4 * layer)
    zeros = mx.zeros(layer // 4)
    mx.eval(zeros)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(40):
        started.start([zeros + 1])
    mx.synchronize()
    assert mx.get_peak_memory() - before <= 6 * layer


def test_a_sequence_is_written_to_a_slot_after_the_pass_on_its_way_has_ended(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass holds its arrays, and MLX would copy each of them whole."""
    events = list[str]()

    def noting(event: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*inputs: Any) -> Any:
            events.append(event)
            return function(*inputs)

        return spy

    slots.join(prefilled(), [TokenSpan(0, 0, TOKENS)])  # makes room for eight
    monkeypatch.setattr(mx, "eval", noting("wait", mx.eval))
    monkeypatch.setattr(TokenBuffer, "fill", noting("write", TokenBuffer.fill))
    more = prefilled()
    changes: list[Callable[[], Any]] = [
        lambda: slots.join(more, [TokenSpan(0, 0, TOKENS)]),
        lambda: slots.keep([1, 2, 3, 4]),
    ]
    for change in changes:
        mx.async_eval(decode(slots))
        events.clear()
        change()
        assert "write" in events and events.index("wait") < events.index("write")


@pytest.mark.parametrize("shortest", [900, 1000])
def test_passes_that_follow_each_other_copy_no_array(shortest: int) -> None:
    """Three passes, each launched before the last one was collected, and none holds the arrays of another."""
    slots = Slots()
    for length in [shortest, *[1000] * 7]:
        slots.join(prefilled(length), [TokenSpan(0, 0, length)])
    mx.eval(decode(slots))
    one = slots.nbytes // LAYERS  # keys or values of a layer
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(3):
        mx.async_eval(decode(slots))
    mx.synchronize()
    assert mx.get_peak_memory() - before < one
