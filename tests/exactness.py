"""What the tests ask of a row in company: what the product has measured and promises on this machine, see
``workers.engine.cpu.invariance``; where that is rounding, no more of it than sums of such a size have.
"""

from functools import cache
from math import log, sqrt

import mlx.core as mx

from workers.engine.cpu.exp import LOG2_E
from workers.engine.cpu.invariance import invariance, linear_of
from workers.engine.cpu.lm_head import LmHead

# (inner, outputs), as in the embedded model: queries and what goes out of attention, keys and values, the MLP's way up
# and down.
SHAPES = [(576, 576), (576, 192), (576, 1536), (1536, 576)]
LAST_PLACE = 2**-24  # of a float32: what one rounding is off by, as a part of the number
TIMES = 8  # roundings go up as often as down, so n of them add up to the root of n; this many of those happen never


def random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


@cache
def exact() -> bool:
    layers = [linear_of(random(outputs, inner)) for inner, outputs in SHAPES]
    return invariance([*layers, LmHead(random(512, 576))]) == "exact"


def rounding(products: int, size: float | mx.array) -> mx.array:
    """Of the sum of so many; ``size`` is the sum of their absolute values."""
    return mx.array(size) * (TIMES * sqrt(products) * LAST_PLACE)


def rounding_of_product(x: mx.array, weight: mx.array) -> mx.array:
    """``x`` (..., inner), ``weight`` (outputs, inner)."""
    return rounding(x.shape[-1], mx.abs(x) @ mx.abs(weight).T)


def rounding_of_attention(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Scores are off, so weights are by that part of themselves; then they are summed, twice."""
    size = mx.linalg.norm(queries, axis=-1).max() * mx.linalg.norm(keys, axis=-1).max()
    weights = rounding(keys.shape[-1], size * scale * LOG2_E) * log(2)
    return mx.abs(values).max() * 2 * (weights + rounding(keys.shape[-2], 1.0))


def same(one: mx.array, other: mx.array, within: mx.array) -> bool:
    """``within``: if it is rounding that is promised, so much of it."""
    if one.shape != other.shape:
        return False
    return bool((one == other).all() if exact() else (mx.abs(one - other) <= within).all())
