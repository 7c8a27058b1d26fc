"""What the broker says of its models and workers, in words an operator can read."""

from broker.lifecycle import State
from broker.load_failures import Loads
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
        context_length=worker.facts.context_length if worker.facts else None,
        engine=worker.engine,
    )


def of_model(model: str, registry: Registry, scheduler: Scheduler, loads: Loads) -> ModelStatus:
    ready = registry.ready(model)
    failure = loads.failure(model)
    facts = registry.facts.get(model)
    reason = None
    if ready:
        state = "hot"
    elif registry.coming(model):
        state = "loading"
    elif failure:
        state, reason = "failed", failure.reason
    else:
        state = "loadable"
    return ModelStatus(
        id=model,
        state=state,
        queued=scheduler.queued(model),
        reason=reason,
        context_length=facts.context_length if facts else None,
        capabilities=facts.capabilities if facts else None,
    )
