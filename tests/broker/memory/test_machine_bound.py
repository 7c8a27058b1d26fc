"""The budget while other programs use the machine: by readings, and in plays of the mind's events."""

from hypothesis import given
from hypothesis import strategies as st

from broker.core import Broker
from broker.events import MemoryRead, Spawn
from broker.memory.decisions import GB
from broker.memory.machine_bound import READINGS, RESERVE, STEP, MachineBound
from broker.rules import UNBOUNDED, MemoryRules
from tests.broker.memory.test_memory import beat, drains
from tests.broker.plays import ask, forward, make_broker, notes, play, ready, refusals, status

NEEDS = {"a": 3 * GB, "b": 3 * GB}


def loaded() -> Broker:
    broker = make_broker(rules=MemoryRules(8 * GB, lends=True, min_stay=1.0, said=NEEDS))
    play(broker, ask("r1"), ready("a#1"), beat("a#1", footprint=2 * GB), forward("a#1", "r1"))
    return broker


def read(broker: Broker, *available: float, begin: float = 1.0) -> list[str]:
    """The lines that come of it."""
    lines: list[str] = []
    for second, size in enumerate(available):
        lines += notes(broker.handle(MemoryRead(int(size * GB)), begin + second / 10))
    return lines


def test_others_bound_the_budget_and_one_line_says_it() -> None:
    broker = loaded()
    said = read(broker, *[2.5] * 10)
    assert said == [
        "the budget is 4.0 GB, was 8.0 GB: 2.5 GB of the machine's memory are available, and workers hold 2.0 GB"
    ]
    assert status(broker).memory.budget == 4 * GB
    assert refusals(play(broker, ask("r2", "b"), now=2.0)) == []


def test_the_budget_comes_back_when_the_others_have_gone() -> None:
    broker = loaded()
    read(broker, *[2.5] * READINGS)
    assert len(read(broker, *[20] * READINGS, begin=2.0)) == 1
    assert status(broker).memory.budget == 8 * GB
    assert Spawn("b#2", "b") in play(broker, ask("r2", "b"), now=3.0)


def test_a_moment_without_memory_changes_nothing() -> None:
    broker = loaded()
    assert read(broker, 20, 20, 0, 20, 20, 0, 0, 0, 20) == []
    assert status(broker).memory.budget == 8 * GB


def test_what_the_workers_hold_is_not_taken_from_them_while_they_come_and_go() -> None:
    broker = loaded()
    play(broker, ask("r2", "b"), now=1.0)
    assert read(broker, *[1.0] * 20) == [], "a model that loads holds what no worker has told"


def test_an_idle_worker_makes_room_for_other_programs_only_where_its_lease_is_not_enough() -> None:
    broker = loaded()
    play(broker, ask("r2", "b"), ready("b#2"), now=1.0)
    play(broker, beat("b#2", footprint=3 * GB), beat("a#1", footprint=3 * GB), now=1.5)
    play(broker, forward("b#2", "r2"), now=1.6)
    assert not drains(
        [action for size in [1.0] * 9 for action in broker.handle(MemoryRead(int(size * GB)), 3.0)]
    )
    done = [action for _ in range(READINGS) for action in broker.handle(MemoryRead(GB // 4), 4.0)]
    assert len(drains(done)) == 1


@given(st.lists(st.integers(-STEP // 2, STEP // 2), max_size=60), st.integers(2, 60))
def test_noise_changes_the_bound_once_at_most(noise: list[int], gigabytes: int) -> None:
    bound = MachineBound()
    changes = sum(bound.hear(gigabytes * GB + each, GB) for each in noise)
    assert changes == (len(noise) >= READINGS)
    if changes:
        assert abs(bound.size - (gigabytes * GB + GB - RESERVE)) <= STEP // 2
    else:
        assert bound.size == UNBOUNDED
