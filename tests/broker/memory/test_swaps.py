"""The ledger's promises under random schedules: never over budget, nobody starves, nothing is aborted, plans end."""

from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from broker.memory.decisions import Evict, Start, Wait
from broker.memory.ledger import Need
from broker.memory.swaps import Demand, Turns
from tests.broker.ledgers import A, B, C, ledger, worker
from tests.broker.memory_machine import BEAT, EXIT, GB, MAX_WAIT, MIN_STAY, STEP, Ask, Machine
from tests.marks import examples

LONGEST_LOAD, LONGEST_ANSWER, LATEST = 10.0, 10.0, 2.0
TURN = max(MIN_STAY, LONGEST_LOAD) + LONGEST_LOAD + LONGEST_ANSWER
LAG = EXIT + 2 * (BEAT + 2 * LATEST) + 4 * STEP  # an exit, and two cuts with their confirmations


def decided(*demands: Demand, now: float = 100.0, turns: Turns | None = None, **given: Any) -> Any:
    return (turns or Turns(MAX_WAIT)).decide(demands, ledger(*given.pop("entries", ()), **given), now)


def test_a_model_that_had_its_turn_queues_from_the_turns_end_on() -> None:
    turns = Turns(MAX_WAIT)
    assert isinstance(decided(Demand(B, (1.0,)), now=50.0, turns=turns, entries=[worker(A)]), Evict)
    again, new = Demand(A, (1.0,)), Demand(C, (40.0,))
    first = decided(again, new, now=60.0, turns=turns)
    assert isinstance(first, Start)
    assert first.model == "c"


def test_a_turn_ends_when_it_gets_nothing_new_and_not_when_its_last_answer_does() -> None:
    turns = Turns(MAX_WAIT)
    waiting = Demand(B, (1.0,))
    closing = decided(waiting, now=50.0, turns=turns, entries=[worker(A, running=1)])
    assert (closing.closing, turns.closed) == (("a#1",), {"a#1": 50.0})
    decided(waiting, now=58.0, turns=turns, entries=[worker(A, closed=True)])
    assert turns.since(Demand(A, (1.0,))) == 50.0


def test_waiting_pays_for_the_swap_there_and_back() -> None:
    """8 seconds to load and 8 to load the other again: two requests that have waited 4 seconds each pay in 4 more."""
    decision = decided(Demand(B, (96.0, 96.0)), entries=[worker(A, running=1)])
    assert isinstance(decision, Wait)
    assert decision.until == 104.0


def test_one_request_for_a_slow_model_waits_no_longer_than_max_wait() -> None:
    slow = Need("b", 5 * GB, GB, load_seconds=100.0)
    assert decided(Demand(slow, (96.0,)), entries=[worker(A, running=1)]).until == 96.0 + MAX_WAIT


@pytest.mark.parametrize(("base", "expected"), [(5 * GB, Start), (8 * GB, Wait)])
def test_others_start_before_the_first_only_in_what_it_has_no_use_for(base: int, expected: type) -> None:
    small = Need("s", GB, GB, load_seconds=1.0)
    queue = [Demand(Need("b", base, GB, 8.0), (90.0,)), Demand(small, (95.0,))]
    assert isinstance(decided(*queue, now=96.0, entries=[worker(A, running=1)], budget=9), expected)


def test_who_waits_no_more_reopens_the_worker_that_was_closed_for_it() -> None:
    turns = Turns(MAX_WAIT)
    decided(Demand(B, (1.0,)), turns=turns, entries=[worker(A, running=1)])
    assert turns.closed
    assert decided(turns=turns, entries=[worker(A, running=1)]) is None
    assert not turns.closed


@st.composite
def machines(draw: Callable[..., Any]) -> Machine:
    gigabytes, loads = st.integers(1, 4), st.sampled_from([1.0, 3.0, LONGEST_LOAD])
    models = "abcd"[: draw(st.integers(2, 4))]
    budget = draw(st.integers(6, 26)) * GB
    needs = []
    for model in models:
        base, least = draw(gigabytes) * 2 * GB + GB, draw(gigabytes) * GB
        pinned = draw(st.integers(0, 5)) == 0
        needs.append(Need(model, base, least, draw(loads), draw(st.floats(0, 1)), pinned))
    least_of = {need.model: need.least_kv for need in needs}
    last = draw(st.sampled_from([20, 120]))

    def ask(model: str) -> st.SearchStrategy[Ask]:
        return st.builds(
            Ask,
            at=st.integers(0, last).map(float),
            model=st.just(model),
            seconds=st.sampled_from([0.5, 2.0, LONGEST_ANSWER]),
            kv=st.integers(1, 10).map(lambda tenths: tenths * least_of[model] // 10),
            patience=st.sampled_from([inf, inf, 2.0, 8.0]),
        )

    asks = draw(st.lists(st.sampled_from(models).flatmap(ask), min_size=15, max_size=80))
    crashes = draw(st.lists(st.integers(0, 120).map(float), max_size=3))
    latencies = draw(st.lists(st.sampled_from([0.0, 0.5, LATEST]), min_size=1, max_size=4))
    return Machine(budget, needs, asks, crashes, latencies)


def keep_promises(machine: Machine) -> None:
    turns = len(machine.needs) + len(machine.crashes)
    try:
        machine.play(MAX_WAIT + turns * (TURN + LAG))
    finally:
        note("\n".join(map(str, machine.decisions[-30:])))


@given(machines())
@examples(25)
def test_random_schedules_keep_within_the_budget_starve_nobody_and_abort_nothing(machine: Machine) -> None:
    keep_promises(machine)


@pytest.mark.slow
@pytest.mark.timeout(300)
@given(machines())
@examples(200)
def test_hundreds_of_random_schedules_keep_the_same_promises(machine: Machine) -> None:
    keep_promises(machine)


def test_three_models_with_room_for_one_take_turns() -> None:
    """Each is always waited for: two turns of the others lie between two of its own."""
    asks = [Ask(float(i // 6), "abc"[i % 3], seconds=2.0, kv=GB // 4) for i in range(360)]
    machine = Machine(8 * GB, [A, B, C], asks)
    machine.play(MAX_WAIT + 2 * (8.0 + 8.0 + 2.0 + LAG))
    starts = sum(isinstance(decision, Start) for decision in machine.decisions)
    assert len(machine.answered) == 360
    assert 6 < starts <= 1 + machine.now / (8.0 + 8.0)
