"""Compiled draws give the bits of plain ones in few operations, and a function that cannot be compiled stays plain."""

from collections.abc import Callable
from shutil import which
from typing import Any

import mlx.core as mx
import pytest

from shared.protocol import Sampling
from tests.graphs import operations
from workers.device import ACCELERATOR_PATH
from workers.engine.sampling import dense
from workers.engine.sampling.fused import Fused
from workers.engine.sampling.randomness import draw_key, keys_array, noise

ROWS, VOCABULARY = 3, 5003
DRAWS: list[tuple[Callable[..., mx.array], dict[str, float], int]] = [
    (dense.draw_open, {}, 12),
    (dense.draw_open, {"min_p": 0.05}, 14),
    (dense.draw_cut, {"top_p": 0.9}, 27),
    (dense.draw_cut, {"top_k": 40}, 22),
]  # with the most operations that one may take


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ACCELERATOR_PATH, "1")


def drawn(draw: Callable[..., mx.array], options: dict[str, Any], index: int = 0) -> mx.array:
    logits = mx.random.normal((ROWS, VOCABULARY), key=mx.random.key(index)) * 3
    samplings = [Sampling(seed=5, **options)] * ROWS
    mx.eval(logits)
    return draw(logits, keys_array([draw_key(5, row, index) for row in range(ROWS)], mx), samplings)


@pytest.mark.parametrize(("draw", "options", "most"), DRAWS)
def test_a_compiled_draw_gives_the_tokens_of_a_plain_one(
    draw: Callable[..., mx.array], options: dict[str, Any], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ACCELERATOR_PATH, raising=False)
    plain = [drawn(draw, options, index).tolist() for index in range(40)]
    monkeypatch.setenv(ACCELERATOR_PATH, "1")
    assert [drawn(draw, options, index).tolist() for index in range(40)] == plain


@pytest.mark.skipif(which("g++") is None, reason="MLX fuses nothing on a CPU without a compiler")
@pytest.mark.parametrize(("draw", "options", "most"), DRAWS)
def test_the_noise_of_a_draw_costs_few_operations_on_the_vocabulary(
    accelerator: None, draw: Callable[..., mx.array], options: dict[str, Any], most: int
) -> None:
    found = operations(drawn(draw, options))
    assert sum(found.values()) <= most, found


def test_compiled_noise_is_the_plain_noise_bit_for_bit() -> None:
    low, high = (mx.array([[word], [~word & 0xFFFFFFFF]], dtype=mx.uint32) for word in (0x9E3779B9, 77))
    ids = mx.arange(200_000, dtype=mx.uint32)[None]
    one, other = mx.compile(noise)(low, high, ids), noise(low, high, ids)
    assert mx.array_equal(one.view(mx.uint32), other.view(mx.uint32))


def added(one: mx.array, other: mx.array) -> mx.array:
    return one + other


def examples() -> list[mx.array]:
    return [mx.array([1.0, 2.0]), mx.array([3.0, 4.0])]


def refuses(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def compiled(*arrays: mx.array) -> mx.array:
        raise RuntimeError("no compiler")

    return compiled


def errs(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    return lambda *arrays: function(*arrays) + 1e-6


@pytest.mark.parametrize("compile", [refuses, errs])
def test_a_function_stays_plain_where_it_cannot_be_compiled_or_gives_other_bits(
    accelerator: None, monkeypatch: pytest.MonkeyPatch, compile: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mx, "compile", compile)
    assert Fused(added, examples)(*examples()).tolist() == [4.0, 6.0]
    assert "added is not compiled" in caplog.text


def test_nothing_is_compiled_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ACCELERATOR_PATH, raising=False)
    monkeypatch.setattr(mx, "compile", refuses)
    assert Fused(added, examples)(*examples()).tolist() == [4.0, 6.0]


def test_any_top_k_is_drawn_from_one_of_few_numbers_of_candidates(
    accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX keeps what it has traced for each of them."""
    counts = set[int]()
    monkeypatch.setattr(dense, "best_of_cut", lambda best, *others: counts.add(best.shape[-1]))
    for top_k in range(1, 200):
        drawn(dense.draw_cut, {"top_k": top_k})
    assert counts == {1, 2, 4, 8, 16, 32, 64, 128, 256}
