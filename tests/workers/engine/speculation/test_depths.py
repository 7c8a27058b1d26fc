"""How many guesses a pass verifies."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.speculation.depths import FIRST, MOST, Rates, WidthCosts, depths

chance = st.floats(0, 1)


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


def test_widths_that_were_not_measured_are_believed_from_their_neighbours() -> None:
    costs = WidthCosts(2.0, 1.0)
    assert costs(1) == 3.0
    costs.measured(1, 6.0)  # the machine is twice as slow
    assert costs(4) == 12.0
    costs.measured(4, 9.0)
    assert 9.0 < costs(4) < 12.0
    assert costs(1) == 6.0


def test_one_slow_pass_hardly_changes_what_is_known_of_its_width() -> None:
    costs = WidthCosts(0.0, 1.0)
    costs.measured(1, 1.0)
    costs.measured(1, 50.0)
    assert costs(1) < 1.1
