"""Workers that nobody asks for any more: idle ones after their model's ttl, and loads that nobody waits for.

Rule 1: only the broker's own workers; a pinned model has no ttl.
Rule 2: a load goes on for a while after the last request for it has left: a client that gave up often comes again.
"""

from collections.abc import Iterator

from broker.events import Action, Note
from broker.memory.accounts import Memory
from broker.workers.lifecycle import STARTING, State
from broker.workers.registry import Registry, Worker
from broker.workers.workers import Workers

PATIENCE = 10.0  # seconds that a load goes on which nobody waits for


def expire_unwanted(registry: Registry, memory: Memory, workers: Workers, now: float) -> Iterator[Action]:
    for worker in list(registry):
        awaited = memory.is_wanted(worker.model) or worker.model in memory.wishes
        if awaited or worker.load or worker.replaces or worker.returning:
            worker.wanted_at = now
        elif worker.spawned and (why := _why_unwanted(worker, memory.rules.ttl.get(worker.model, 0.0), now)):
            yield Note(f"unload {worker.model!r}: {why}")
            yield from workers.end([worker.id], now)


def _why_unwanted(worker: Worker, ttl: float, now: float) -> str | None:
    if worker.state in STARTING and now - max(worker.wanted_at, worker.since) > PATIENCE:
        return "nobody waits for its load any more"
    if worker.state is State.READY and ttl and now - max(worker.wanted_at, worker.since) > ttl:
        return f"no request for {ttl:g} s"
    return None
