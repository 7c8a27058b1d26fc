"""The ledger of this broker: what its registry and queues say, as entries and demands; and the leases of its workers.

Rule 1: it decides and remembers; `core` does what it says.
Rule 2: a worker is told its first lease before its first request; one that an earlier broker gave goes on. Only a
    worker that has confirmed a lease gets a larger one.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from broker.events import Action, TellWorker
from broker.memory.decisions import Decision, Grow, Never, Shrink, Start, Wait, gb
from broker.memory.ledger import Entry, Lease, Ledger, Usage
from broker.memory.machine_bound import MachineBound
from broker.memory.needs import Needs
from broker.memory.replicas import Growth, More, with_replicas
from broker.memory.spares import Spares
from broker.memory.swaps import Demand, Turns
from broker.models.downloads import Downloads
from broker.models.inspections import Inspections
from broker.models.load_failures import LoadFailures
from broker.requests.scheduler import Scheduler
from broker.rules import UNBOUNDED, MemoryRules
from broker.workers.lifecycle import STARTING, State
from broker.workers.registry import Registry, Worker
from shared import protocol
from shared.protocol import Inspection, MemoryDecision, MemoryStatus, Register

_REMEMBERED = 50  # decisions
_SETTLES = 10.0  # seconds in which a model answers those that it was loaded for, and no spare process imports beside it


@dataclass(frozen=True, slots=True)
class Wish:
    """That a model be loaded without a request. ``yields``: only into memory that is free anyway."""

    since: float
    yields: bool = False


class Memory:
    def __init__(
        self,
        rules: MemoryRules,
        registry: Registry,
        scheduler: Scheduler,
        failures: LoadFailures,
        started: float,
        name_worker: Callable[[str], str] = str,
    ) -> None:
        self.rules = rules
        self._registry = registry
        self._scheduler = scheduler
        self._failures = failures
        self.needs = Needs(rules.budget, rules.said, rules.pinned)
        self.inspections = Inspections(rules.inspects)
        self.downloads = Downloads()
        self._machine = MachineBound()
        self.spares = Spares(rules.spares, name_worker)
        self._turns = Turns(rules.max_wait)
        self.growth = Growth(registry, scheduler)
        self.wishes = {model: Wish(started, yields=True) for model in rules.preload}
        self.nevers: dict[str, Never] = {}  # by model, why its last wish cannot be had
        # The first serial number: larger in each life of a broker since the machine started.
        self._first = int(started * 1000)
        self._leases: dict[str, Lease] = {}
        self._starts: dict[str, float] = {}  # of workers that load
        self._outgrown: set[str] = set()  # workers that are to be replaced for what they have grown by
        self._decisions: deque[tuple[float, str]] = deque(maxlen=_REMEMBERED)
        self._news: list[str] = []
        self._waits = False  # a model, for memory
        self._spares_to_keep: int | None = None  # where a model waits until the others have ended
        self._last = ""  # the last decision without its figures, so that a wait is noted once

    @property
    def budget(self) -> int:
        """Bytes: what the operator gives, or what the machine has while others use it too."""
        return min(self.rules.budget, self._machine.size)

    def hear_machine(self, available: int, now: float) -> None:
        """What workers hold is known only where none of them is coming or going."""
        moving = any(worker.state is not State.READY or not worker.use.footprint for worker in self._registry)
        if moving or not self.rules.lends:
            self._machine.skip()
            return
        before = self.budget
        held = sum(worker.use.footprint for worker in self._registry) + sum(self.spares.sizes.values())
        if self._machine.hear(available, held) and self.budget != before:
            self.needs.configure(self.budget, self.rules.said, self.rules.pinned)
            why = f"{gb(available)} of the machine's memory are available, and workers hold {gb(held)}"
            self.note(f"the budget is {gb(self.budget)}, was {gb(before)}: {why}", now)

    def decide(self, now: float) -> Decision | None:
        """The next thing to do; to be asked again until it is nothing."""
        ledger = self._ledger(now)
        decision = self._turns.decide(self._demands(ledger, now), ledger, now, self._more(now))
        for worker in self._registry:
            worker.closed = worker.id in self._turns.closed
        if isinstance(decision, Grow) and not self.rules.lends:
            return None
        self._spares_to_keep = None
        if isinstance(decision, Start):
            decision = self._unless_spares_hinder(decision, ledger, now)
        self._waits = isinstance(decision, Wait)
        self._note(decision, now)
        return None if isinstance(decision, Wait) else decision

    def _unless_spares_hinder(self, start: Start, ledger: Ledger, now: float) -> Start | Wait:
        """A plan counts no spares, so those that the new worker does not become may have to end first."""
        taken = int(self.rules.takes_a_spare(start.model))
        need = self.needs.of(start.model, now).total
        over = need + self.spares.beside(taken) - ledger.free(start.model)
        if over <= 0:
            return start
        self._spares_to_keep = taken
        return Wait(start.model, f"{gb(over)} are missing until a spare process has ended")

    def look_after_spares(self, now: float) -> Iterator[Action | Shrink]:
        """To be asked once ``decide`` has nothing more."""
        keep = self._spares_to_keep
        yield from self.spares.look(self._ledger(now), now, keep=keep, calm=self._is_calm(now))

    def _is_calm(self, now: float) -> bool:
        """No model is loading or waits for memory, and none begins the answers that it was loaded for."""
        return not self._waits and not any(
            (worker.state in STARTING and not worker.returning)
            or (worker.in_flight and now - worker.since < _SETTLES)
            for worker in self._registry
        )

    def news(self) -> list[str]:
        """Lines for the log about what was decided since it was last asked."""
        news, self._news = self._news, []
        return news if self.rules.lends else []

    def report(self, now: float) -> MemoryStatus:
        ledger = self._ledger(now)
        return MemoryStatus(
            budget=self.budget,
            used=ledger.charged + sum(self.spares.sizes.values()),
            spares=self.spares.sizes,
            leases={entry.worker: entry.lease.size for entry in ledger.entries},
            decisions=[MemoryDecision(age=now - at, line=line) for at, line in self._decisions],
        )

    def _ledger(self, now: float) -> Ledger:
        entries = with_replicas([self._entry(worker, now) for worker in self._registry])
        pinned = self.needs.pinned(now)
        return Ledger(self.budget, self.rules.min_stay, entries, pinned, self.spares.claim)

    def _entry(self, worker: Worker, now: float) -> Entry:
        need = self.needs.of(worker.model, now, worker.total if worker.state is State.LOADING else 0)
        use = worker.use
        keeps_to_leases = worker.use.serial > self._first  # one that does not could never be cut again
        grows = worker.state is State.READY and keeps_to_leases and has_kv(worker)
        wanted = UNBOUNDED if grows else 0
        return Entry(
            worker.id,
            need,
            worker.state,
            worker.since,
            self._leases.get(worker.id) or Lease.first(need.least_kv),
            Usage(use.footprint, use.kv, use.committed, use.kept, wanted),
            running=worker.load,
            waiting=len(self._scheduler.of_model(worker.model)),
            served=worker.served,
            static=not worker.spawned,
            closed=worker.closed,
        )

    def _demands(self, ledger: Ledger, now: float) -> list[Demand]:
        """Of models without any process: one that is ending has to end first."""
        arrivals = self._scheduler.arrivals()
        for model, wish in self.wishes.items():
            if not wish.yields or self.needs.of(model, now).total <= ledger.free(model):
                arrivals[model] = tuple(sorted((wish.since, *arrivals.get(model, ()))))
        return [
            Demand(self.needs.of(model, now), waiting)
            for model, waiting in arrivals.items()
            if self._failures.may_start(model, now)
            and not self._registry.of_model(model)
            and not self.inspections.awaits(model)
            and not self.downloads.holds_back(model)
        ]

    def _more(self, now: float) -> list[More]:
        return [
            More(self.needs.of(model, now), why)
            for model, why in self.growth.wanted(self.rules, now).items()
            if not self.inspections.awaits(model) and not self.downloads.holds_back(model)
        ]

    def next_to_inspect(self, models: Collection[str]) -> str | None:
        return self.inspections.next(models, [*self._scheduler.arrivals(), *self.wishes])

    def note_inspection(self, model: str, found: Inspection | None) -> None:
        self.inspections.finish()
        if found:
            self.inspections.found[model] = found
        if found and found.absent:
            self.downloads.absent.add(model)
        elif found:
            self.downloads.absent.discard(model)
        if found and found.weights:
            self.needs.note_weights(model, found.weights)

    def has_room_for_another(self, model: str, now: float) -> bool:
        """Beside the worker that the model has. Leases that hold nothing are cut as it starts."""
        ledger = self._ledger(now)
        unused = sum(entry.unused for entry in ledger.entries)
        return self.needs.of(model, now).total <= ledger.free(model) + unused

    def is_wanted(self, model: str) -> bool:
        wish = self.wishes.get(model)
        return self._scheduler.has_waiting(model) or (wish is not None and not wish.yields)

    def wish(self, model: str, now: float) -> None:
        self.nevers.pop(model, None)
        self.wishes[model] = Wish(now)

    def refuse(self, never: Never) -> None:
        if self.wishes.pop(never.model, None):
            self.nevers[never.model] = never

    def _note(self, decision: Decision | None, now: float) -> None:
        line = str(decision) if decision else ""
        about = line.partition(":")[0] if isinstance(decision, Wait) else line
        if decision and about != self._last:
            self.note(line, now)
        self._last = about

    def note(self, line: str, now: float) -> None:
        """Among the decisions and in the log."""
        self._decisions.appendleft((now, line))
        self._news.append(line)

    def configure(self, rules: MemoryRules, models: Collection[str]) -> None:
        """What has been learned stays. What is newly to be preloaded is, but for what is ready."""
        fresh = [
            model
            for model in rules.preload
            if model not in self.rules.preload and not self._registry.ready(model)
        ]
        self.rules = rules
        self.needs.configure(self.budget, rules.said, rules.pinned)
        self._turns.max_wait = rules.max_wait
        self.spares.wanted = rules.spares
        self.wishes = {model: wish for model, wish in self.wishes.items() if model in models}
        self.wishes |= {model: Wish(0.0, yields=True) for model in fresh}

    # ---- what happens to workers

    def note_start(self, worker: Worker, lease: int, now: float) -> None:
        self._leases[worker.id] = Lease(lease, lease, self._first)
        self._starts[worker.id] = now

    def first_lease(self, worker: Worker, said: Register, now: float) -> Iterator[Action]:
        self.wishes.pop(worker.model, None)
        self.growth.failures.clear(worker.model)
        weights = said.capabilities.bytes if said.capabilities else 0
        self.needs.note_load(worker.model, said.digest, weights, said.context_bytes)
        if (start := self._starts.pop(worker.id, None)) is not None:
            self.needs.note_load_seconds(worker.model, now - start)
            self._scheduler.note_load(worker.model, now - start)
        if not self.rules.lends:
            return
        if said.lease:
            self._leases[worker.id] = Lease(said.lease, said.lease, self._first)
        yield self.tell(worker.id, said.lease or self.needs.of(worker.model, now).least_kv)

    def tell(self, worker_id: str, size: int) -> Action:
        lease = self._leases.get(worker_id) or Lease(0, 0, self._first)
        self._leases[worker_id] = lease = lease.tell(size)
        return TellWorker(worker_id, protocol.Lease(size=lease.size, serial=lease.serial))

    def note_use(self, worker: Worker) -> None:
        if lease := self._leases.get(worker.id):
            self._leases[worker.id] = lease.confirm(worker.use.serial, worker.use.obeyed)
        if worker.use.footprint and worker.state is State.READY and worker.id not in self._outgrown:
            self.needs.note_base(worker.model, worker.use.footprint - worker.use.kv)

    def unlearn(self, worker: Worker, base: int) -> None:
        """What the worker takes beyond ``base`` is growth, and nothing more is learned from it."""
        self._outgrown.add(worker.id)
        self.needs.unlearn(worker.model, base)

    def forget(self, worker_id: str) -> None:
        self._outgrown.discard(worker_id)
        self._leases.pop(worker_id, None)
        self._starts.pop(worker_id, None)
        self._turns.closed.pop(worker_id, None)


def has_kv(worker: Worker) -> bool:
    """An encoder keeps no keys and values, so it has no use for a lease."""
    can = worker.details.capabilities if worker.details else None
    return can is None or can.kind == "chat"
