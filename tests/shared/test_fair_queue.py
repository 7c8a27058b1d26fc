"""A queue in which callers take turns, and the groups of one caller within its turns."""

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.callers import Asker
from shared.fair_queue import FairQueue

CALLERS = st.builds(Asker, st.sampled_from(["a", "b", "c"]), st.sampled_from(["x", "y"]))


@dataclass(frozen=True)
class Item:
    number: int
    asker: Asker


@given(st.lists(CALLERS, min_size=1, max_size=40))
def test_between_two_turns_of_a_caller_every_other_waiting_caller_has_one(askers: list[Asker]) -> None:
    queue = FairQueue[Item]()
    for number, asker in enumerate(askers):
        queue.put(Item(number, asker))
    taken: list[Asker] = []
    while queue:
        item = next(queue.heads())
        queue.take(item)
        taken.append(item.asker)
    assert takes_turns([asker.caller for asker in taken])
    for caller in {asker.caller for asker in taken}:
        assert takes_turns([asker.group for asker in taken if asker.caller == caller])


def takes_turns(taken: list[str]) -> bool:
    """Between two turns of one name each other name that comes later has a turn."""
    for at, name in enumerate(taken):
        later = taken[at + 1 :]
        if name in later and not set(later) - {name} <= set(later[: later.index(name)]):
            return False
    return True


def test_a_caller_that_has_had_its_turn_goes_behind_one_that_came_meanwhile() -> None:
    queue = FairQueue[Item]()
    for number in range(2):
        queue.put(Item(number, Asker("a", "x")))
    queue.take(next(queue.heads()))
    queue.put(Item(2, Asker("b", "x")))
    queue.put(Item(3, Asker("a", "x")))
    assert [item.number for item in queue] == [1, 3, 2]
    queue.take(next(queue.heads()))
    assert [item.number for item in queue] == [2, 3]


@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_each_caller_has_one_turn_before_any_caller_has_two(callers: list[str]) -> None:
    queue = FairQueue[Item]()
    for number, caller in enumerate(callers):
        queue.put(Item(number, Asker(caller, "")))
    waiting = [(item.asker.caller, item.number) for item in queue]
    taken: list[tuple[str, int]] = []
    for _ in callers:
        item = next(queue.heads())
        queue.take(item)
        taken.append((item.asker.caller, item.number))
    assert sorted(taken) == sorted(waiting)
    for caller in set(callers):
        places = [place for place, (whose, _) in enumerate(taken) if whose == caller]
        numbers = [number for whose, number in taken if whose == caller]
        assert numbers == sorted(numbers)
        for before, after in pairwise(places):
            between = [whose for whose, _ in taken[before + 1 : after]]
            assert len(between) == len(set(between))
            left = {whose for whose, _ in taken[after:]}
            assert left - {caller} <= set(between) | {caller}


@given(st.lists(CALLERS, max_size=40), st.integers(0, 10))
def test_the_order_that_is_told_is_the_order_in_which_they_are_taken(askers: list[Asker], taken: int) -> None:
    queue = FairQueue[Item]()
    for number, asker in enumerate(askers):
        queue.put(Item(number, asker))
    for _ in range(min(taken, len(askers))):
        queue.take(next(queue.heads()))
    told = list(queue.in_order())
    came: list[Item] = []
    while queue:
        came.append(next(queue.heads()))
        queue.take(came[-1])
    assert told == came
