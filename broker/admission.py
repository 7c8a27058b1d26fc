"""Why a request is not let in, if it is not. Decides, and changes nothing."""

from collections.abc import Collection
from dataclasses import dataclass

from broker.load_failures import Loads
from broker.quarantine import Suspects
from broker.refusals import unavailable
from broker.registry import Registry
from broker.scheduler import Scheduler, Waiting
from shared.errors import ModelNotFound, QueueFull, RequestRefused, ServingError, WorkerLost

MAX_LOSSES = 3  # of workers, over a request that gains no token between them


@dataclass(frozen=True)
class Admission:
    models: Collection[str]
    scheduler: Scheduler
    registry: Registry
    loads: Loads
    suspects: Suspects

    def objection(self, waiting: Waiting, now: float) -> ServingError | None:
        model = waiting.submit.model
        if model not in self.models:
            return ModelNotFound(model, self.models)
        if waiting.submit.losses >= MAX_LOSSES:
            return WorkerLost(f"{MAX_LOSSES} workers were lost over this request, one after the other.")
        if not waiting.resumes and self.suspects.is_convicted(waiting.submit.fingerprint, now):
            return RequestRefused("This request has crashed the engine a short while ago.")
        failure = self.loads.refusing(model, now)
        if failure and not self.registry.coming(model):
            return unavailable(model, failure, now)
        if not waiting.resumes and not self.scheduler.has_room(model):
            return QueueFull(
                f"Too many requests wait already: {self.scheduler.queued(model)} for {model!r}, "
                f"{len(self.scheduler)} in all.",
                retry_after=self.scheduler.retry_after(waiting.submit, self.registry, now),
            )
        return None
