"""Who gives way when memory is missing: a ledger in, a decision out. Pure.

Rule 1: leases that hold nothing go first, then kept prompts, then workers; never more than is missing.
Rule 2: no worker is evicted that is loading, runs answers, has just come, or owes the first of those it was loaded for.
    A busy worker that is to go gets nothing new, and goes when it is idle: no answer is ever aborted.
Rule 3: of the others replicas go first, and then those that save the least time of loading per byte by staying
    (GreedyDual-Size).
"""

from collections.abc import Collection, Iterable, Sequence
from math import inf
from operator import attrgetter

from broker.memory.decisions import Decision, Evict, Never, Shrink, Start, Wait, gb
from broker.memory.ledger import Entry, Ledger, Need
from broker.workers.lifecycle import STARTING

_THE_BUDGET = "the budget"


def plan(need: Need, ledger: Ledger, now: float, turn_ends: float = inf) -> Decision:
    """What to do so that the model can be started. From ``turn_ends`` on busy workers are closed for it."""
    if never := refusal(need, ledger):
        return never
    free = ledger.free(need.model)
    if need.total <= free:
        return Start(need.model, need.least_kv, f"it needs {gb(need.total)}, {gb(free)} are free")
    return make_room(need.total - free, need.model, ledger, now, turn_ends)


def refusal(need: Need, ledger: Ledger) -> Never | None:
    most = ledger.most(need.model)
    beside = sorted({entry.need.model for entry in ledger.entries if entry.stays})
    return Never(need.model, need.total, most, ledger.budget, tuple(beside)) if need.total > most else None


def relieve(ledger: Ledger, now: float) -> Decision | None:
    """For what no plan foresaw: a worker that outgrew its base, or an operator's that came by itself.

    A worker that is alone and still too large only gives its lease back: it would be as large again after a restart.
    """
    over = -ledger.free()
    if over <= 0:
        return None
    staying = [entry for entry in ledger.entries if not entry.leaving]
    if len(staying) == 1 and not cuts(staying, over):
        leases = cuts(staying, staying[0].spare) if staying[0].spare else {}
        return Shrink(leases, _THE_BUDGET, f"{gb(over)} are missing") if leases else None
    return make_room(over, _THE_BUDGET, ledger, now, turn_ends=now)


def make_room(missing: int, beneficiary: str, ledger: Ledger, now: float, turn_ends: float) -> Decision:
    """``missing``: bytes, more than none."""
    why = f"{gb(missing)} are missing"
    missing -= ledger.returning
    if missing <= 0:
        late = [entry.worker for entry in ledger.entries if entry.charge > entry.settled]
        return Wait(beneficiary, f"{why} until the memory of {', '.join(late)} has come back")
    if leases := cuts(ledger.entries, missing):
        return Shrink(leases, beneficiary, why)
    obstacles = {entry.worker: obstacle(entry, ledger.min_stay, now) for entry in ledger.movable}
    ready = [entry for entry in ledger.movable if obstacles[entry.worker] is None]
    if idle := choose([entry for entry in ready if not entry.running], ledger, missing):
        return Evict(_names(idle), beneficiary, f"{why}, and these save the least by staying")
    if busy := choose(ready, ledger, missing):
        return _outlast(busy, beneficiary, now, turn_ends)
    until, why_not = min(filter(None, obstacles.values()), default=(inf, "those that stay are needed"))
    return Wait(beneficiary, f"{why}; {why_not}", until)


def _outlast(victims: Sequence[Entry], beneficiary: str, now: float, turn_ends: float) -> Wait:
    answers = ", ".join(f"{entry.running} on {entry.worker}" for entry in victims if entry.running)
    if now < turn_ends:
        return Wait(
            beneficiary, f"answers run ({answers}), and their turn ends in {turn_ends - now:.1f} s", turn_ends
        )
    return Wait(beneficiary, f"the last answers of a turn run ({answers})", closing=_names(victims))


def cuts(entries: Collection[Entry], missing: int, *, unused_only: bool = False) -> dict[str, int]:
    """New leases, by worker, that give back ``missing`` bytes; none if all of them together cannot.

    ``unused_only``: no kept prompt gives way.
    """
    taken: dict[str, int] = {}
    for most in (attrgetter("unused"), *([] if unused_only else [attrgetter("spare")])):
        for entry in sorted(entries, key=_first_to_go):
            left = missing - sum(taken.values())
            more = min(left, most(entry) - taken.get(entry.worker, 0))
            if more > 0:
                taken[entry.worker] = taken.get(entry.worker, 0) + more
    if sum(taken.values()) < missing:
        return {}
    return {
        entry.worker: entry.lease.size - taken[entry.worker] for entry in entries if entry.worker in taken
    }


def choose(candidates: Iterable[Entry], ledger: Ledger, missing: int) -> list[Entry]:
    """Who must go so that, with all leases cut as far as they can be, ``missing`` bytes come back; or none."""
    missing -= sum(entry.spare for entry in ledger.entries)
    chosen: list[Entry] = []
    for entry in sorted(candidates, key=_first_to_go):
        if _gain(chosen) < missing:
            chosen.append(entry)
    if _gain(chosen) < missing:
        return []
    for entry in reversed(chosen.copy()):  # a large one may have made the small ones before it needless
        if _gain(chosen) - _gain([entry]) >= missing:
            chosen.remove(entry)
    return chosen


def _gain(chosen: Iterable[Entry]) -> int:
    """Beyond what cutting their leases gives."""
    return sum(entry.settled - entry.spare for entry in chosen)


def _first_to_go(entry: Entry) -> tuple[bool, bool, float]:
    """Whoever is closed goes before all others, else two that are half drained could take turns at it."""
    return not entry.closed, not entry.replica, entry.worth


def obstacle(entry: Entry, min_stay: float, now: float) -> tuple[float, str] | None:
    """Until when, and why, it may not even be told to finish what it runs."""
    if entry.state in STARTING:
        return inf, f"{entry.worker} is loading"
    if entry.waiting and not entry.served and not entry.running:
        return inf, f"{entry.worker} has answered none of those it was loaded for"
    in_demand = entry.waiting or entry.running
    until = entry.since + (max(min_stay, entry.need.load_seconds) if in_demand else min_stay)
    if now < until:
        return until, f"{entry.worker} has just come and stays for {until - now:.1f} s"
    return None


def _names(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(entry.worker for entry in entries)
