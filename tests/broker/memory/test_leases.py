"""How leases grow into what is free, and how unused parts of large ones come to smaller ones."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from broker.memory.decisions import Grow, Shrink
from broker.memory.leases import GRAIN, balance, grow
from broker.memory.ledger import Entry, Lease, Ledger
from broker.workers.lifecycle import State
from tests.broker.ledgers import GB, A, B, ledger, worker

FULL = 1 << 62


def test_the_smallest_lease_grows_first() -> None:
    small, large = worker(lease=GB, wanted=FULL), worker(B, lease=3 * GB, wanted=FULL)
    assert grow(ledger(small, large, budget=15), [small, large]) == Grow({"a#1": 2 * GB})
    assert grow(ledger(small, large, budget=18), [small, large]) == Grow({"a#1": 4 * GB, "b#1": 4 * GB})


def test_a_worker_that_came_late_gets_what_an_older_one_does_not_use() -> None:
    late, old = worker(lease=GB, wanted=FULL), worker(B, lease=5 * GB, wanted=FULL)
    full = ledger(late, old, budget=16)
    assert grow(full, full.entries) is None
    moved = balance(full)
    assert isinstance(moved, Shrink)
    assert moved.leases == {"b#1": 3 * GB}


def test_what_is_used_does_not_move_nor_what_nobody_could_fill() -> None:
    late = worker(lease=GB, wanted=FULL)
    used = worker(B, lease=5 * GB, wanted=FULL, kept=4 * GB, committed=GB)
    assert balance(ledger(late, used, budget=16)) is None
    assert (
        balance(ledger(replace(late, usage=replace(late.usage, wanted=0)), worker(B, 5 * GB, wanted=FULL)))
        is None
    )
    assert balance(ledger(late, worker(B, 5 * GB, wanted=FULL, state=State.LOADING), budget=16)) is None
    cut = replace(worker(B, 5 * GB, wanted=FULL), lease=Lease.first(6 * GB).tell(5 * GB))
    assert balance(ledger(late, cut, budget=17)) is None


SIZES = st.integers(0, 60).map(lambda tenths: tenths * GB // 10)


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    entries = []
    for number in range(draw(st.integers(1, 5))):
        size = draw(SIZES)
        wanted = draw(st.sampled_from([0, size, size + GB, FULL]))
        made = worker(A, size, kept=draw(st.integers(0, 10)) * size // 10, wanted=wanted)
        entries.append(replace(made, worker=f"a#{number}", need=replace(A, least_kv=GB // 10)))
    spare = draw(SIZES)
    found = ledger(*entries, budget=0)
    return replace(found, budget=found.charged + spare)


def told(entry: Entry, leases: dict[str, int]) -> Entry:
    """And it has confirmed."""
    return replace(entry, lease=Lease.first(leases.get(entry.worker, entry.lease.size)))


@given(ledgers())
def test_leases_come_to_rest_within_the_budget_and_nothing_that_is_used_is_cut(start: Ledger) -> None:
    found = start
    for _ in range(12):
        decision = grow(found, found.entries) or balance(found)
        if decision is None:
            break
        found = replace(found, entries=tuple(told(entry, dict(decision.leases)) for entry in found.entries))
        assert found.charged <= found.budget
        for entry in found.entries:
            assert entry.lease.size >= entry.usage.kept
    else:
        raise AssertionError("leases do not come to rest")
    able = [e for e in found.entries if e.usage.wanted == FULL]
    if len(able) > 1 and all(e.usage.wanted == FULL and not e.usage.kept for e in found.entries):
        sizes = [e.lease.size for e in able]
        assert max(sizes) - min(sizes) <= 4 * GRAIN * len(sizes)
