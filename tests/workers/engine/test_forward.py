"""The logits behind the ends of prompts are those that the whole model gives there, of whatever kind the model is."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module

from tests.tiny_model import VOCABULARY, Kind, make_tiny_model
from workers.engine.batch_probe import gives_last_logits
from workers.engine.forward import feed, feed_to_ends, forward
from workers.engine.kv.mlx_caches import merge, new_cache, spans
from workers.engine.kv.slots import Slots
from workers.model.load import inspect, load

SHOWN: list[Kind] = ["llama", "sliding", "gpt2", "internlm3", "dynamic", "experts"]
HIDDEN: list[Kind] = ["bigcode", "recurrent"]  # their bodies have other names


def model_of(folder: Path, kind: Kind) -> Any:
    make_tiny_model(folder, kind)
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True).model


def close(one: mx.array, other: mx.array) -> bool:
    return one.shape == other.shape and bool(mx.allclose(one, other, rtol=1e-4, atol=1e-4))


@pytest.mark.parametrize("kind", SHOWN)
def test_last_logits_at_a_position_equal_the_models_logits(tmp_path: Path, kind: Kind) -> None:
    model, ids = model_of(tmp_path / "m", kind), mx.array([[20, 30, 40, 50]])
    whole = model(ids, cache=new_cache(model))
    for position in range(4):
        assert close(forward(model, ids, new_cache(model), [position])[:, 0], whole[:, position])
    assert mx.array_equal(model(ids, cache=new_cache(model)), whole)  # the body is in its place again


@pytest.mark.parametrize("kind", [*SHOWN, *HIDDEN])
def test_last_logits_are_not_used_for_a_model_that_hides_its_body(tmp_path: Path, kind: Kind) -> None:
    model = model_of(tmp_path / "m", kind)
    assert gives_last_logits(model, VOCABULARY) == (kind in SHOWN)


class Around(Module):
    """Gives what a model gives; or looks at a row's first position behind the body, if ``shifts``."""

    def __init__(self, inner: Any, *, shifts: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.layers, self._shifts = inner.model, inner.layers, shifts

    def __call__(self, ids: mx.array, cache: Any) -> mx.array:
        hidden = self.model(ids, cache=cache)
        logits: mx.array = self.model.embed_tokens.as_linear(hidden - hidden[:, :1] * self._shifts)
        return logits


def test_last_logits_are_not_used_for_a_model_that_mixes_positions_after_its_body(tmp_path: Path) -> None:
    inner = model_of(tmp_path / "m", "llama")
    assert gives_last_logits(Around(inner, shifts=False), VOCABULARY)
    assert not gives_last_logits(Around(inner, shifts=True), VOCABULARY)


def test_the_last_logits_probe_uses_only_ids_with_embeddings(tmp_path: Path) -> None:
    class Bounded(Around):
        def __call__(self, ids: mx.array, cache: Any) -> mx.array:
            assert int(mx.max(ids)) < 30
            return super().__call__(ids, cache)

    assert gives_last_logits(Bounded(model_of(tmp_path / "m", "llama"), shifts=False), 30)


class Within(Module):
    """As a model that also sees holds the one that speaks."""

    def __init__(self, inner: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.language_model, self.layers = inner, inner.layers

    def __call__(self, ids: mx.array, cache: Any) -> mx.array:
        logits: mx.array = self.language_model(ids, cache=cache)
        return logits


def test_last_logits_work_for_a_language_model_inside_another_model(tmp_path: Path) -> None:
    assert gives_last_logits(Within(model_of(tmp_path / "m", "llama")), VOCABULARY)


def test_prefill_with_last_logits_ends_each_prompt_at_its_own_length(tmp_path: Path) -> None:
    model, rests = model_of(tmp_path / "m", "llama"), [[5, 6, 7], [8], [9, 10]]
    begun = [new_cache(model) for _ in rests]
    feed(model, begun[1], [[40, 41]])
    cache = merge(begun)
    logits = feed_to_ends(model, cache, rests)
    for row, ids in enumerate([[5, 6, 7], [40, 41, 8], [9, 10]]):
        assert close(logits[row], model(mx.array([ids]))[0, -1])
    assert cache[0].keys_and_values()[0].shape[2] == 5


def test_a_failed_pass_with_last_logits_restores_the_model(tmp_path: Path) -> None:
    model, ids = model_of(tmp_path / "m", "llama"), mx.array([[20, 30]])
    body = model.model
    with pytest.raises(IndexError):
        forward(model, mx.array(5), new_cache(model), [0])
    assert model.model is body
    assert model(ids).shape[:2] == (1, 2)


@pytest.mark.parametrize("kind", ["llama", "sliding"])
def test_a_pass_takes_embeddings_in_place_of_tokens(tmp_path: Path, kind: Kind) -> None:
    model, rows = model_of(tmp_path / "m", kind), mx.array([[20, 30, 40], [50, 60, 70]])
    embeddings = model.model.embed_tokens(rows)
    caches = [merge([new_cache(model), new_cache(model)]) for _ in range(3)]
    of_tokens = forward(model, rows, caches[0])
    nothing = mx.zeros_like(rows)
    assert close(forward(model, nothing, caches[1], embeddings=embeddings), of_tokens)
    last = forward(model, nothing, caches[2], [2, 1], embeddings=embeddings)
    assert close(last[:, 0], of_tokens[mx.arange(2), mx.array([2, 1])])


def test_a_model_that_takes_tokens_only_says_so_of_embeddings(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m", "gpt2")
    with pytest.raises(TypeError, match="input_embeddings"):
        forward(model, mx.array([[20]]), new_cache(model), embeddings=mx.zeros((1, 1, 8)))


@pytest.mark.parametrize("in_blocks", [False, True])
def test_positions_are_apart_from_the_number_of_tokens_before(tmp_path: Path, in_blocks: bool) -> None:
    """A rotation sees distances only: a row that is moved as a whole gives the same, one with a gap does not."""
    model, prompts, then = model_of(tmp_path / "m", "llama"), [[5, 6, 7, 8], [9, 10, 11, 12]], [[20], [30]]

    def after(shift: list[int], gap: int = 0) -> tuple[mx.array, mx.array]:
        read = merge([new_cache(model), new_cache(model)])
        first = forward(model, mx.array(prompts), read, positions=mx.array(shift))
        slots = Slots(in_blocks=in_blocks)
        slots.join(read, spans(read, [0, 0], [4, 4]))
        slots.begin()
        return first, forward(model, mx.array(then), slots.layers, positions=mx.array(shift) + 4 + gap)

    still, moved, parted = after([0, 0]), after([3, 40]), after([0, 0], 30)
    assert all(close(one, other) for one, other in zip(still, moved, strict=True))
    assert close(still[0], parted[0]) and not close(still[1], parted[1])


def test_the_cache_of_one_sequence_counts_its_positions_itself(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m", "llama")
    with pytest.raises(AttributeError, match="place"):
        forward(model, mx.array([[20]]), new_cache(model), positions=mx.array([3]))
