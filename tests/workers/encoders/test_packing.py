"""What a step computes: bounds, order, turns. Without a model."""

from hypothesis import given
from hypothesis import strategies as st

from shared.callers import Asker
from workers.encoders.packing import PATIENCE, Pending, choose, grouped

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)


def pending(caller: str, *lengths: int) -> Pending:
    return Pending(Asker(caller, caller), lengths)


def steps(*requests: Pending, budget: int) -> list[list[tuple[str, int]]]:
    """By step, whose texts of which length were computed."""
    found = []
    while any(each.waiting for each in requests):
        found.append([(choice.of.asker.caller, choice.tokens) for choice in choose(requests, budget)])
    return found


@given(LENGTHS, st.floats(0, 0.9))
def test_no_group_has_more_padding_than_allowed(lengths: list[int], padding: float) -> None:
    groups = grouped(lengths, padding)
    assert sorted(text for group in groups for text in group) == list(range(len(lengths)))
    for group in groups:
        wide = len(group) * max(lengths[text] for text in group)
        assert wide - sum(lengths[text] for text in group) <= padding * wide


@given(LENGTHS)
def test_without_padding_only_texts_of_one_length_are_side_by_side(lengths: list[int]) -> None:
    groups = grouped(lengths, 0.0)
    assert all(len({lengths[text] for text in group}) == 1 for group in groups)
    assert len(groups) == len(set(lengths))


@given(st.lists(LENGTHS, min_size=1, max_size=5), st.integers(1, 600))
def test_every_text_is_computed_once_and_no_step_is_too_large(requests: list[list[int]], budget: int) -> None:
    given_steps = steps(*(pending(str(i), *lengths) for i, lengths in enumerate(requests)), budget=budget)
    for step in given_steps:
        assert step
        assert len(step) == 1 or sum(tokens for _, tokens in step) <= budget
    computed = sorted(text for step in given_steps for text in step)
    assert computed == sorted((str(i), length) for i, lengths in enumerate(requests) for length in lengths)


def test_the_shortest_texts_come_first() -> None:
    assert steps(pending("a", 50, 10, 30, 20), budget=60) == [
        [("a", 10), ("a", 20), ("a", 30)],
        [("a", 50)],
    ]


def test_a_caller_with_many_texts_does_not_keep_another_from_its_share() -> None:
    first, *_ = steps(pending("many", *[10] * 100), pending("few", *[10] * 5), budget=100)
    assert first.count(("few", 10)) == 5


def test_a_long_text_does_not_stop_short_ones() -> None:
    first, *_ = steps(pending("long", 5000), pending("short", 10), budget=100)
    assert first == [("short", 10)]


def test_a_long_text_has_its_turn_though_short_ones_keep_coming() -> None:
    long = pending("long", 5000)
    for step in range(2 * PATIENCE):
        chosen = choose([long, pending(f"short {step}", *[10] * 10)], 100)
        if any(choice.of is long for choice in chosen):
            return
    raise AssertionError("the long text was passed over for ever")
