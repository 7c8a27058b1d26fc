"""Rows of like lengths, in runs."""

import random
from itertools import combinations, pairwise

import pytest

from workers.engine.kv.length_groups import WORTH, Run, runs_of


def test_rows_of_like_lengths_are_one_run() -> None:
    assert runs_of([30, 50, 40, 35]) == [Run(slice(0, 4), 50)]


def test_a_long_row_is_a_run_of_its_own_wherever_it_stands() -> None:
    assert runs_of([30, 40, 2000, 50]) == [Run(slice(0, 2), 40), Run(slice(2, 3), 2000), Run(slice(3, 4), 50)]


def test_no_rows_are_no_runs() -> None:
    assert runs_of([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_no_other_runs_of_the_rows_in_their_order_cost_less(seed: int) -> None:
    rng = random.Random(seed)
    widths = [rng.choice([20, 100, 500, 3000]) + rng.randrange(400) for _ in range(8)]

    def cost(ends: tuple[int, ...]) -> int:
        parts = [widths[start:end] for start, end in pairwise((0, *ends, len(widths)))]
        return sum(len(part) * max(part) + WORTH for part in parts)

    runs = runs_of(widths)
    assert all(run.width == max(widths[run.rows]) for run in runs)
    every = (ends for count in range(8) for ends in combinations(range(1, 8), count))
    assert cost(tuple(run.rows.start for run in runs[1:])) == min(map(cost, every))
