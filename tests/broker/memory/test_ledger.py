"""Who fits, who gives way and why, by plays; what must hold under random schedules is in test_swaps."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.memory.decisions import Decision, Evict, Grow, Never, Shrink, Start, Wait
from broker.memory.eviction import cuts, plan, relieve
from broker.memory.leases import grow
from broker.memory.ledger import Entry, Lease, Need
from broker.workers.lifecycle import State
from tests.broker.ledgers import GB, MIN_STAY, A, B, C, ledger, worker


def plan_b(*entries: Entry, turn_ends: float = inf, **given: Any) -> Decision:
    return plan(B, ledger(*entries, **given), 100.0, turn_ends)


def test_what_fits_is_started_with_the_least_lease() -> None:
    assert plan_b() == Start("b", GB, "it needs 6.0 GB, 10.0 GB are free")


def test_what_can_never_fit_is_refused_with_the_figures() -> None:
    assert str(plan_b(worker(static=True))) == (
        "b can never fit: it needs 6.00 GB, and of the budget of 10.00 GB 4.00 GB can be free for it at most "
        "beside a, which stay"
    )
    assert isinstance(plan_b(worker(static=True, state=State.DRAINING)), Wait)


def test_a_model_that_misses_the_budget_by_little_is_not_said_to_need_as_much_as_there_is() -> None:
    said = str(Never("b", GB + 1, GB, GB))
    assert (
        said
        == "b can never fit: it needs 1.01 GB, and of the budget of 1.00 GB 1.00 GB can be free for it at most"
    )


def test_an_idle_worker_that_has_served_gives_way() -> None:
    assert plan_b(worker()) == Evict(("a#1",), "b", "2.0 GB are missing, and these save the least by staying")


@pytest.mark.parametrize(
    ("facts", "said", "until"),
    [
        ({"state": State.LOADING}, "a#1 is loading", inf),
        ({"since": 98.0}, "a#1 has just come and stays for 2.0 s", 98.0 + MIN_STAY),
        ({"since": 98.0, "waiting": 1}, "a#1 has just come and stays for 6.0 s", 106.0),
        ({"served": 0, "waiting": 1}, "a#1 has answered none of those it was loaded for", inf),
    ],
)
def test_an_obstacle_is_named_and_asked_again_when_it_ends(
    facts: dict[str, Any], said: str, until: float
) -> None:
    decision = plan_b(worker(**facts))
    assert str(decision) == f"b waits: 2.0 GB are missing; {said}"
    assert isinstance(decision, Wait)
    assert decision.until == until


def test_a_worker_that_nobody_waits_for_any_more_gives_way_though_it_has_not_served() -> None:
    assert isinstance(plan_b(worker(served=0)), Evict)


def test_a_busy_worker_is_closed_when_its_turn_ends_and_never_evicted() -> None:
    before, after = (plan_b(worker(running=3), turn_ends=at) for at in (101.0, 100.0))
    assert before == Wait("b", "answers run (3 on a#1), and their turn ends in 1.0 s", until=101.0)
    assert after == Wait("b", "the last answers of a turn run (3 on a#1)", closing=("a#1",))


def test_memory_on_its_way_back_is_waited_for_and_nobody_else_goes() -> None:
    decision = plan_b(worker(state=State.DRAINING), worker(C), budget=12)
    assert str(decision) == "b waits: 6.0 GB are missing until the memory of a#1 has come back"


def test_a_cut_is_free_only_when_the_worker_has_confirmed_it() -> None:
    cut = worker(lease=5 * GB)
    cut = replace(cut, lease=cut.lease.tell(GB))
    assert str(plan_b(cut, budget=12)) == "b waits: 4.0 GB are missing until the memory of a#1 has come back"
    assert isinstance(plan_b(replace(cut, lease=cut.lease.confirm(1, GB)), budget=12), Start)


def test_a_grant_on_its_way_is_not_confirmed_by_a_word_about_what_was_told_before() -> None:
    lease = Lease.first(GB).tell(5 * GB).tell(GB)
    assert [lease.confirm(serial, GB).bound for serial in (0, 1, 2)] == [5 * GB, 5 * GB, GB]


def test_unused_lease_goes_before_kept_prompts_and_these_before_a_worker() -> None:
    full, empty = worker(lease=4 * GB, kept=4 * GB), worker(C, lease=3 * GB)
    decisions = [plan_b(full, empty, budget=budget) for budget in (21, 18, 17)]
    assert [d.leases for d in decisions if isinstance(d, Shrink)] == [{"c#1": GB}, {"c#1": GB, "a#1": GB}]
    assert isinstance(decisions[2], Evict)


def test_what_running_answers_may_come_to_use_is_not_cut() -> None:
    busy = worker(lease=4 * GB, committed=3 * GB, kept=GB, running=1)
    assert plan_b(busy, budget=14) == Shrink({"a#1": 3 * GB}, "b", "1.0 GB are missing")
    assert isinstance(plan_b(busy, budget=13), Wait)


def test_of_the_idle_the_least_load_time_per_byte_goes_and_no_more_than_needed() -> None:
    hot, cold = worker(replace(A, rate=1.0)), worker(replace(C, rate=0.1))
    small = worker(Need("s", GB, 0, load_seconds=1.0), lease=0)
    decision = plan_b(hot, cold, small, budget=13)
    assert isinstance(decision, Evict)
    assert decision.victims == ("c#1",)


def test_who_is_closed_already_goes_though_it_became_worth_more() -> None:
    hot, cold = worker(replace(A, rate=1.0), running=1, closed=True), worker(C, running=1)
    decision = plan_b(hot, cold, budget=12, turn_ends=0.0)
    assert isinstance(decision, Wait)
    assert decision.closing == ("a#1",)


def test_a_worker_that_outgrew_its_base_is_relieved_like_any_other_want() -> None:
    grown = worker(footprint=11 * GB, kv=GB)
    assert grown.base == 10 * GB
    assert isinstance(relieve(ledger(grown, worker(C), budget=16), 100.0), Evict)
    assert relieve(ledger(worker()), 100.0) is None


def test_a_worker_that_is_alone_and_too_large_gives_its_lease_back_and_is_not_restarted() -> None:
    large = worker(lease=4 * GB, footprint=16 * GB, kv=2 * GB)
    decision = relieve(ledger(large), 100.0)
    assert isinstance(decision, Shrink)
    assert decision.leases == {"a#1": GB}
    assert relieve(ledger(replace(large, lease=Lease.first(GB))), 100.0) is None


def test_a_worker_that_is_alone_and_too_large_makes_room_for_another_model_like_any_other() -> None:
    large = worker(footprint=16 * GB, kv=GB)
    assert isinstance(plan_b(large), Evict)


def test_free_memory_is_lent_in_equal_shares_and_not_while_memory_is_on_its_way() -> None:
    greedy, modest = worker(wanted=9 * GB), worker(C, wanted=2 * GB)
    assert grow(ledger(greedy, modest, budget=18), [greedy, modest]) == Grow({"a#1": 4 * GB, "c#1": 2 * GB})
    cut = replace(greedy, lease=Lease.first(3 * GB).tell(GB))
    assert grow(ledger(cut, budget=18), [cut]) is None


def test_a_pinned_model_has_its_memory_before_it_is_loaded_and_after_its_worker_died() -> None:
    pinned = replace(A, pinned=True)
    assert isinstance(plan_b(budget=11, pinned=(pinned,)), Never)
    assert plan(pinned, ledger(budget=11, pinned=(pinned,)), 0.0) == Start(
        "a", GB, "it needs 6.0 GB, 11.0 GB are free"
    )
    assert plan_b(worker(C), budget=16, pinned=(pinned,)) == Evict(
        ("c#1",), "b", "2.0 GB are missing, and these save the least by staying"
    )
    dying = worker(pinned, state=State.STOPPING)
    assert ledger(dying, budget=12, pinned=(pinned,)).free() == 6 * GB


def test_a_pinned_worker_is_never_evicted_however_idle() -> None:
    pinned = replace(A, pinned=True)
    assert isinstance(plan_b(worker(pinned), worker(C), budget=12, pinned=(pinned,)), Evict)
    assert isinstance(plan_b(worker(pinned), budget=11, pinned=(pinned,)), Never)


SIZES = st.integers(0, 5 * GB)


@given(st.lists(st.tuples(SIZES, SIZES, SIZES), min_size=1, max_size=4), st.integers(1, 12 * GB))
def test_cuts_give_exactly_what_is_missing_or_nothing(
    workers: list[tuple[int, int, int]], missing: int
) -> None:
    entries = [
        worker(replace(A, model=f"m{n}"), lease, committed=committed, kept=kept)
        for n, (lease, committed, kept) in enumerate(workers)
    ]
    leases = cuts(entries, missing)
    assert bool(leases) == (sum(entry.spare for entry in entries) >= missing)
    assert not leases or sum(e.lease.size - leases.get(e.worker, e.lease.size) for e in entries) == missing
    for entry in entries:
        assert leases.get(entry.worker, entry.lease.size) >= min(
            entry.lease.size, max(GB, entry.usage.committed)
        )
