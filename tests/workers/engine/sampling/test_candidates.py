"""Few tokens found in many, against sorting them all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.sampling.candidates import Floats, best, bound, listed, nearest

sizes = st.sampled_from([1, 2, 30, 1023, 1024, 2047, 2048, 5000])
steps = st.sampled_from([0.0, 0.25, 2.0])


def row(size: int, step: float, seed: int) -> Floats:
    """With a ``step``, many equal values."""
    values = np.random.default_rng(seed).normal(size=size)
    return np.array(np.round(values / step) * step if step else values, dtype=np.float32)


@settings(max_examples=150, deadline=None)
@given(sizes, steps, st.integers(0, 999), st.integers(1, 1500))
def test_the_best_are_in_order_and_of_equal_ones_the_lower_id_is_first(
    size: int, step: float, seed: int, count: int
) -> None:
    values, count = row(size, step, seed), min(count, size)
    assert best(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


@settings(max_examples=150, deadline=None)
@given(sizes, steps, st.integers(0, 999), st.integers(1, 1500))
def test_a_bound_is_reached_by_so_many(size: int, step: float, seed: int, count: int) -> None:
    values, count = row(size, step, seed), min(count, size)
    assert np.count_nonzero(values >= bound(values, count)) >= count


def test_a_bound_is_reached_by_few_more() -> None:
    values = row(50_000, 0.0, 1)
    assert np.count_nonzero(values >= bound(values, 100)) < 120


def test_the_nearest_are_all_at_or_above_their_floor() -> None:
    values = np.stack([row(5000, 0.0, seed) for seed in range(4)])
    floors = np.array([2.0, -1.0, 0.0, np.max(values[3])], dtype=np.float32)
    found, ends = nearest(values, floors, most=200)
    for i, line in enumerate(values):
        assert found.of_row(i).tolist() == np.flatnonzero(line >= ends[i]).tolist()
    assert ends[0] == floors[0] and ends[3] == floors[3]  # these are few
    assert ends[1] > floors[1] and 200 <= len(found.of_row(1)) < 300


def test_sums_and_winners_are_each_rows_own() -> None:
    values = np.array([[1, 5, 5, 0], [9, 2, 9, 9]], dtype=np.float32)
    found = listed(values, np.array([1, 0, 0, 1, 0]), np.array([3, 2, 1, 2, 0], dtype=np.uint32))
    assert found.sums(found.values).tolist() == [11, 18]
    tokens, scores = found.winners(found.values)
    assert tokens.tolist() == [1, 2] and scores.tolist() == [5, 9]
    some = found.only(np.array([False, True, False, True, False]) | (found.ids == 3))
    assert some.sums(some.values > 0).tolist() == pytest.approx([1, 1], abs=1)
    assert some.of_row(1).tolist()[0] == 3
