"""Batch slots are shared out evenly between callers and groups."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from shared.callers import Asker, asker_of
from shared.key_terms import Priority
from workers.engine.scheduling.fairness import LEVEL_STEPS, LEVELS, in_turns, weights


@dataclass(frozen=True)
class PrefillQueue:
    asker: Asker
    place: int
    rows: int = 1


Askers = st.builds(Asker, st.sampled_from("abc"), st.sampled_from("xyz"))


def turns(waiting: list[PrefillQueue], held: list[Asker] | None = None) -> list[PrefillQueue]:
    return in_turns(waiting, lambda each: each.asker, lambda each: each.rows, held or [])


@given(st.lists(Askers, max_size=30), st.lists(Askers, max_size=10))
def test_the_next_prompt_belongs_to_a_waiting_caller_with_fewest_sequences(
    askers: list[Asker], held: list[Asker]
) -> None:
    waiting = [PrefillQueue(asker, place) for place, asker in enumerate(askers)]
    order = turns(waiting, held)
    assert sorted(order, key=lambda each: each.place) == waiting
    callers, groups = Counter(asker.caller for asker in held), Counter(held)
    for at, each in enumerate(order):
        left = order[at:]
        assert callers[each.asker.caller] == min(callers[other.asker.caller] for other in left)
        same = [other for other in left if other.asker.caller == each.asker.caller]
        assert groups[each.asker] == min(groups[other.asker] for other in same)
        callers[each.asker.caller] += 1
        groups[each.asker] += 1


@given(st.lists(st.integers(1, 9), max_size=20))
def test_prompts_of_one_group_keep_their_order(rows: list[int]) -> None:
    waiting = [PrefillQueue(Asker("a", "x"), place, size) for place, size in enumerate(rows)]
    assert turns(waiting) == waiting


def test_each_request_without_a_key_is_a_caller_of_its_own() -> None:
    assert asker_of("", "", "r1") == Asker("r1", "r1") != asker_of("", "", "r2")
    assert asker_of("", "list", "r1") == asker_of("", "list", "r2")
    assert asker_of("key", "list", "r1").caller == asker_of("key", "other", "r2").caller == "key"


def test_a_request_with_many_choices_counts_as_many_sequences() -> None:
    wide = [PrefillQueue(Asker("a", "x"), 0, rows=32), PrefillQueue(Asker("a", "x"), 1, rows=32)]
    other = PrefillQueue(Asker("b", "y"), 2)
    assert turns([*wide, other]) == [wide[0], other, wide[1]]


def test_high_priority_has_four_slots_for_each_of_normal_and_sixteen_for_each_of_low() -> None:
    levels = [level for level in reversed(LEVELS) for _ in range(20)]
    waiting = [PrefillQueue(Asker(level, level), place) for place, level in enumerate(levels)]
    weight = weights([(level, 0) for level in levels])
    order = in_turns(waiting, lambda each: each.asker, lambda each: each.rows, [], weight)
    first = Counter(each.asker.caller for each in order[:21])
    assert first == {"high": 16, "normal": 4, "low": 1}
    assert order[0].asker.caller == "high"


def test_priorities_change_nothing_where_all_have_the_same() -> None:
    for level in LEVELS:
        assert weights([(level, 0), (level, 1000), (level, LEVEL_STEPS)]) == [1, 1, 1]


@given(st.lists(st.integers(0, 3), min_size=300, max_size=300))
def test_low_priority_has_its_turn_in_time_whatever_of_higher_priority_comes(came: list[int]) -> None:
    """One slot, which is free again in each step."""
    waiting: list[tuple[PrefillQueue, Priority, int]] = [(PrefillQueue(Asker("low", "x"), 0), "low", 0)]
    for step, count in enumerate(came):
        waiting += [(PrefillQueue(Asker("high", "y"), 1), "high", step) for _ in range(count)]
        weight = weights([(level, step - since) for _, level, since in waiting])
        tasks = sorted(
            zip(waiting, weight, strict=True), key=lambda each: each[0][2]
        )  # as ageing sorts prompts of one length
        [first, *_] = in_turns(
            [each[0] for each in tasks],
            lambda each: each[0].asker,
            lambda each: 1,
            [],
            [each[1] for each in tasks],
        )
        waiting.remove(first)
        if first[1] == "low":
            assert step <= 2 * LEVEL_STEPS
            return
    raise AssertionError("starved")
