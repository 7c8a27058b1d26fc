"""Why a Submit is refused, if it is: decides, and changes nothing but whether the broker is closed to all."""

from collections.abc import Collection
from dataclasses import dataclass

from broker.memory.decisions import Never
from broker.models.load_failures import FailedLoad, LoadFailures
from broker.requests.key_limits import KeyLimits
from broker.requests.quarantine import Quarantine
from broker.requests.scheduler import Queued, Scheduler
from broker.workers.registry import Registry
from shared.errors import (
    BrokerLost,
    Draining,
    ModelNotFound,
    ModelUnavailable,
    QueueFull,
    RequestRefused,
    ServingError,
    WorkerLost,
)
from shared.kinds import asked_of, wrong_kind
from shared.protocol import SubmitHeader

MAX_LOSSES = 3  # of workers, over a request that gains no token between them
_DRAINING_RETRY = 10  # seconds


@dataclass
class Admission:
    models: Collection[str]
    scheduler: Scheduler
    registry: Registry
    failures: LoadFailures
    quarantine: Quarantine
    keys: KeyLimits
    closed: bool = False  # for good: the broker stops

    def objection(self, queued: Queued, now: float) -> ServingError | None:
        submit = queued.submit
        if self.closed:
            return draining()
        if submit.model not in self.models:
            return ModelNotFound(submit.model, self.models)
        if refusal := self._wrong_kind(submit):
            return refusal
        if limit := self._key_limit(submit, now):
            return limit
        if submit.losses >= MAX_LOSSES:
            return WorkerLost(f"{MAX_LOSSES} workers were lost over this request, one after the other.")
        if not queued.resumes and self.quarantine.is_quarantined(submit.fingerprint, now):
            return RequestRefused("This request has crashed the engine a short while ago.")
        failure = self.failures.refusing(submit.model, now)
        if failure and not self.registry.starting(submit.model):
            return unavailable(submit.model, failure, now)
        if not queued.resumes and not self.scheduler.has_room(queued):
            return self._queue_full(queued, now)
        return None

    def _key_limit(self, submit: SubmitHeader, now: float) -> ServingError | None:
        if submit.key is None:
            return None
        return self.keys.objection(submit, now, self.scheduler.retry_after(submit, self.registry, now))

    def _wrong_kind(self, submit: SubmitHeader) -> ServingError | None:
        """As far as it is known; of a model that was never loaded its worker knows it first."""
        details = self.registry.details.get(submit.model)
        if details is None or details.capabilities is None:
            return None
        return wrong_kind(submit.model, details.capabilities.kind, asked_of(submit.prompt, submit.max_tokens))

    def _queue_full(self, queued: Queued, now: float) -> QueueFull:
        caller, waiting = queued.asker.caller, self.scheduler.of_model(queued.submit.model)
        own = sum(other.asker.caller == caller for other in waiting)
        return QueueFull(
            f"Too many requests wait already: {len(waiting)} for {queued.submit.model!r}, {own} of them yours, "
            f"{len(self.scheduler)} in all.",
            retry_after=self.scheduler.retry_after(queued.submit, self.registry, now),
        )


def draining() -> Draining:
    return Draining("The server is shutting down.", retry_after=_DRAINING_RETRY)


def outdated_api() -> BrokerLost:
    return BrokerLost("The api process is older than its broker: restart it.")


def unaffordable(never: Never) -> ModelUnavailable:
    """With the figures, and what to set."""
    return ModelUnavailable(
        f"The model {never.model!r} cannot be loaded: {never}. MLX_SERVER_MAX_CACHE_SIZE_GB and the memory of this "
        "machine set the budget, and context_length of the model in mlx-server.toml what it needs for keys and values."
    )


def cancelled_download(model: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"The download of {model!r} was cancelled. What has arrived is kept; another request goes on with it."
    )


def unavailable(model: str, failure: FailedLoad, now: float) -> ModelUnavailable:
    return ModelUnavailable(
        f"The model {model!r} cannot be loaded: {failure.reason}.", retry_after=failure.retry_after(now)
    )
