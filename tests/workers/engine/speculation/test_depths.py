"""How many guesses a pass verifies."""

import random
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.marks import quick_and_slow
from workers.engine.speculation.depths import FIRST, MOST, Rates, WidthCosts, depths

chance = st.floats(0, 1)


LEARNING = 50  # passes


def flat(width: int) -> float:
    return 66 + 1.2 * width


def expected(chances: list[list[float]], chosen: tuple[int, ...]) -> float:
    total = 0.0
    for some, depth in zip(chances, chosen, strict=True):
        reached = 1.0
        total += reached
        for each in some[:depth]:
            reached *= each
            total += reached
    return total


@given(st.lists(st.lists(chance, max_size=3), min_size=1, max_size=3), st.floats(0, 3), st.floats(0.1, 3))
def test_the_guesses_with_the_most_expected_tokens_per_second_are_verified(
    chances: list[list[float]], fixed: float, per_token: float
) -> None:
    def rate(chosen: tuple[int, ...]) -> float:
        return expected(chances, chosen) / (fixed + per_token * (len(chances) + sum(chosen)))

    found = depths(chances, lambda width: fixed + per_token * width)
    best = max(map(rate, product(*(range(len(some) + 1) for some in chances))))
    assert rate(tuple(found)) >= best * (1 - 1e-9)


def test_likely_guesses_of_one_sequence_are_verified_and_unlikely_ones_are_not() -> None:
    assert depths([[0.9] * 15], flat) == [15]
    assert depths([[0.01] * 15], flat) == [0]
    assert depths([[0.9] * 15, [0.01] * 15, []], flat) == [15, 0, 0]


def test_beside_many_sequences_no_guess_pays() -> None:
    assert not any(depths([[0.5] * 15] * 64, lambda width: width))


def test_a_guess_that_a_model_has_to_make_is_verified_only_where_it_is_worth_its_price() -> None:
    def chosen(price: float) -> list[int]:
        return depths([[0.8] * 8, [0.8] * 8], flat, [[price] * 8, [0.0] * 8])

    dear, cheap = chosen(60.0), chosen(0.5)
    assert dear[0] == 0
    assert 0 < cheap[0] <= cheap[1]
    assert depths([[0.8] * 8], flat, [[0.0] * 8]) == depths([[0.8] * 8], flat)


def test_a_pass_has_no_more_than_so_many_tokens() -> None:
    assert sum(depths([[1.0] * 100] * 4, flat)) + 4 == MOST


def test_a_source_that_is_wrong_is_left_and_tried_again_later() -> None:
    rates = Rates()
    for _ in range(30):
        rates.verified("copy", False)
    assert depths([[rates("copy")] * 8], flat) == [0]
    tried = 0
    while depths([[rates("copy")] * 8], flat) == [0]:
        rates.untried()
        tried += 1
        assert tried < 100
    assert rates("copy") < FIRST["copy"]
    assert rates("echo") == FIRST["echo"]


def test_before_two_widths_were_measured_the_believed_line_is_scaled() -> None:
    costs = WidthCosts(2.0, 1.0)
    assert costs(1) == 3.0
    costs.measured(1, 6.0)  # the machine is twice as slow
    assert (costs(1), costs(4)) == (6.0, 12.0)
    costs.measured(4, 9.0)
    assert 9.0 < costs(4) < 12.0


@given(st.floats(0, 100), st.floats(0.5, 5), st.floats(0, 100), st.floats(0.1, 5), st.integers())
def test_the_costs_of_passes_are_learned_from_noisy_ones_of_any_width(
    fixed: float, per_token: float, believed: float, slope: float, seed: int
) -> None:
    costs, dice = WidthCosts(believed, slope), random.Random(seed)
    for _ in range(200):
        width = dice.randint(1, 24)
        costs.measured(width, (fixed + per_token * width) * dice.uniform(0.9, 1.1))
    for width in (4, 12, 20):
        assert costs(width) == pytest.approx(fixed + per_token * width, rel=0.25)


@given(st.lists(st.tuples(st.integers(1, MOST), st.floats(1e-4, 10)), max_size=40))
def test_a_wider_pass_is_never_believed_to_be_cheaper_whatever_was_measured(
    measured: list[tuple[int, float]],
) -> None:
    costs = WidthCosts(0.05, 0.002)
    for width, seconds in measured:
        costs.measured(width, seconds)
    known = [costs(width) for width in range(1, MOST + 1)]
    assert known == sorted(known)
    assert known[0] > 0


def test_one_slow_pass_hardly_changes_what_is_known_of_its_width() -> None:
    costs = WidthCosts(0.0, 1.0)
    for _ in range(20):
        costs.measured(1, 1.0)
    costs.measured(1, 50.0)
    assert costs(1) < 1.1


def played(rows: int, chance: float, cost: Callable[[int], float], most: int | None = None) -> float:
    """Tokens per second, when passes are known, of sequences whose guesses are right so often.

    ``most``: this depth, and nothing is learned.
    """
    dice, rates, costs = random.Random(4), [Rates() for _ in range(rows)], WidthCosts(66, 1.2)
    tokens, seconds = 0, 0.0
    for number in range(400):
        if number == LEARNING:
            tokens, seconds = 0, 0.0
        offers = [[each("echo")] * 15 for each in rates]
        given = most is not None or costs.unsure
        chosen = [most or 0] * rows if given else depths(offers, costs)
        for depth, each in zip(chosen, rates, strict=True):
            right = next((place for place in range(depth) if dice.random() >= chance), depth)
            for place in range(min(right + 1, depth)):
                each.verified("echo", place < right)
            if not depth:
                each.untried()
            tokens += right + 1
        width = rows + sum(chosen)
        costs.measured(width, cost(width), verified=any(chosen))
        seconds += cost(width)
    return tokens / seconds


@pytest.mark.parametrize("chance", quick_and_slow((0.05, 0.6), (0.3, 0.9)))
@pytest.mark.parametrize("rows", quick_and_slow((1, 16), (4,)))
@pytest.mark.parametrize(
    "cost",
    [lambda width: width, lambda width: 66 + 1.2 * width, lambda width: 60 + 8 * width, lambda width: 100],
    ids=["linear", "flat", "steep", "constant"],
)
def test_what_is_verified_gives_nearly_what_the_best_depth_gives_and_never_much_less_than_none(
    cost: Callable[[int], float], rows: int, chance: float
) -> None:
    learned = played(rows, chance, cost)
    least = 0.96 if chance < 0.9 else 0.9  # where right guesses nearly pay, small errors cost more
    assert learned >= least * played(rows, chance, cost, most=0)
    assert learned >= 0.85 * max(
        played(rows, chance, cost, most) for most in (0, 1, 2, 4, 8) if rows * (most + 1) <= MOST
    )
