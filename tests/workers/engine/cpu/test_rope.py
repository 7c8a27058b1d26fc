"""CPU rotary position embeddings are bit-identical to MLX's."""

from typing import Any

import mlx.core as mx
import pytest

from workers.engine.cpu.rope import _theirs, rope
from workers.engine.forward import forward
from workers.engine.pass_memo import PassMemo, begin_pass


def random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


OFFSETS: dict[str, Any] = {
    "a number": 7,
    "of each row": mx.array([3, 900, 0]),
    "an array of one": mx.array(5),
}


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("dims", [64, 32])
@pytest.mark.parametrize("traditional", [True, False])
def test_cpu_rope_is_bit_identical_to_mlx_rope(
    traditional: bool, dims: int, tokens: int, offset: str
) -> None:
    x = random(3, 9, tokens, 64)
    how: dict[str, Any] = {"traditional": traditional, "base": 1e4, "scale": 0.5, "offset": OFFSETS[offset]}
    for some in (x, x[:, :3]):  # queries and keys share the sines
        assert mx.array_equal(rope(some, dims, **how), _theirs(some, dims, **how))


def test_cpu_rope_with_given_frequencies_equals_mlx_rope() -> None:
    x, freqs = random(2, 4, 1, 64), mx.arange(1, 33, dtype=mx.float32) * 3
    how: dict[str, Any] = {"traditional": False, "base": None, "scale": 1.0, "offset": mx.array([4, 9])}
    assert mx.array_equal(rope(x, 64, freqs=freqs, **how), _theirs(x, 64, freqs=freqs, **how))
    assert mx.array_equal(rope(x, 64, freqs=freqs * 2, **how), _theirs(x, 64, freqs=freqs * 2, **how))


@pytest.mark.parametrize("later", [12, mx.array([12, 13])])
def test_cpu_rope_at_the_next_position_uses_new_sines(later: Any) -> None:
    x = random(2, 4, 1, 64)
    how: dict[str, Any] = {"traditional": True, "base": 1e4, "scale": 1.0}
    first = rope(x, 64, offset=later - 1, **how)
    assert mx.array_equal(first, _theirs(x, 64, offset=later - 1, **how))
    assert mx.array_equal(rope(x, 64, offset=later, **how), _theirs(x, 64, offset=later, **how))


def test_cpu_rope_follows_offsets_that_are_updated_in_place_between_passes() -> None:
    x, offset = random(2, 4, 1, 64), mx.array([3, 4])
    how: dict[str, Any] = {"traditional": True, "base": 1e4, "scale": 1.0}
    for _ in range(2):
        begin_pass()
        assert mx.array_equal(rope(x, 64, offset=offset, **how), _theirs(x, 64, offset=offset, **how))
        offset += 1


def test_cpu_rope_leaves_other_types_and_shapes_to_mlx() -> None:
    how: dict[str, Any] = {"traditional": True, "base": 1e4, "scale": 1.0, "offset": 3}
    for x in (random(2, 4, 1, 64).astype(mx.bfloat16), random(2, 5, 64)):
        assert mx.array_equal(rope(x, 64, **how), _theirs(x, 64, **how))


def test_a_forward_pass_clears_the_pass_memo() -> None:
    made: PassMemo[object] = PassMemo()
    first = made.get("a key", (), object)
    assert made.get("a key", (), object) is first
    forward(lambda tokens, cache: tokens, mx.array([[1]]), [])
    assert made.get("a key", (), object) is not first
