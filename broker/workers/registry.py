"""Workers and apis by name: what each of them does, and when it was last heard."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from broker.workers.kept_prefixes import KeptPrefixes
from broker.workers.lifecycle import SERVING, STARTING, Signal, State, advance
from shared.protocol import Capabilities, Heartbeat, MemoryUse, RequestShape


@dataclass(frozen=True, slots=True)
class Running:
    """A request in flight. ``cleared``: it was a suspect and has passed its probation here.

    ``begun``: its api has a token of it. ``hosted``: another server answers it, which is asked twice at most.
    """

    api: str
    caller: str
    shape: RequestShape
    since: float
    fingerprint: bytes = b""  # of a suspect
    cleared: bool = False
    begun: bool = False
    hosted: bool = False

    @property
    def attempt(self) -> int:
        return self.shape.attempt


@dataclass(frozen=True, slots=True)
class Retained:
    """A request that a worker can go on with and no api has claimed: it has ended, or an earlier broker sent it."""

    attempt: int
    until: float
    ended: bool


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """What a worker found out by loading its model."""

    context_length: int
    capabilities: Capabilities | None


@dataclass(slots=True)
class Worker:
    """``returning``: an earlier broker had it ready, and it has not registered here yet."""

    id: str
    model: str
    spawned: bool
    since: float  # when it entered its present state
    last_heard: float
    last_progress: float  # of its load
    state: State = State.SPAWNED
    pid: int = 0
    phase: str = ""
    done: int = 0
    total: int = 0
    details: ModelDetails | None = None  # once it is ready
    engine: dict[str, float | int | str] = field(default_factory=dict)
    in_flight: dict[str, Running] = field(default_factory=dict)  # by request id
    retained: dict[str, Retained] = field(default_factory=dict)  # none of them in flight
    kept: KeptPrefixes = field(default_factory=KeptPrefixes)
    moved: float = -inf  # when requests that waited here last went to another worker
    returning: bool = False
    on_probation: str | None = None  # the id of a suspect in flight
    step: int = 0
    active: int = 0
    last_step: float = 0.0  # when the engine last made a step, or got something to do
    slowest_step: float = 0.0  # seconds
    use: MemoryUse = field(default_factory=MemoryUse)
    served: int = 0  # requests that have ended here
    closed: bool = False  # gets nothing new: it is to make room for another model
    added: float = 0.0  # when its process was started, or first heard
    wanted_at: float = 0.0  # when it last ran a request, or one waited for it
    was_spare: bool = False  # its process was started before it was known for which model
    replaces: tuple[str, ...] = ()  # workers of its model, which leave when it is ready; none afterwards

    @property
    def memory(self) -> int:
        """Bytes of its process."""
        return self.use.footprint

    @property
    def waited(self) -> float:
        """Seconds that the oldest prompt has waited for the engine to begin with it, as last told."""
        told = self.engine.get("waited", 0.0)
        return 0.0 if isinstance(told, str) else float(told)

    @property
    def load(self) -> int:
        """Requests that take one of its places."""
        return len(self.in_flight) + sum(not retained.ended for retained in self.retained.values())

    def idle(self, now: float) -> float:
        """Seconds since it last ran a request or one waited for it, or since it came."""
        return 0.0 if self.load else now - max(self.wanted_at, self.since)

    def receive(self, signal: Signal, now: float) -> None:
        self.state = advance(self.state, signal)
        self.since = now
        self.returning = self.returning and self.state in STARTING

    def drop(self, request_id: str) -> Running | None:
        if self.on_probation == request_id:
            self.on_probation = None
        self.served += request_id in self.in_flight
        return self.in_flight.pop(request_id, None)

    def note_heartbeat(self, beat: Heartbeat, now: float) -> None:
        stepping = beat.active - beat.preparing  # the worker keeps a deadline for what it prepares
        moves = beat.step != self.step
        if moves and self.active:
            self.slowest_step = max(self.slowest_step, now - self.last_step)
        if moves or not self.active or not stepping:
            self.last_step = now
        self.step, self.active = beat.step, stepping
        self.engine, self.use = beat.engine, beat.memory

    def is_stalled(self, limit: float, now: float) -> bool:
        """Busy, and without a step for ``limit`` seconds and for five times its slowest step."""
        return self.active > 0 and now - self.last_step > max(limit, 5 * self.slowest_step)

    def note_loading(self, phase: str, done: int, total: int, now: float) -> None:
        if self.state is State.SPAWNED:
            self.receive(Signal.LOADING, now)
            self.last_progress = now
        if (phase, done) != (self.phase, self.done):
            self.last_progress = now
        self.phase, self.done, self.total = phase, done, total


@dataclass(slots=True)
class Api:
    """``epoch`` is what its Pongs say."""

    last_heard: float
    epoch: str


class Registry:
    def __init__(self) -> None:
        self.apis: dict[str, Api] = {}
        self.given_up: deque[str] = deque(maxlen=1000)  # workers that are not our children and may wake up
        self.details: dict[str, ModelDetails] = {}  # by model, as last told
        self._workers: dict[str, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def add(self, id: str, model: str, now: float, *, spawned: bool) -> Worker:
        worker = Worker(id, model, spawned, since=now, last_heard=now, last_progress=now, added=now)
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

    def starting(self, model: str) -> bool:
        return any(worker.model == model and worker.state in STARTING for worker in self)

    def loading(self, model: str) -> Worker | None:
        return next((worker for worker in self.of_model(model) if worker.state is State.LOADING), None)

    @property
    def busy(self) -> int:
        """Workers that have something to do."""
        return sum(bool(worker.in_flight) for worker in self)

    def holders(self, request_id: str) -> list[Worker]:
        """The workers that retain it, the newest attempt first."""
        found = [worker for worker in self if worker.state in SERVING and request_id in worker.retained]
        return sorted(found, key=lambda worker: -worker.retained[request_id].attempt)

    def runner(self, request_id: str) -> Worker | None:
        return next((worker for worker in self if request_id in worker.in_flight), None)
