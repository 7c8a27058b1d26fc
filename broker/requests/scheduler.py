"""Which request runs next and which model is loaded next: owns the queues, reads the registry, changes nothing else.

Rule 1: one queue per model, in which callers take turns and high priority goes first, see `priority_queue`; requests
    that resume go before requests that begin.
Rule 2: a request that resumes is not refused for lack of room.
Rule 3: no caller fills a worker or a queue: places stay free for other callers, see `caller_share`.
Rule 4: a suspect goes to a worker that runs nothing but cleared requests, and nothing joins it during its probation. It
holds its queue up.
Rule 5: a request's age counts only while something could serve it, so not while its model loads or is fetched.
Rule 6: a refused request is told to come back when the queue would be through, at the pace at which runs ended lately,
    behind what is left of its model's load.
Rule 7: of several workers that have room, the one that has read most of the prompt gets it, see `affinity`.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from zlib import crc32

from broker.requests.affinity import pick
from broker.requests.caller_share import may_hold_more
from broker.requests.priority_queue import PriorityQueue
from broker.workers.registry import Registry, Worker
from shared.callers import Asker, asker_of
from shared.fair_queue import FairQueue
from shared.key_terms import Priority
from shared.protocol import SubmitHeader

_AGEINGS = 8  # in ``queue_age``: low priority has its turn long before its time is up
_WITHOUT_MEMORY = 5  # times as long may a request wait for a model that waits for memory
_WEIGHT = 0.1  # of the latest run in the moving average of durations


@dataclass(frozen=True)
class Limits:
    max_in_flight: int = 256
    queue_per_model: int = 256
    queue_total: int = 512
    queue_age: float = 120.0  # seconds


@dataclass(slots=True, eq=False)
class Queued:
    """A Submit in the broker, which ``came`` then. ``since``: when its age began to count."""

    api: str
    submit: SubmitHeader
    body: bytes
    since: float
    suspect: bool = False
    came: float = field(init=False)

    def __post_init__(self) -> None:
        self.came = self.since

    @property
    def resumes(self) -> bool:
        return self.submit.attempt > 1

    @property
    def priority(self) -> Priority:
        return self.submit.key.priority if self.submit.key else "normal"

    @property
    def asker(self) -> Asker:
        return asker_of(self.submit.caller, self.submit.group, self.submit.request_id)


@dataclass(slots=True)
class _Queue:
    """Of one model."""

    fresh: PriorityQueue[Queued]
    resumed: FairQueue[Queued] = field(default_factory=FairQueue)

    def __iter__(self) -> Iterator[Queued]:
        return chain(self.resumed, self.fresh)

    def part_of(self, queued: Queued) -> FairQueue[Queued] | PriorityQueue[Queued]:
        return self.resumed if queued.resumes else self.fresh

    def heads(self) -> Iterator[Queued]:
        return chain(self.resumed.heads(), self.fresh.heads())


class Scheduler:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.concurrency: Mapping[str, int] = {}  # by model, where its workers get fewer requests than others
        self._queues: dict[str, _Queue] = {}  # by model, none of them empty
        self._loads: dict[str, float] = {}  # seconds that the last load of each model took
        self._durations: dict[str, float] = {}  # seconds, by model: moving average of finished runs

    def __iter__(self) -> Iterator[Queued]:
        return chain.from_iterable(self._queues.values())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return bool(self._queues)

    def has_waiting(self, model: str) -> bool:
        return model in self._queues

    def of_model(self, model: str) -> list[Queued]:
        return list(self._queues.get(model, ()))

    def positions(self) -> Iterator[tuple[str, list[Queued]]]:
        """By model, all that wait in the order in which they will run if nothing else comes."""
        for model, queue in self._queues.items():
            yield model, [*queue.resumed.in_order(), *queue.fresh.in_order()]

    def note_load(self, model: str, seconds: float) -> None:
        self._loads[model] = seconds

    def find(self, request_id: str) -> Queued | None:
        return next((queued for queued in self if queued.submit.request_id == request_id), None)

    def has_room(self, queued: Queued) -> bool:
        """For a request that begins."""
        model, caller = queued.submit.model, queued.asker.caller
        places = (
            (self.of_model(model), self.limits.queue_per_model),
            (list(self), self.limits.queue_total),
        )
        return all(
            may_hold_more(sum(other.asker.caller == caller for other in taken), size - len(taken), size)
            for taken, size in places
        )

    def note_duration(self, model: str, seconds: float) -> None:
        """Of a run that ended in good order."""
        before = self._durations.get(model, seconds)
        self._durations[model] = before + _WEIGHT * (seconds - before)

    def retry_after(self, refused: SubmitHeader, registry: Registry, now: float) -> int:
        """Whole seconds, 1 to 60; spread out, so that requests refused together do not come back together."""
        model = refused.model
        waiting = self.of_model(model)
        slots = self._places(model) * max(1, len(registry.ready(model)))
        ahead = (len(waiting) + 1) * self._durations.get(model, 0.0) / slots
        oldest = min((queued.since for queued in waiting), default=now)
        # A queue that has slowed down shows in its oldest request.
        seconds = math.ceil(max(ahead + self._left_of_load(model, registry, now), now - oldest))
        spread = crc32(refused.request_id.encode()) % (seconds // 4 + 2)
        return max(1, min(60, seconds + spread))

    def _left_of_load(self, model: str, registry: Registry, now: float) -> float:
        """Seconds, as long as its last load took; none of a model that is ready or has never been loaded."""
        if registry.ready(model):
            return 0.0
        begun = min((worker.added for worker in registry.of_model(model)), default=now)
        return max(0.0, self._loads.get(model, 0.0) - (now - begun))

    def add(self, queued: Queued) -> None:
        model = queued.submit.model
        if model not in self._queues:
            self._queues[model] = _Queue(PriorityQueue(self.limits.queue_age / _AGEINGS))
        self._queues[model].part_of(queued).put(queued)

    def withdraw(self, chosen: Callable[[Queued], bool]) -> list[Queued]:
        """Removes and returns them."""
        out = [queued for queued in self if chosen(queued)]
        for queued in out:
            self._leave(queued, as_turn=False)
        return out

    def take(self, request_id: str) -> Queued | None:
        """Removes and returns it."""
        if queued := self.find(request_id):
            self._leave(queued, as_turn=False)
        return queued

    def expire(self, registry: Registry, now: float, coming: Collection[str] = ()) -> list[Queued]:
        """Removes and returns those that have waited longer than ``patience`` for a model that is not loading.

        ``coming``: models that are fetched or have to be.
        """
        due = {
            model: now - self.patience(model, registry)
            for model in self._queues
            if model not in coming and not registry.starting(model)
        }
        return self.withdraw(lambda queued: queued.since < due.get(queued.submit.model, queued.since))

    def patience(self, model: str, registry: Registry) -> float:
        """Seconds; more where a model waits for memory, which it gets when the others have had their turns."""
        return self.limits.queue_age * (1 if registry.ready(model) else _WITHOUT_MEMORY)

    def restart_ages(self, model: str, now: float) -> None:
        for queued in self.of_model(model):
            queued.since = now

    def next_dispatch(self, registry: Registry) -> tuple[Queued, Worker] | None:
        """The next request that a worker has room for, removed from its queue."""
        for model, queue in self._queues.items():
            if found := self._match(queue, registry.ready(model)):
                self._leave(found[0], as_turn=True)
                return found
        return None

    def arrivals(self) -> dict[str, tuple[float, ...]]:
        """By model that requests wait for: since when each of them waits, the oldest first."""
        return {
            model: tuple(sorted(queued.since for queued in self.of_model(model))) for model in self._queues
        }

    def _match(self, queue: _Queue, workers: list[Worker]) -> tuple[Queued, Worker] | None:
        size = max((self._places(worker.model) for worker in workers), default=0)
        open_to_any = [w for w in workers if not (w.closed or w.on_probation) and w.load < size]
        if not open_to_any:
            return None
        held = {worker.id: Counter(run.caller for run in worker.in_flight.values()) for worker in open_to_any}
        for queued in queue.heads():
            fit = [worker for worker in open_to_any if self._fits(queued, worker, held[worker.id])]
            if fit:
                return queued, pick(queued.submit.path, fit)
            if queued.suspect:
                return None
        return None

    def _fits(self, queued: Queued, worker: Worker, held: Counter[str]) -> bool:
        size = self._places(worker.model)
        if not may_hold_more(held[queued.asker.caller], size - worker.load, size):
            return False
        return not queued.suspect or all(run.cleared for run in worker.in_flight.values())

    def _places(self, model: str) -> int:
        """Of each worker."""
        return self.concurrency.get(model, self.limits.max_in_flight)

    def _leave(self, queued: Queued, *, as_turn: bool) -> None:
        model = queued.submit.model
        queue = self._queues[model]
        part = queue.part_of(queued)
        (part.take if as_turn else part.remove)(queued)
        if not queue.resumed and not queue.fresh:
            del self._queues[model]
