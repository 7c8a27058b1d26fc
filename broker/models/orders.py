"""What operators order of models: load, unload, reload, pull; and the replies, at once or when it is done.

Rule 1: an order is idempotent: what is so already is done at once.
Rule 2: an order gets one reply, and none if the api that sent it is lost.
Rule 3: running answers finish. What waits for an unloaded model loads it again.
Rule 4: a reload starts the new worker first if there is memory for both; if it cannot be loaded, the old one goes on.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from broker.events import Action, Note, TellApi
from broker.memory.accounts import Memory
from broker.models.fetches import Fetches
from broker.models.load_failures import LoadFailures
from broker.reports.status import state_of
from broker.requests.admission import Admission, cancelled_download, draining, unaffordable, unavailable
from broker.workers.registry import Registry, Worker
from broker.workers.workers import Workers
from shared.errors import ModelConflict, ModelNotFound, ModelUnavailable, ServingError, without_folders
from shared.protocol import DownloadReport, Order, OrderReply


@dataclass(slots=True)
class _Pending:
    """``before``: the workers that the model had when it was ordered.

    ``renewed``: another one was ready since then. It may leave again, by its ttl, before the last old one has finished.
    """

    api: str
    order: Order
    before: tuple[str, ...]
    renewed: bool = False


class Orders:
    def __init__(
        self,
        models: Collection[str],
        registry: Registry,
        admission: Admission,
        failures: LoadFailures,
        memory: Memory,
        workers: Workers,
        fetches: Fetches,
    ) -> None:
        self._models = models
        self._registry = registry
        self._admission = admission
        self._failures = failures
        self._memory = memory
        self._workers = workers
        self._fetches = fetches
        self._pending: list[_Pending] = []

    def take(self, api: str, order: Order, now: float) -> Iterator[Action]:
        if objection := self._objection(order):
            yield TellApi(api, OrderReply(query=order.query, failure=objection.to_failure()))
            return
        pending = _Pending(api, order, tuple(worker.id for worker in self._registry.of_model(order.model)))
        yield from self._begin(pending, now)
        if order.wait:
            self._pending.append(pending)
        else:
            yield self._reply(pending, done=self._is_done(pending))

    def settle(self, now: float) -> Iterator[Action]:
        """Replies to those that wait for what has come true, or never will."""
        for pending in list(self._pending):
            pending.renewed = pending.renewed or self._has_new_worker(pending)
            if self._is_done(pending):
                self._pending.remove(pending)
                yield self._reply(pending, done=True)
            elif failure := self._failure(pending, now):
                self._pending.remove(pending)
                reply = OrderReply(query=pending.order.query, failure=failure.to_failure())
                yield TellApi(pending.api, reply)

    def forget(self, api: str) -> None:
        self._pending = [pending for pending in self._pending if pending.api != api]

    # ---------------------------------------------------------------- inside

    def _objection(self, order: Order) -> ServingError | None:
        if self._admission.closed:
            return draining()
        if order.model not in self._models:
            return ModelNotFound(order.model, self._models)
        if order.action in ("load", "pull", "cancel"):
            return None
        if static := [worker.id for worker in self._registry.of_model(order.model) if not worker.spawned]:
            return ModelConflict(
                f"{static[0]} of {order.model!r} was not started by this server: whoever started it, such as "
                "supervisord, stops it."
            )
        if order.action == "unload" and order.model in self._memory.rules.pinned and not order.force:
            return ModelConflict(f'{order.model!r} is pinned; {{"force": true}} unloads it all the same.')
        return None

    def _begin(self, pending: _Pending, now: float) -> Iterator[Action]:
        model = pending.order.model
        self._workers.failed_replacements.pop(model, None)
        match pending.order.action:
            case "load":
                self._want(model, now)
            case "pull":
                self._failures.clear(model)
                self._memory.downloads.order(model)
            case "cancel":
                yield from self._fetches.cancel(model)
            case "unload":
                self._memory.wishes.pop(model, None)
                yield from self._workers.end(pending.before, now)
            case "reload" if self._registry.ready(model) and self._memory.has_room_for_another(model, now):
                lease = self._memory.needs.of(model, now).least_kv
                yield self._workers.spawn(model, lease, now, replaces=pending.before)
            case "reload":
                yield from self._workers.end(pending.before, now)
                self._want(model, now, again=True)

    def renew(self, model: str, now: float) -> Iterator[Action]:
        """Of its own accord: the model's settings have changed. What is not in memory is left there."""
        workers = self._registry.of_model(model)
        if any(worker.spawned and not worker.returning for worker in workers):
            order = Order(query="", action="reload", model=model)
            yield from self._begin(_Pending("", order, tuple(worker.id for worker in workers)), now)
        for worker in workers:
            if not worker.spawned:
                yield Note(
                    f"{worker.id} was not started by this server; restart it, so that it reads the settings"
                )

    def replace(self, worker: Worker, now: float) -> Iterator[Action]:
        """One worker, of the broker's own accord; its model stays loaded, or is loaded again."""
        model = worker.model
        if self._memory.has_room_for_another(model, now):
            lease = self._memory.needs.of(model, now).least_kv
            yield self._workers.spawn(model, lease, now, replaces=(worker.id,))
            return
        yield from self._workers.end([worker.id], now)
        if not self._registry.ready(model):
            self._memory.wish(model, now)

    def go_on_after_fetch(self, model: str, now: float) -> Iterator[Action]:
        """A reload that found its model absent: the old worker served on while it was fetched."""
        if model not in self._workers.absent_replacements or self._is_fetched(model):
            return
        self._workers.absent_replacements.discard(model)
        match self._memory.downloads.outcomes.get(model):
            case "whole":
                yield from self.renew(model, now)
            case DownloadReport(reason=reason):
                self._workers.failed_replacements[model] = reason
            case _:
                self._workers.failed_replacements[model] = "its download was cancelled"

    def _want(self, model: str, now: float, *, again: bool = False) -> None:
        """An operator's word is worth a try, whatever has failed before."""
        if again or not self._registry.ready(model):
            self._failures.clear(model)
            self._memory.wish(model, now)

    def _is_done(self, pending: _Pending) -> bool:
        model, before = pending.order.model, pending.before
        gone = not any(self._registry.get(worker) for worker in before)
        match pending.order.action:
            case "load":
                return bool(self._registry.ready(model))
            case "unload":
                return gone
            case "reload":
                return gone and (pending.renewed or bool(self._registry.ready(model)))
            case "pull":
                return self._memory.downloads.outcomes.get(model) == "whole" and not self._is_fetched(model)
            case "cancel":
                return not self._is_fetched(model)

    def _has_new_worker(self, pending: _Pending) -> bool:
        return any(worker.id not in pending.before for worker in self._registry.ready(pending.order.model))

    def _is_fetched(self, model: str) -> bool:
        return self._memory.downloads.is_under_way(model)

    def _failed_pull(self, model: str) -> ServingError | None:
        if self._is_fetched(model):
            return None
        match self._memory.downloads.outcomes.get(model):
            case DownloadReport(reason=reason):
                return ModelUnavailable(f"The model {model!r} cannot be fetched: {without_folders(reason)}.")
            case _:
                return cancelled_download(model)

    def _failure(self, pending: _Pending, now: float) -> ServingError | None:
        """Why a load that was ordered neither goes on nor is to begin."""
        model = pending.order.model
        if self._admission.closed and pending.order.action != "unload":
            return draining()
        if pending.order.action in ("pull", "cancel"):
            return self._failed_pull(model)
        under_way = self._registry.starting(model) or model in self._memory.wishes or self._is_fetched(model)
        if pending.order.action == "unload" or pending.renewed or under_way:
            return None
        if reason := self._workers.failed_replacements.get(model):
            return ModelUnavailable(
                f"The new worker of {model!r} cannot be loaded, so the old one goes on: {without_folders(reason)}."
            )
        if failed := self._failures.of(model):
            return unavailable(model, failed, now)
        if never := self._memory.nevers.get(model):
            return unaffordable(never)
        return ModelConflict(f"{model!r} was unloaded while it was to be loaded.")

    def _reply(self, pending: _Pending, *, done: bool) -> Action:
        state = state_of(pending.order.model, self._registry, self._failures, self._memory)
        return TellApi(pending.api, OrderReply(query=pending.order.query, state=state, done=done))
