"""The status of models and workers as the broker reports it."""

from collections.abc import Collection

from broker.memory.accounts import Memory
from broker.memory.replicas import ONE
from broker.models.downloads import Downloads
from broker.models.load_failures import LoadFailures
from broker.reports.counts import Counts
from broker.requests.scheduler import Scheduler
from broker.workers.lifecycle import State
from broker.workers.registry import Registry, Worker
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
        memory=worker.memory,
        idle=worker.idle(now),
        engine=worker.engine,
    )


def state_of(model: str, registry: Registry, failures: LoadFailures, memory: Memory) -> str:
    if registry.ready(model):
        return "hot"
    if registry.starting(model):
        return "loading"
    if memory.downloads.is_under_way(model):
        return "downloading"
    if failures.of(model):
        return "failed"
    if model in memory.downloads.absent and memory.is_wanted(model):
        return "downloading"
    return "queued" if memory.is_wanted(model) else "loadable"


def states_of_models(
    models: Collection[str], registry: Registry, failures: LoadFailures, memory: Memory
) -> dict[str, tuple[str, str]]:
    """The state of each, and what there is to say of it."""
    phases = {worker.model: worker.phase for worker in registry if worker.state is State.LOADING}
    found: dict[str, tuple[str, str]] = {}
    for model in models:
        state = state_of(model, registry, failures, memory)
        failure = failures.of(model) if state == "failed" else None
        found[model] = state, failure.reason if failure else phases.get(model, "")
    return found


def states_of_downloads(downloads: Downloads) -> dict[str, tuple[str, str]]:
    """How far each is: a new detail with each percent, in which its pace is shown."""
    return {
        model: ("downloading", transfer.share or transfer.phase)
        for model, transfer in downloads.running.items()
    }


def of_model(
    model: str,
    registry: Registry,
    scheduler: Scheduler,
    failures: LoadFailures,
    memory: Memory,
    counts: Counts,
) -> ModelStatus:
    state = state_of(model, registry, failures, memory)
    failure = failures.of(model) if state == "failed" else None
    details = registry.details.get(model)
    loading, transfer = registry.loading(model), memory.downloads.of(model)
    under_way = loading or transfer
    found = memory.inspections.found.get(model)
    rules = memory.rules
    return ModelStatus(
        id=model,
        state=state,
        queued=len(scheduler.of_model(model)),
        phase=under_way.phase if under_way else "",
        done=under_way.done if under_way else 0,
        total=under_way.total if under_way else 0,
        rate=transfer.rate if transfer else 0.0,
        eta=transfer.eta if transfer else None,
        absent=model in memory.downloads.absent,
        architecture=found.architecture if found else "",
        weights=found.weights if found else 0,
        aliases=list(rules.aliases.get(model, ())),
        pinned=model in rules.pinned,
        ttl=rules.ttl.get(model, 0.0),
        workers=len(registry.ready(model)),
        replicas=str(rules.replicas.get(model, ONE)),
        reason=failure.reason if failure else None,
        context_length=details.context_length if details else None,
        capabilities=details.capabilities if details else None,
        counts=counts.of(model),
    )
