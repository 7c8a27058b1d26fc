"""Requests that wait within a worker while another one of their model has room: they go there. Pure.

Rule 1: a worker says how long its oldest prompt has waited; from ``LONG`` on the newest requests that have no token yet
    leave it, so many that both hold alike.
Rule 2: a request moves once at most, and its api submits it again, as if its worker had left in good order.
"""

from broker.workers.registry import Registry, Worker

LONG = 2.0  # seconds
SETTLES = 3.0  # seconds, in which a worker says how long prompts wait after a move


def moving(registry: Registry, now: float) -> dict[str, list[str]]:
    """Which requests are to leave their workers, by worker."""
    found: dict[str, list[str]] = {}
    for worker in registry:
        ready = registry.ready(worker.model)
        if worker in ready and len(ready) > 1 and worker.waited >= LONG and now >= worker.moved + SETTLES:
            idlest = min(
                (each for each in ready if not each.closed), key=lambda each: each.load, default=worker
            )
            if idlest.waited < LONG and (leaving := _newest(worker, (worker.load - idlest.load) // 2)):
                found[worker.id] = leaving
    return found


def _newest(worker: Worker, count: int) -> list[str]:
    waiting = [
        request_id
        for request_id, run in worker.in_flight.items()
        if run.attempt == 1 and not run.begun and request_id != worker.on_probation
    ]
    waiting.sort(key=lambda request_id: worker.in_flight[request_id].since)
    return waiting[len(waiting) - min(count, len(waiting)) :] if count > 0 else []
