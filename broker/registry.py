"""Who there is: workers and apis by name, what each of them does and when it was last heard."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.lifecycle import Signal, State, advance
from shared.protocol import Capabilities, Heartbeat, RequestShape

COMING = frozenset({State.SPAWNED, State.LOADING})
SERVING = frozenset({State.READY, State.DRAINING})


@dataclass(frozen=True, slots=True)
class Running:
    """``proven``: once a suspect, it has passed its trial here."""

    api: str
    shape: RequestShape
    since: float
    fingerprint: bytes = b""  # of a suspect
    proven: bool = False

    @property
    def attempt(self) -> int:
        return self.shape.attempt


@dataclass(frozen=True, slots=True)
class Kept:
    """A request that a worker can go on with though nobody asks it to: one that ended, or of an earlier broker's."""

    attempt: int
    until: float
    ended: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What a worker has learnt of its model."""

    context_length: int
    capabilities: Capabilities | None


@dataclass(slots=True)
class Worker:
    """``heard`` is renewed by any word, ``progress`` by a load that got further.

    ``returning``: an earlier broker had it ready, and it has not registered here yet.
    """

    id: str
    model: str
    spawned: bool
    since: float  # when it entered its present state
    heard: float
    progress: float
    state: State = State.SPAWNED
    pid: int = 0
    phase: str = ""
    done: int = 0
    total: int = 0
    facts: Facts | None = None  # once it is ready
    engine: dict[str, float | int | str] = field(default_factory=dict)
    in_flight: dict[str, Running] = field(default_factory=dict)  # by request id
    kept: dict[str, Kept] = field(default_factory=dict)  # none of them in flight
    returning: bool = False
    trial: str | None = None  # the suspect among what is in flight
    step: int = 0
    active: int = 0
    moved: float = 0.0  # when the engine last made a step, or got something to do
    slowest: float = 0.0
    memory: int = 0

    @property
    def load(self) -> int:
        return len(self.in_flight) + sum(not kept.ended for kept in self.kept.values())

    def receive(self, signal: Signal, now: float) -> None:
        self.state = advance(self.state, signal)
        self.since = now

    def drop(self, request_id: str) -> Running | None:
        if self.trial == request_id:
            self.trial = None
        return self.in_flight.pop(request_id, None)

    def beat(self, said: Heartbeat, now: float) -> None:
        stepping = (
            said.active - said.preparing
        )  # a preparation has a deadline of its own, which the worker keeps
        moves = said.step != self.step
        if moves and self.active:
            self.slowest = max(self.slowest, now - self.moved)
        if moves or not self.active or not stepping:
            self.moved = now
        self.step, self.active = said.step, stepping
        self.engine, self.memory = said.engine, said.memory

    def stalled(self, limit: float, now: float) -> bool:
        """Busy, and for ``limit`` seconds and five of its slowest steps without one."""
        return self.active > 0 and now - self.moved > max(limit, 5 * self.slowest)

    def loads(self, phase: str, done: int, total: int, now: float) -> None:
        if self.state is State.SPAWNED:
            self.receive(Signal.LOADING, now)
            self.progress = now
        if (phase, done) != (self.phase, self.done):
            self.progress = now
        self.phase, self.done, self.total = phase, done, total


@dataclass(slots=True)
class Api:
    """``epoch`` is what its Pongs say."""

    heard: float
    epoch: str


class Registry:
    def __init__(self) -> None:
        self.apis: dict[str, Api] = {}
        self.given_up: deque[str] = deque(maxlen=1000)  # workers that are not our children and may wake up
        self.facts: dict[str, Facts] = {}  # by model, as last told
        self._workers: dict[str, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def add(self, id: str, model: str, now: float, *, spawned: bool) -> Worker:
        worker = Worker(id, model, spawned, since=now, heard=now, progress=now)
        self._workers[id] = worker
        return worker

    def get(self, worker_id: str) -> Worker | None:
        return self._workers.get(worker_id)

    def remove(self, worker: Worker) -> None:
        del self._workers[worker.id]

    def of_model(self, model: str) -> list[Worker]:
        return [worker for worker in self if worker.model == model]

    def ready(self, model: str) -> list[Worker]:
        return [worker for worker in self if worker.model == model and worker.state is State.READY]

    def coming(self, model: str) -> bool:
        return any(worker.model == model and worker.state in COMING for worker in self)

    @property
    def busy(self) -> int:
        """Workers that have something to do."""
        return sum(bool(worker.in_flight) for worker in self)

    def keepers(self, request_id: str) -> list[Worker]:
        """Who could go on with it, best first."""
        found = [worker for worker in self if worker.state in SERVING and request_id in worker.kept]
        return sorted(found, key=lambda worker: -worker.kept[request_id].attempt)

    def runner(self, request_id: str) -> Worker | None:
        return next((worker for worker in self if request_id in worker.in_flight), None)
