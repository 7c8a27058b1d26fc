"""The status of models and workers as the broker reports it."""

from broker.lifecycle import State
from broker.load_failures import LoadFailures
from broker.registry import Registry, Worker
from broker.scheduler import Scheduler
from shared.protocol import ModelStatus, WorkerStatus


def of_worker(worker: Worker, now: float) -> WorkerStatus:
    return WorkerStatus(
        id=worker.id,
        model=worker.model,
        pid=worker.pid,
        state=worker.state.value,
        since=now - worker.since,
        in_flight=len(worker.in_flight),
        spawned=worker.spawned,
        phase=worker.phase if worker.state is State.LOADING else "",
        done=worker.done,
        total=worker.total,
        context_length=worker.details.context_length if worker.details else None,
        engine=worker.engine,
    )


def of_model(model: str, registry: Registry, scheduler: Scheduler, failures: LoadFailures) -> ModelStatus:
    ready = registry.ready(model)
    failure = failures.of(model)
    details = registry.details.get(model)
    reason = None
    if ready:
        state = "hot"
    elif registry.starting(model):
        state = "loading"
    elif failure:
        state, reason = "failed", failure.reason
    else:
        state = "loadable"
    return ModelStatus(
        id=model,
        state=state,
        queued=len(scheduler.of_model(model)),
        reason=reason,
        context_length=details.context_length if details else None,
        capabilities=details.capabilities if details else None,
    )
