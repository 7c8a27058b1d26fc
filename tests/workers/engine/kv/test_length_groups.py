"""Sequences of like lengths form length groups."""

import random
from itertools import combinations, pairwise

import pytest

from workers.engine.kv.length_groups import WORTH, LengthGroup, length_groups_of


def test_sequences_of_like_lengths_are_one_length_group() -> None:
    assert length_groups_of([30, 50, 40, 35]) == [LengthGroup(slice(0, 4), 50)]


def test_a_long_sequence_is_a_length_group_of_its_own_at_any_position() -> None:
    assert length_groups_of([30, 40, 2000, 50]) == [
        LengthGroup(slice(0, 2), 40),
        LengthGroup(slice(2, 3), 2000),
        LengthGroup(slice(3, 4), 50),
    ]


def test_an_empty_batch_has_no_length_groups() -> None:
    assert length_groups_of([]) == []


def test_a_sequence_with_many_queries_is_a_group_of_its_own() -> None:
    """Else each of its neighbours would be computed as often."""
    groups = length_groups_of([1000, 1000, 1000, 1000], [1, 16, 1, 1])
    assert [(group.rows.start, group.rows.stop) for group in groups] == [(0, 1), (1, 2), (2, 4)]
    assert len(length_groups_of([1000, 1000], [3, 3])) == 1
    assert len(length_groups_of([40, 40], [4, 1])) == 1  # for less than a group costs


@pytest.mark.parametrize("seed", range(20))
def test_no_other_length_groups_in_batch_order_cost_less(seed: int) -> None:
    rng = random.Random(seed)
    widths = [rng.choice([20, 100, 500, 3000]) + rng.randrange(400) for _ in range(8)]

    def cost(ends: tuple[int, ...]) -> int:
        parts = [widths[start:end] for start, end in pairwise((0, *ends, len(widths)))]
        return sum(len(part) * max(part) + WORTH for part in parts)

    groups = length_groups_of(widths)
    assert all(group.width == max(widths[group.rows]) for group in groups)
    every = (ends for count in range(8) for ends in combinations(range(1, 8), count))
    assert cost(tuple(group.rows.start for group in groups[1:])) == min(map(cost, every))
