"""Candidate selection gives what a full sort of the vocabulary gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.marks import examples
from workers.engine.sampling.candidates import Floats, above_floors, group_by_row, lower_bound, top_ids

sizes = st.sampled_from([1, 2, 30, 1023, 1024, 2047, 2048, 5000])
steps = st.sampled_from([0.0, 0.25, 2.0])


def row(size: int, step: float, seed: int) -> Floats:
    """A row of logits; ``step`` > 0 makes many of them equal."""
    values = np.random.default_rng(seed).normal(size=size)
    return np.array(np.round(values / step) * step if step else values, dtype=np.float32)


@examples(150)
@given(sizes, steps, st.integers(0, 999), st.integers(1, 1500))
def test_top_ids_are_in_order_of_value_and_equal_values_in_order_of_id(
    size: int, step: float, seed: int, count: int
) -> None:
    values, count = row(size, step, seed), min(count, size)
    assert top_ids(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


@examples(150)
@given(sizes, steps, st.integers(0, 999), st.integers(1, 1500))
def test_at_least_count_tokens_reach_the_lower_bound(size: int, step: float, seed: int, count: int) -> None:
    values, count = row(size, step, seed), min(count, size)
    assert np.count_nonzero(values >= lower_bound(values, count)) >= count


def test_few_more_than_count_tokens_reach_the_lower_bound() -> None:
    values = row(50_000, 0.0, 1)
    assert np.count_nonzero(values >= lower_bound(values, 100)) < 120


def test_candidates_above_floors_are_all_tokens_at_or_above_the_floor_of_their_row() -> None:
    values = np.stack([row(5000, 0.0, seed) for seed in range(4)])
    floors = np.array([2.0, -1.0, 0.0, np.max(values[3])], dtype=np.float32)
    found, ends = above_floors(values, floors, limit=200)
    for i, line in enumerate(values):
        assert found.ids_of_row(i).tolist() == np.flatnonzero(line >= ends[i]).tolist()
    assert ends[0] == floors[0] and ends[3] == floors[3]  # few tokens reach these floors
    assert ends[1] > floors[1] and 200 <= len(found.ids_of_row(1)) < 300


def test_candidate_sums_and_winners_are_computed_per_row() -> None:
    values = np.array([[1, 5, 5, 0], [9, 2, 9, 9]], dtype=np.float32)
    found = group_by_row(values, np.array([1, 0, 0, 1, 0]), np.array([3, 2, 1, 2, 0], dtype=np.uint32))
    assert found.sums(found.values).tolist() == [11, 18]
    tokens, scores = found.winners(found.values)
    assert tokens.tolist() == [1, 2] and scores.tolist() == [5, 9]
    some = found.select(np.array([False, True, False, True, False]) | (found.ids == 3))
    assert some.sums(some.values > 0).tolist() == pytest.approx([1, 1], abs=1)
    assert some.ids_of_row(1).tolist()[0] == 3
