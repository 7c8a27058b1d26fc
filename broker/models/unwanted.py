"""Workers that nobody asks for any more: idle ones after their model's ttl, and loads that nobody waits for.

Rule 1: only the broker's own workers; a pinned model has no ttl.
Rule 2: a load goes on for a while after the last request for it has left: a client that gave up often comes again.
Rule 3: a worker beyond its model's least number leaves sooner, the youngest first. The others stay or leave together:
    one that left alone would be started again.
"""

from collections.abc import Iterator

from broker.events import Action, Note
from broker.memory.accounts import Memory
from broker.memory.replicas import ONE, SHRINK_AFTER
from broker.rules import MemoryRules
from broker.workers.lifecycle import STARTING, State
from broker.workers.registry import Registry, Worker
from broker.workers.workers import Workers

PATIENCE = 10.0  # seconds that a load goes on which nobody waits for


def expire_unwanted(registry: Registry, memory: Memory, workers: Workers, now: float) -> Iterator[Action]:
    for worker in reversed(list(registry)):
        awaited = memory.is_wanted(worker.model) or worker.model in memory.wishes
        if awaited or worker.load or worker.replaces or worker.returning:
            worker.wanted_at = now
        elif worker.spawned and (why := _why_unwanted(worker, registry, memory.rules, now)):
            yield Note(f"unload {worker.model!r}: {why}")
            yield from workers.end([worker.id], now)


def _why_unwanted(worker: Worker, registry: Registry, rules: MemoryRules, now: float) -> str | None:
    ready, ttl = registry.ready(worker.model), rules.ttl.get(worker.model, 0.0)
    if worker.state in STARTING and not ready and worker.idle(now) > PATIENCE:
        return "nobody waits for its load any more"
    if worker.state is not State.READY:
        return None
    least, most_idle = rules.replicas.get(worker.model, ONE).least, min(ttl or SHRINK_AFTER, SHRINK_AFTER)
    if len(ready) > least and worker.idle(now) > most_idle:
        return f"one of its {len(ready)} workers had no request for {most_idle:g} s"
    if ttl and all(each.idle(now) > ttl for each in ready):
        return f"no request for {ttl:g} s"
    return None
