"""High priority goes first, and low priority never starves."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from broker.requests.priority_queue import LEVELS, PriorityQueue
from broker.requests.scheduler import Limits
from shared.callers import Asker
from shared.key_terms import KeyTerms, Priority
from tests.broker.plays import ask, forward, make_broker, play, ready, run

AGEING = 10.0
CALLERS = "abc"


@dataclass(eq=False)
class Item:
    priority: Priority
    caller: str
    since: float

    @property
    def asker(self) -> Asker:
        return Asker(self.caller, self.caller)


ITEMS = st.builds(Item, st.sampled_from(LEVELS), st.sampled_from(CALLERS), st.integers(0, 60).map(float))
SCHEDULES = st.lists(
    st.lists(st.tuples(st.sampled_from(LEVELS), st.sampled_from(CALLERS)), max_size=4), max_size=60
)


@given(st.lists(ITEMS, max_size=30))
def test_the_order_that_is_told_is_the_order_in_which_requests_are_taken(items: list[Item]) -> None:
    queue = PriorityQueue[Item](AGEING)
    for item in items:
        queue.put(item)
    told, taken = list(queue.in_order()), []
    while queue:
        taken.append(next(queue.heads()))
        queue.take(taken[-1])
    assert [(i.priority, i.caller) for i in told] == [(i.priority, i.caller) for i in taken]
    assert len(taken) == len(items)


@given(SCHEDULES)
def test_a_request_waits_for_those_that_came_within_two_ageings_and_for_their_callers_turns_only(
    schedule: list[list[tuple[Priority, str]]],
) -> None:
    """One is taken a second, whatever comes. Between two of one caller's turns each of the others has one."""
    queue, now = PriorityQueue[Item](AGEING), 0.0
    came: list[Item] = []
    taken: list[Item] = []
    started: dict[Item, int] = {}  # how many had been taken when it came
    while now < len(schedule) or queue:
        for priority, caller in schedule[int(now)] if now < len(schedule) else ():
            came.append(Item(priority, caller, now))
            started[came[-1]] = len(taken)
            queue.put(came[-1])
        if queue:
            taken.append(next(queue.heads()))
            queue.take(taken[-1])
        now += 1
    assert len(taken) == len(came)
    for position, item in enumerate(taken):
        rivals = sum(other.since <= item.since + 2 * AGEING for other in came)
        assert position - started[item] <= len(CALLERS) * rivals + len(CALLERS) * len(LEVELS)


def test_a_stream_of_high_priority_does_not_starve_low_priority() -> None:
    queue = PriorityQueue[Item](AGEING)
    low = Item("low", "l", 0.0)
    queue.put(low)
    for second in range(100):
        queue.put(Item("high", "h", float(second)))
        first = next(queue.heads())
        queue.take(first)
        if first is low:
            break
    assert second == 2 * AGEING + 1


@given(st.lists(ITEMS, min_size=2, max_size=20))
def test_of_requests_that_came_together_the_highest_priority_is_first(items: list[Item]) -> None:
    queue = PriorityQueue[Item](AGEING)
    for item in items:
        item.since = 0.0
        queue.put(item)
    ranks = [LEVELS.index(item.priority) for item in queue.in_order()]
    assert ranks == sorted(ranks)


def test_low_priority_waits_for_high_that_came_later_and_is_not_passed_by_for_ever() -> None:
    broker = make_broker(limits=Limits(max_in_flight=1, queue_age=80))
    low, high = (KeyTerms(name=level, priority=level) for level in ("low", "high"))
    play(broker, ready("a#1"), ask("running"), now=0.0)
    play(broker, ask("low", key=low, caller="l"), now=1.0)
    play(broker, ask("high-1", key=high, caller="h"), now=2.0)
    assert run("a#1", "high-1", key=high, caller="h") in play(broker, forward("a#1", "running"), now=3.0)
    play(broker, ask("high-2", key=high, caller="h"), now=22.0)  # two ageings of 10 s after the low one
    assert run("a#1", "low", key=low, caller="l") in play(broker, forward("a#1", "high-1"), now=22.0)
