"""An operator's order that kept prompts be forgotten: every worker that may have some is told, and confirms.

Rule 1: a worker has forgotten when it says so, or when its process is gone: it has nothing in memory then.
Rule 2: a worker of an earlier broker is told when it is back. One that loads has read no prompt.
Rule 3: the broker forgets which beginnings of prompts a worker has read when that one has forgotten.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from broker.events import Action, TellApi, TellWorker
from broker.workers.lifecycle import SERVING, STARTING
from broker.workers.registry import Registry, Worker
from shared.protocol import ForgetPrompts, PromptsForgotten


@dataclass(slots=True)
class _Pending:
    """``asked``: the workers that may keep prompts; ``told`` of them were told, ``said``: what they have answered."""

    api: str
    order: ForgetPrompts
    awaits: bool  # those of an earlier broker, at the last look
    asked: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    said: dict[str, PromptsForgotten] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)


class Forgetting:
    """``awaits_survivors``: whether workers of an earlier broker may still come back."""

    def __init__(self, registry: Registry, awaits_survivors: Callable[[], bool]) -> None:
        self._registry = registry
        self._awaits_survivors = awaits_survivors
        self._pending: list[_Pending] = []

    def take(self, api: str, order: ForgetPrompts) -> None:
        """``settle`` does what is to be done."""
        keepers = {each.id for each in self._registry if _may_keep(each)}
        self._pending.append(_Pending(api, order, self._awaits_survivors(), keepers))

    def hear(self, worker_id: str, said: PromptsForgotten) -> None:
        worker = self._registry.get(worker_id)
        for pending in self._pending:
            if worker and pending.order.query == said.query and worker_id in pending.told:
                pending.said[worker_id] = said
                pending.models.add(worker.model)
                worker.kept.clear()

    def settle(self) -> Iterator[Action]:
        for pending in list(self._pending):
            if pending.awaits:
                pending.asked |= {each.id for each in self._registry if _may_keep(each)}
                pending.awaits = self._awaits_survivors()
            left = [worker for worker in self._registry if worker.id in pending.asked - pending.said.keys()]
            for worker in left:
                if worker.state in SERVING and worker.id not in pending.told:
                    pending.told.add(worker.id)
                    yield TellWorker(worker.id, pending.order)
            if not left and not pending.awaits:
                self._pending.remove(pending)
                yield TellApi(pending.api, _summary(pending))

    def forget_api(self, api: str) -> None:
        """It asks no more; what its workers were told stays told."""
        self._pending = [pending for pending in self._pending if pending.api != api]


def _may_keep(worker: Worker) -> bool:
    """Also one that ends: what it had to write is on disk when its process is gone."""
    return worker.returning or worker.state not in STARTING


def _summary(pending: _Pending) -> PromptsForgotten:
    said = pending.said.values()
    return PromptsForgotten(
        query=pending.order.query,
        memory=sum(each.memory for each in said),
        disk=sum(each.disk for each in said),
        models=sorted(pending.models),
        reason="; ".join(sorted({each.reason for each in said if each.reason})),
    )
