"""What apis are told of requests that wait: their places in the queue, and how far the load or download is."""

from collections.abc import Iterator

from broker.events import Action, TellApi
from broker.memory.accounts import Memory
from broker.models.load_failures import LoadFailures
from broker.reports.status import state_of
from broker.requests.scheduler import Scheduler
from broker.workers.registry import Registry
from shared.protocol import Waiting


def positions(
    scheduler: Scheduler, registry: Registry, failures: LoadFailures, memory: Memory
) -> Iterator[Action]:
    """One message for each api and model."""
    for model, waiting in scheduler.positions():
        of_api: dict[str, dict[str, int]] = {}
        for position, queued in enumerate(waiting, 1):
            of_api.setdefault(queued.api, {})[queued.submit.request_id] = position
        loading = registry.loading(model)
        phase = loading.phase if loading else ""
        percent = 100 * loading.done // loading.total if loading and loading.total else 0
        if transfer := memory.downloads.of(model):
            phase, percent = transfer.pace, transfer.percent
        state = state_of(model, registry, failures, memory)
        for api, places in of_api.items():
            told = Waiting(
                model=model, state=state, phase=phase, percent=percent, total=len(waiting), positions=places
            )
            yield TellApi(api, told)
