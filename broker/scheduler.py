"""What should be next: owns the queues, reads the registry, acts on nothing.

Rule 1: one queue per model; who resumes goes before who begins, each kind in order of arrival.
Rule 2: what was accepted once is not refused for lack of room when it comes back.
Rule 3: a suspect goes where only what is proven runs; nothing joins it during its trial. It holds its queue up.
Rule 4: a request grows older only while something could serve it; while its model loads it does not.
Rule 5: who is refused is told to come back when, as fast as runs have ended of late, the queue would be through.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

from broker.load_failures import Loads
from broker.registry import Registry, Worker
from shared.protocol import SubmitHeader

_WEIGHT = 0.1  # of the latest run among those of late


@dataclass(frozen=True)
class Limits:
    max_in_flight: int = 256
    queue_per_model: int = 64
    queue_total: int = 512
    queue_age: float = 120.0


@dataclass(slots=True, eq=False)
class Waiting:
    api: str
    submit: SubmitHeader
    body: bytes
    since: float
    suspect: bool = False

    @property
    def resumes(self) -> bool:
        return self.submit.attempt > 1


class Scheduler:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._queues: dict[str, list[Waiting]] = {}  # never an empty one
        self._lasted: dict[str, float] = {}  # seconds, by model: how long runs took of late

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for queue in self._queues.values() for waiting in queue)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def queued(self, model: str) -> int:
        return len(self._queues.get(model, ()))

    def find(self, request_id: str) -> Waiting | None:
        return next((waiting for waiting in self if waiting.submit.request_id == request_id), None)

    def has_room(self, model: str) -> bool:
        return self.queued(model) < self.limits.queue_per_model and len(self) < self.limits.queue_total

    def note_end(self, model: str, lasted: float) -> None:
        """A run has ended in good order."""
        before = self._lasted.get(model, lasted)
        self._lasted[model] = before + _WEIGHT * (lasted - before)

    def retry_after(self, refused: SubmitHeader, registry: Registry, now: float) -> int:
        """Whole seconds, 1 to 60. Spread out, so that those who are refused together do not come back together."""
        model = refused.model
        slots = self.limits.max_in_flight * max(1, len(registry.ready(model)))
        ahead = (self.queued(model) + 1) * self._lasted.get(model, 0.0) / slots
        oldest = min((waiting.since for waiting in self._queues.get(model, ())), default=now)
        seconds = math.ceil(max(ahead, now - oldest))  # the next in line knows when it has become slower
        spread = crc32(refused.request_id.encode()) % (seconds // 4 + 2)
        return max(1, min(60, seconds + spread))

    def admit(self, waiting: Waiting) -> None:
        queue = self._queues.setdefault(waiting.submit.model, [])
        position = len(queue)
        if waiting.resumes:
            position = next((at for at, other in enumerate(queue) if not other.resumes), position)
        queue.insert(position, waiting)

    def withdraw(self, chosen: Callable[[Waiting], bool]) -> list[Waiting]:
        out = [waiting for waiting in self if chosen(waiting)]
        for waiting in out:
            self._take(waiting)
        return out

    def take(self, request_id: str) -> Waiting | None:
        if waiting := self.find(request_id):
            self._take(waiting)
        return waiting

    def expire(self, registry: Registry, now: float) -> list[Waiting]:
        """Removes and returns those that have waited too long; of a loading model, nobody has."""
        due = now - self.limits.queue_age
        models = {model for model in self._queues if not registry.coming(model)}
        return self.withdraw(lambda waiting: waiting.submit.model in models and waiting.since < due)

    def restart_clocks(self, model: str, now: float) -> None:
        for waiting in self._queues.get(model, ()):
            waiting.since = now

    def next_dispatch(self, registry: Registry) -> tuple[Waiting, Worker] | None:
        """The first request that a worker has room for, removed from its queue."""
        for model, queue in self._queues.items():
            waiting = queue[0]
            fit = [worker for worker in registry.ready(model) if self._may_take(worker, waiting)]
            if worker := min(fit, key=lambda worker: worker.load, default=None):
                self._take(waiting)
                return waiting, worker
        return None

    def _may_take(self, worker: Worker, waiting: Waiting) -> bool:
        if worker.trial or worker.load >= self.limits.max_in_flight:
            return False
        return not waiting.suspect or all(run.proven for run in worker.in_flight.values())

    def next_to_load(self, registry: Registry, loads: Loads, now: float) -> str | None:
        """A model that is waited for and has no process at all; one that is ending still holds its memory."""
        return next(
            (m for m in self._queues if not registry.of_model(m) and loads.may_start(m, now)),
            None,
        )

    def _take(self, waiting: Waiting) -> None:
        queue = self._queues[waiting.submit.model]
        queue.remove(waiting)
        if not queue:
            del self._queues[waiting.submit.model]
