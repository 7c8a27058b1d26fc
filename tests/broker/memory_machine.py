"""A machine for the ledger to be wrong about: loads, exits and messages take time, and what workers say is of earlier.

At every moment it checks what must hold always, by its own books: the truth, and not what the broker believes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from broker.memory.decisions import Decision, Evict, Grow, Never, Shrink, Start, Wait
from broker.memory.ledger import Entry, Lease, Ledger, Need, Usage
from broker.memory.swaps import Demand, Turns
from broker.workers.lifecycle import State

GB = 10**9
STEP, BEAT, EXIT = 0.5, 1.0, 1.5  # seconds
MIN_STAY, MAX_WAIT = 4.0, 15.0


@dataclass(frozen=True, eq=False)
class Ask:
    """``seconds`` and ``kv``: what its answer takes, in the end; after ``patience`` its client leaves the queue."""

    at: float
    model: str
    seconds: float
    kv: int
    patience: float = inf


@dataclass(frozen=True)
class Report:
    """A heartbeat: all of it of one moment."""

    serial: int
    obeyed: int
    usage: Usage


@dataclass(eq=False)
class Process:
    """``latency``: how long each message travels, in either direction."""

    entry: Entry  # as the broker knows it
    born: float
    latency: float
    serial: int = 0  # of the lease it obeys
    told: int = 0
    kept: int = 0
    answers: dict[Ask, float] = field(default_factory=dict)  # since when
    inbox: list[tuple[float, int, int]] = field(default_factory=list)  # when, serial, bytes
    outbox: list[tuple[float, Report]] = field(default_factory=list)
    ends: float = inf

    @property
    def committed(self) -> int:
        return sum(ask.kv for ask in self.answers)

    @property
    def obeyed(self) -> int:
        """What it may fill with keys and values: running answers are never cut."""
        return max(self.told, self.committed)

    def kv(self, now: float) -> int:
        grown = (min(1.0, (now - since) / ask.seconds) * ask.kv for ask, since in self.answers.items())
        return round(sum(grown)) + self.kept

    def may_use(self, now: float) -> int:
        return self.entry.need.base + max(self.obeyed, self.kv(now))

    def read(self, now: float) -> None:
        while self.inbox and self.inbox[0][0] <= now:
            _, self.serial, self.told = self.inbox.pop(0)
            self.kept = max(0, min(self.kept, self.obeyed - self.committed))

    def beat(self, wanted: int, now: float) -> None:
        kv = self.kv(now)
        used = self.committed + self.kept
        usage = Usage(self.entry.need.base + kv, kv, self.committed, self.kept, used + wanted + GB)
        self.outbox.append((now + self.latency, Report(self.serial, self.obeyed, usage)))


class Machine:
    """The ledger is asked only after something has changed, or at the time it named itself."""

    def __init__(
        self,
        budget: int,
        needs: Iterable[Need],
        asks: Iterable[Ask],
        crashes: Iterable[float] = (),
        latencies: Iterable[float] = (0.0,),
    ) -> None:
        self.budget = budget
        self.needs = {need.model: need for need in needs}
        self.coming = sorted(asks, key=lambda ask: ask.at)
        self.total = len(self.coming)
        self.crashes = sorted(crashes)
        self.latencies = list(latencies)
        self.turns = Turns(MAX_WAIT)
        self.queues: dict[str, list[Ask]] = {model: [] for model in self.needs}
        self.processes: dict[str, Process] = {}
        self.unserved: dict[str, float] = {}  # models that are waited for and that nobody serves, since when
        self.started: dict[str, float] = {}
        self.answered: list[Ask] = []
        self.refused: list[Ask] = []
        self.left: list[Ask] = []
        self.decisions: list[Decision] = []
        self.now, self.wake, self.changed, self.longest_wait = 0.0, inf, True, 0.0
        self.spawn(Need("static", GB, GB, 1.0), static=True)

    @property
    def open(self) -> bool:
        busy = any(process.answers for process in self.processes.values())
        return bool(self.coming or any(self.queues.values()) or busy)

    def play(self, longest: float) -> None:
        while self.open:
            self.step()
            assert self.longest_wait <= longest, f"starved for {self.longest_wait} s"
        assert len({*self.answered, *self.refused, *self.left}) == self.total, "a request is lost"
        assert len(self.answered) + len(self.refused) + len(self.left) == self.total, "answered twice"

    def step(self) -> None:
        self.now += STEP
        self._arrive()
        while self.crashes and self.crashes[0] <= self.now:
            self._crash(self.crashes.pop(0))
        for process in list(self.processes.values()):
            self._live(process)
        self._dispatch()
        if self.changed or self.now >= self.wake:
            self.changed = False
            self._act()
        self._check()

    # ---- what happens by itself

    def _arrive(self) -> None:
        while self.coming and self.coming[0].at <= self.now:
            ask = self.coming.pop(0)
            self.queues[ask.model].append(ask)
            self.changed = True
        for queue in self.queues.values():
            for ask in [ask for ask in queue if self.now - ask.at > ask.patience]:
                queue.remove(ask)
                self.left.append(ask)
                self.changed = True

    def _crash(self, at: float) -> None:
        """The one that started last; what it ran comes again, before the others."""
        process = list(self.processes.values())[-1]
        if process.entry.static or process.entry.leaving:
            return
        model = process.entry.need.model
        self.queues[model] = [*process.answers, *self.queues[model]]
        process.answers, process.kept, process.ends = {}, 0, self.now + EXIT
        self.started.pop(model)
        self._know(process, state=State.STOPPING, since=self.now)

    def _live(self, process: Process) -> None:
        entry = process.entry
        process.read(self.now)
        for ask in [ask for ask, since in process.answers.items() if self.now - since >= ask.seconds]:
            del process.answers[ask]
            process.kept = max(0, min(process.kept + ask.kv, process.obeyed - process.committed))
            self.answered.append(ask)
            self._know(process, served=process.entry.served + 1)
        if entry.state is State.LOADING and self.now >= process.born + entry.need.load_seconds:
            self._know(process, state=State.READY, since=self.now)
        elif entry.leaving and self.now >= process.ends:
            del self.processes[entry.worker]
            self.changed = True
        elif entry.state is State.READY and self.now % BEAT == 0:
            process.beat(sum(ask.kv for ask in self.queues.get(entry.need.model, ())), self.now)
        while process.outbox and process.outbox[0][0] <= self.now:
            self._hear(process, process.outbox.pop(0)[1])

    def _hear(self, process: Process, report: Report) -> None:
        lease = process.entry.lease.confirm(report.serial, report.obeyed)
        said = replace(process.entry, lease=lease, usage=report.usage)
        self.changed |= said != process.entry
        process.entry = said

    def _know(self, process: Process, **facts: Any) -> None:
        process.entry = replace(process.entry, **facts)
        self.changed = True

    def _dispatch(self) -> None:
        """No more than the lease holds, as the broker knows it and as it is."""
        for process in self.processes.values():
            entry, queue = process.entry, self.queues.get(process.entry.need.model, [])
            while entry.state is State.READY and entry.worker not in self.turns.closed and queue:
                if process.committed + queue[0].kv > min(entry.lease.size, process.told):
                    break
                process.answers[queue.pop(0)] = self.now
                process.kept = max(0, min(process.kept, process.obeyed - process.committed))

    # ---- what the ledger decides

    @property
    def ledger(self) -> Ledger:
        pinned = tuple(need for need in self.needs.values() if need.pinned)
        return Ledger(self.budget, MIN_STAY, tuple(map(self._facts, self.processes.values())), pinned)

    def _facts(self, process: Process) -> Entry:
        """What the broker knows by itself is of now; only what a worker says is of earlier."""
        entry = process.entry
        return replace(
            entry,
            running=len(process.answers),
            waiting=len(self.queues.get(entry.need.model, ())),
            closed=entry.worker in self.turns.closed,
        )

    def _act(self) -> None:
        for _ in range(30):
            demands = [
                Demand(self.needs[model], tuple(ask.at for ask in queue))
                for model, queue in self.queues.items()
                if queue
            ]
            decision = self.turns.decide(demands, self.ledger, self.now)
            if decision is None:
                self.wake = inf
                return
            self.decisions.append(decision)
            if isinstance(decision, Wait):
                assert decision.until > self.now, "it would be asked again at once"
                self.wake = decision.until
                return
            self._do(decision)
        raise AssertionError("no end of decisions")

    def _do(self, decision: Decision) -> None:
        match decision:
            case Start(model, lease):
                assert self.queues[model], "nobody waits for it"
                assert lease == self.needs[model].least_kv
                self.spawn(self.needs[model])
            case Evict(victims):
                for victim in victims:
                    self._evict(self.processes[victim])
            case Shrink(leases) | Grow(leases):
                for worker, size in leases.items():
                    self._tell(self.processes[worker], size)
            case Never(model):
                fixed = sum(n.total for n in self.needs.values() if n.pinned and n.model != model) + 2 * GB
                assert self.needs[model].total + fixed > self.budget, "refused though it can fit"
                self.refused += self.queues[model]
                self.queues[model] = []

    def spawn(self, need: Need, *, static: bool = False) -> None:
        soonest = self.started.get(need.model, -inf) + need.load_seconds + MIN_STAY
        assert self.now >= soonest, "swapped too often"
        assert not self.ledger.serves(need.model), "started twice"
        self.started[need.model] = self.now
        worker = f"{need.model}#{len(self.decisions)}"
        entry = Entry(worker, need, State.LOADING, self.now, Lease.first(need.least_kv), static=static)
        latency = self.latencies[len(self.decisions) % len(self.latencies)]
        self.processes[worker] = Process(entry, self.now, latency, told=need.least_kv)

    def _evict(self, process: Process) -> None:
        entry = self._facts(process)
        assert entry.state is State.READY
        assert not entry.static
        assert not entry.need.pinned, "a pinned model is evicted"
        assert not entry.running, "a running answer is aborted"
        assert entry.served or not entry.waiting, "loaded for nothing"
        assert self.now - entry.since >= MIN_STAY, "evicted within its stay"
        process.ends = self.now + EXIT
        self._know(process, state=State.DRAINING, since=self.now)

    def _tell(self, process: Process, size: int) -> None:
        lease = process.entry.lease.tell(size)
        process.entry = replace(process.entry, lease=lease)
        process.inbox.append((self.now + process.latency, lease.serial, size))

    # ---- what must hold

    def _check(self) -> None:
        in_use = sum(process.may_use(self.now) for process in self.processes.values())
        assert in_use <= self.budget, f"{in_use - self.budget} bytes over the budget"
        serving = {p.entry.need.model for p in self.processes.values() if not p.entry.leaving}
        for model, queue in self.queues.items():
            if queue and model not in serving:
                self.unserved.setdefault(model, self.now)
                waited = self.now - self.unserved[model]
                self.longest_wait = max(self.longest_wait, waited)
                assert not self.needs[model].pinned or waited <= EXIT, "its reserve was given away"
            else:
                self.unserved.pop(model, None)
