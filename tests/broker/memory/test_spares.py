"""Spare processes in plays of the mind's events: when one starts, who takes it, and before whom it gives way."""

from itertools import pairwise
from typing import Any

from broker.core import Broker
from broker.events import (
    EndSpare,
    SettingsRead,
    SpareEnded,
    SpareSaid,
    Spawn,
    StartSpare,
    Tick,
    WorkerExited,
)
from broker.memory.decisions import GB
from broker.memory.spares import EXPECTED
from broker.rules import Changes, MemoryRules
from tests.broker.memory.test_memory import beat, drains, leases
from tests.broker.plays import ask, forward, make_broker, notes, play, ready, refusals, status

SIZE = GB // 5


def broker_with(spares: int = 1, budget: float = 8, **rules: Any) -> Broker:
    needs = {"a": 3 * GB, "b": 3 * GB}
    given = MemoryRules(int(budget * GB), lends=True, min_stay=4.0, max_wait=10.0, said=needs, spares=spares)
    return make_broker(rules=MemoryRules(**{**vars(given), **rules}))


def with_a_ready_spare(**rules: Any) -> Broker:
    broker = broker_with(**rules)
    assert play(broker, Tick()) == [StartSpare("spare#1")]
    assert play(broker, SpareSaid("spare#1", SIZE)) == []
    return broker


def test_a_spare_waits_for_the_next_model_which_takes_it() -> None:
    broker = with_a_ready_spare()
    assert Spawn("a#2", "a", "spare#1") in play(broker, ask("r1"))


def test_a_spare_that_still_imports_is_taken_before_a_new_process_is_started() -> None:
    broker = broker_with()
    play(broker, Tick())
    assert Spawn("a#2", "a", "spare#1") in play(broker, ask("r1"))


def test_without_a_wish_for_spares_there_are_none() -> None:
    broker = broker_with(spares=0)
    assert play(broker, Tick()) == []
    assert Spawn("a#1", "a") in play(broker, ask("r1"))


def test_the_next_spare_is_started_when_no_model_loads_and_the_first_answers_are_given() -> None:
    broker = with_a_ready_spare()
    play(broker, ask("r1"))
    assert StartSpare("spare#3") not in play(broker, Tick(), now=1.0), "while it loads"
    assert StartSpare("spare#3") not in play(broker, ready("a#2"), Tick(), now=2.0), "while it answers"
    assert StartSpare("spare#3") in play(broker, forward("a#2", "r1"), Tick(), now=3.0)


def test_answers_that_go_on_for_long_hold_no_spare_back() -> None:
    broker = with_a_ready_spare()
    play(broker, ask("r1"), ready("a#2"))
    assert StartSpare("spare#3") in play(broker, Tick(), now=12.0)


def test_a_spare_is_reported_with_its_size_and_counts_as_used() -> None:
    broker = with_a_ready_spare()
    memory = status(broker).memory
    assert memory.spares == {"spare#1": SIZE}
    assert memory.used == SIZE


def test_leases_leave_memory_for_the_next_spare() -> None:
    broker = with_a_ready_spare()
    play(broker, ask("r1"))
    said = leases(play(broker, ready("a#2"), beat("a#2", footprint=2 * GB, serial=1)))
    assert 3 * GB + said["a#2"].size <= 8 * GB - SIZE


def test_a_lease_that_holds_nothing_is_cut_for_a_spare_that_is_newly_wanted() -> None:
    broker = broker_with(spares=0)
    play(broker, ask("r1"), ready("a#1"), forward("a#1", "r1"))
    given = leases(play(broker, beat("a#1", footprint=2 * GB, serial=1)))["a#1"]
    wanted = MemoryRules(8 * GB, lends=True, said={"a": 3 * GB, "b": 3 * GB}, spares=1)
    read = SettingsRead(Changes(("a", "b"), wanted, (), ("x",)))
    cut = leases(play(broker, beat("a#1", footprint=2 * GB, serial=2, obeyed=given.size), read, now=1.0))[
        "a#1"
    ]
    assert cut.size == given.size - EXPECTED
    confirmed = beat("a#1", footprint=2 * GB, serial=cut.serial, obeyed=cut.size)
    assert StartSpare("spare#2") in play(broker, confirmed, now=2.0)


def test_no_spare_is_started_where_memory_is_short() -> None:
    broker = broker_with(budget=3.4, spares=1)
    play(broker, Tick(), SpareSaid("spare#1", SIZE * 3))
    play(broker, ask("r1"), ready("a#2"), forward("a#2", "r1"))
    assert StartSpare not in [type(one) for one in play(broker, Tick(), Tick(), now=60.0)]


def test_a_model_that_fits_only_without_spares_waits_until_those_it_does_not_become_have_ended() -> None:
    broker = broker_with(spares=2, budget=3.1)
    play(broker, Tick(), SpareSaid("spare#1", SIZE), Tick(), SpareSaid("spare#2", SIZE), now=0.0)
    assert len(status(broker).memory.spares) == 2
    assert [one for one in play(broker, ask("r1")) if isinstance(one, Spawn | EndSpare)] == [
        EndSpare("spare#2")
    ]
    assert Spawn("a#3", "a", "spare#1") in play(broker, SpareEnded("spare#2", "was killed by SIGKILL"))


def test_no_model_is_evicted_or_refused_for_a_spare() -> None:
    broker = with_a_ready_spare(budget=6.1)
    play(broker, ask("r1"), ready("a#2"), forward("a#2", "r1"), Tick(), now=1.0)
    actions = play(broker, ask("r2", "b"), now=20.0)
    assert any(isinstance(one, Spawn) for one in actions)
    assert not drains(actions)
    assert not refusals(actions)


def test_a_spare_is_given_up_when_a_worker_outgrows_what_was_planned() -> None:
    broker = with_a_ready_spare(budget=8)
    play(broker, ask("r1"), ready("a#2"), forward("a#2", "r1"))
    play(broker, Tick(), SpareSaid("spare#3", SIZE), now=1.0)
    actions = play(broker, beat("a#2", footprint=int(7.9 * GB)), now=2.0)
    assert EndSpare("spare#3") in actions
    assert not drains(actions)


def test_a_spare_that_ends_by_itself_is_tried_again_after_a_while_that_doubles() -> None:
    broker, now = broker_with(), 0.0
    starts: list[float] = []
    while len(starts) < 6:
        for action in play(broker, Tick(), now=now):
            assert isinstance(action, StartSpare)
            starts.append(now)
            [note] = notes(broker.handle(SpareEnded(action.spare, "exited with code 1"), now))
            assert "exited with code 1" in note
        now += 0.5
    assert [after - before for before, after in pairwise(starts)] == [2, 4, 8, 16, 32]


def test_a_worker_that_ends_before_it_was_told_its_model_is_nobodys_fault() -> None:
    broker = with_a_ready_spare()
    play(broker, ask("r1"))
    again = play(broker, WorkerExited("a#2", -11), now=1.0)
    assert not refusals(again)
    assert Spawn("a#3", "a") in again


def test_a_model_with_a_python_of_its_own_takes_no_spare_and_waits_for_the_end_of_those_in_its_way() -> None:
    broker = with_a_ready_spare(budget=8, pythons={"a": "/other/python"})
    assert Spawn("a#2", "a", python="/other/python") in play(broker, ask("r1"))
    assert Spawn("b#3", "b", "spare#1") in play(broker, ask("r2", "b"))
    tight = with_a_ready_spare(budget=3.1, pythons={"a": "/other/python"})
    assert EndSpare("spare#1") in play(tight, ask("r1"))
    ended = play(tight, SpareEnded("spare#1", "was killed by SIGKILL"))
    assert Spawn("a#2", "a", python="/other/python") in ended
