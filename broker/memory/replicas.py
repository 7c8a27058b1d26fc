"""How many workers a loaded model has, between the bounds that its operator has set. Pure.

Rule 1: it gets its least number, and one more when its requests have waited in queues for ``GROW_AFTER`` seconds, but
    none while one of them loads, nor within that time of the last one's being ready.
Rule 2: another worker starts only in memory that is free or leased and unused: nothing is evicted for it, no kept
    prompt gives way, and models that wait for memory come first.
Rule 3: of several workers of a model all but one are replicas, which are evicted before any model's last worker.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from broker.memory.decisions import Decision, Shrink, Start, gb
from broker.memory.eviction import cuts
from broker.memory.ledger import Entry, Ledger, Need
from broker.models.load_failures import LoadFailures
from broker.requests.scheduler import Scheduler
from broker.rules import MemoryRules
from broker.workers.lifecycle import STARTING, State
from broker.workers.registry import Registry, Worker
from shared.model_table import Replicas

GROW_AFTER = 2.0  # seconds in queue
SHRINK_AFTER = 60.0  # seconds without a request, unless the model's ttl is less

ONE = Replicas()


@dataclass(frozen=True, slots=True)
class More:
    """A loaded model that is to have another worker."""

    need: Need
    why: str


class Growth:
    def __init__(self, registry: Registry, scheduler: Scheduler) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self.failures = LoadFailures()  # of workers beside others, whose model goes on

    def wanted(self, rules: MemoryRules, now: float) -> dict[str, str]:
        """Models that are to have another worker, the one that has waited longest first, and why."""
        waited = {model: self.waited(model, now) for model in rules.replicas}
        found = {
            model: self._why(model, bounds, waited[model], now)
            for model, bounds in rules.replicas.items()
            if bounds.most > 1 and self.failures.may_start(model, now)
        }
        return {
            model: why for model in sorted(found, key=lambda model: -waited[model]) if (why := found[model])
        }

    def waited(self, model: str, now: float) -> float:
        """Seconds that the oldest request waits in the broker's queue; else in that of each of its workers."""
        if queued := self._scheduler.of_model(model):
            return now - min(one.since for one in queued)
        return min((worker.waited for worker in self._registry.ready(model)), default=0.0)

    def _why(self, model: str, bounds: Replicas, waited: float, now: float) -> str:
        workers, ready = serving(self._registry, model), self._registry.ready(model)
        if not ready or len(workers) >= bounds.most or self._registry.starting(model):
            return ""
        if len(workers) < bounds.least:
            return f"it has {len(workers)} of {bounds} workers"
        settled = now - max(worker.since for worker in ready) >= GROW_AFTER
        if waited < GROW_AFTER or not settled:
            return ""
        return f"its requests wait for {waited:.1f} s and it has {len(workers)} of {bounds} workers"


def serving(registry: Registry, model: str) -> list[Worker]:
    """Its workers that serve or will."""
    return [worker for worker in registry.of_model(model) if worker.state in (*STARTING, State.READY)]


def surplus(registry: Registry, model: str, bounds: Replicas) -> list[str]:
    """Workers of ours beyond the most, those that have least to do first."""
    ready = registry.ready(model)
    ours = sorted((worker for worker in reversed(ready) if worker.spawned), key=lambda worker: worker.load)
    return [worker.id for worker in ours[: max(0, len(ready) - bounds.most)]]


def with_replicas(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The one that is no replica is the one whose end would cost most: an operator's, else the busiest."""
    last: dict[str, Entry] = {}
    for entry in entries:
        before = last.get(entry.need.model)
        if entry.state is State.READY and (before is None or _cost(entry) > _cost(before)):
            last[entry.need.model] = entry
    return tuple(
        entry if last.get(entry.need.model, entry) is entry else replace(entry, replica=True)
        for entry in entries
    )


def another(wanted: Iterable[More], ledger: Ledger) -> Decision | None:
    """Starts the first for which there is memory that nothing uses, or has leases cut for it."""
    for more in wanted:
        need, free = more.need, ledger.free(more.need.model)
        if need.total <= free:
            why = f"{more.why}, it needs {gb(need.total)}, {gb(free)} are free"
            return Start(need.model, need.least_kv, why)
        missing = need.total - free - ledger.returning
        if missing <= 0:
            return None
        if leases := cuts(ledger.entries, missing, unused_only=True):
            return Shrink(leases, need.model, more.why)
    return None


def _cost(entry: Entry) -> tuple[bool, bool, int]:
    return entry.static, not entry.closed, entry.running
