"""Workers that have grown while they do nothing: each is replaced by a new one of its model, once it is at rest.

Rule 1: grown is what it takes beside keys and values beyond what it took when its model was loaded, or what that is
    known to need.
Rule 2: only an idle worker is replaced, after it was too large for a while. The new one is started first where there is
    memory for both; a request that comes meanwhile is answered.
Rule 3: what it grew to is not learned as its model's need. A model whose new workers grow as well gets one in ten
    minutes.
"""

from collections.abc import Iterator

from broker.events import Action
from broker.memory.accounts import Memory
from broker.memory.decisions import gb
from broker.models.orders import Orders
from broker.workers.lifecycle import State
from broker.workers.registry import Registry, Worker

AT_REST = 10.0  # seconds that it is too large without a request
PAUSE = 600.0  # seconds between two replacements of one model


class Recycling:
    def __init__(self, registry: Registry, memory: Memory, orders: Orders) -> None:
        self._registry = registry
        self._memory = memory
        self._orders = orders
        self._bases: dict[str, int] = {}  # by worker: bytes when its model was loaded
        self._grown: dict[str, float] = {}  # by worker, since when it is too large and at rest
        self._replaced: dict[str, float] = {}  # by model, when a worker of it last was

    def look(self, now: float) -> Iterator[Action]:
        """At every Tick."""
        for worker in list(self._registry):
            if worker.state is not State.READY or not worker.use.footprint or not worker.spawned:
                continue
            base = worker.use.footprint - worker.use.kv
            first = self._bases.setdefault(worker.id, max(base, self._memory.needs.known_base(worker.model)))
            bound = self._memory.rules.recycle
            if not bound or base - first <= bound or not self._is_at_rest(worker):
                self._grown.pop(worker.id, None)
            elif now - self._grown.setdefault(worker.id, now) >= AT_REST and self._may_replace(worker, now):
                yield from self._replace(worker, first, base, now)
        self._forget_the_gone()

    def _is_at_rest(self, worker: Worker) -> bool:
        return not (worker.load or worker.closed or self._memory.is_wanted(worker.model))

    def _may_replace(self, worker: Worker, now: float) -> bool:
        paused = now < self._replaced.get(worker.model, now - PAUSE) + PAUSE
        return not paused and not self._registry.starting(worker.model)

    def _replace(self, worker: Worker, first: int, base: int, now: float) -> Iterator[Action]:
        self._replaced[worker.model] = now
        self._memory.unlearn(worker, first)
        grown = f"at rest it takes {gb(base)} beside keys and values, and {gb(first)} when it was loaded"
        self._memory.note(f"recycle {worker.id}: {grown}", now)
        yield from self._orders.replace(worker, now)

    def _forget_the_gone(self) -> None:
        for known in (self._bases, self._grown):
            for worker in [one for one in known if self._registry.get(one) is None]:
                del known[worker]
