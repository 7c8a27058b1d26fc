"""Whose turn it is when not all models fit: who waits and a ledger in, the next decision out. No I/O and no clock.

Rule 1: a model that can never fit is refused at once; one that nobody waits for is not loaded.
Rule 2: who has waited longest is first. A model that had a turn waits from its end on, however old its requests are:
    else two long queues would pass the turn to each other, and a third model would never have it.
Rule 3: others start before the first only in memory that the first has no use for, and evict none.
Rule 4: a model that is served gets another worker only while no other waits, see `replicas`.
Rule 5: a turn ends when all the waiting adds up to what swapping there and back costs, at the latest when the first
    has waited ``max_wait``, and never within a worker's minimum stay.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import inf

from broker.memory.decisions import Decision, Evict, Shrink, Start, Wait
from broker.memory.eviction import choose, cuts, plan, refusal, relieve
from broker.memory.leases import balance, grow
from broker.memory.ledger import Entry, Ledger, Need
from broker.memory.replicas import More, another


@dataclass(frozen=True, slots=True)
class Demand:
    """``arrivals``: of the requests that wait for the model, the oldest first; at least one."""

    need: Need
    arrivals: tuple[float, ...]


@dataclass(slots=True)
class Turns:
    """Remembers whose turns have ended, and who gets nothing new. Whoever asks ``decide`` does what it says."""

    max_wait: float
    closed: dict[str, float] = field(default_factory=dict)  # workers, and since when
    _ended: dict[str, float] = field(default_factory=dict)  # models' last turns

    def decide(
        self, demands: Collection[Demand], ledger: Ledger, now: float, more: Collection[More] = ()
    ) -> Decision | None:
        """What to do next. Ask again after doing it, until the answer is Wait, or None: there is nothing to do."""
        decision = self._decide(demands, ledger, now, more)
        if isinstance(decision, Evict):
            for entry in ledger.entries:
                if entry.worker in decision.victims:
                    self._ended[entry.need.model] = self.closed.pop(entry.worker, now)
        elif decision is None or isinstance(decision, Wait):
            closing = decision.closing if decision else ()
            self.closed = {worker: self.closed.get(worker, now) for worker in closing}
        return decision

    def _decide(
        self, demands: Collection[Demand], ledger: Ledger, now: float, more: Collection[More]
    ) -> Decision | None:
        waiting = [demand for demand in demands if not ledger.serves(demand.need.model)]
        for demand in waiting:
            if never := refusal(demand.need, ledger):
                return never
        if relief := relieve(ledger, now):
            return relief
        if not waiting:
            return another(more, ledger) or grow(ledger, ledger.entries) or balance(ledger)
        first, *others = sorted(waiting, key=self.since)
        ahead = in_the_way(first.need, ledger)
        decision = plan(first.need, ledger, now, self._turn_ends(first, others, ahead, now))
        if not isinstance(decision, Wait):
            return decision
        needs = [demand.need for demand in others]
        return overtake(first.need, needs, ahead, ledger) or grow(ledger, ahead) or decision

    def since(self, demand: Demand) -> float:
        """When the first of its requests began to wait for a turn."""
        return max(demand.arrivals[0], self._last_turn(demand))

    def _last_turn(self, demand: Demand) -> float:
        return self._ended.get(demand.need.model, -inf)

    def _turn_ends(
        self, first: Demand, others: Sequence[Demand], ahead: Collection[Entry], now: float
    ) -> float:
        """When the waiting, which grows by a second a second for each request, has come to the cost of a swap."""
        cost = first.need.load_seconds + sum(entry.need.load_seconds for entry in ahead)
        starts = [max(at, self._last_turn(demand)) for demand in (first, *others) for at in demand.arrivals]
        waited = sum(now - start for start in starts)
        return min(self.since(first) + self.max_wait, now + (cost - waited) / len(starts))


def in_the_way(need: Need, ledger: Ledger) -> list[Entry]:
    """Who would go for the model if all were idle and had stayed long enough."""
    return choose(ledger.movable, ledger, need.total - ledger.free(need.model) - ledger.returning)


def overtake(
    first: Need, others: Sequence[Need], ahead: Collection[Entry], ledger: Ledger
) -> Decision | None:
    """The first of ``others`` that fits into what is left when ``first`` has got its room."""
    left = ledger.free(first.model) + ledger.returning + sum(entry.settled for entry in ahead) - first.total
    why = f"{first.model} has no use for that memory"
    for need in others:
        missing = need.total - ledger.free(need.model)
        if need.total > left and not need.pinned:  # whose own memory no other has a use for
            continue
        if missing <= 0:
            return Start(need.model, need.least_kv, why)
        if leases := cuts(ledger.entries, missing - ledger.returning):
            return Shrink(leases, need.model, why)
    return None
