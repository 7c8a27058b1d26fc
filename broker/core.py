"""The broker's decisions: events in, actions out; no I/O, no clock and no chance.

Rule 1: ``handle`` is the only door, and ``_schedule`` runs after every event: dispatching and loading are decided once.
Rule 2: `requests` decides what becomes of a request, `workers` what becomes of a worker; events are routed to them.
"""

from collections.abc import Collection, Iterator
from typing import Any

from broker.events import (
    Action,
    ApiSaid,
    DownloadEnded,
    DownloadSaid,
    Event,
    Exit,
    Forget,
    Inspect,
    Inspected,
    Leave,
    MemoryRead,
    Note,
    PeerGone,
    ReadSettings,
    SettingsRead,
    SpareEnded,
    SpareSaid,
    SpawnFailed,
    StopAll,
    TellApi,
    Tick,
    WorkerExited,
    WorkerSaid,
)
from broker.memory.accounts import Memory
from broker.memory.decisions import Decision, Evict, Grow, Never, Shrink, Start
from broker.memory.replicas import surplus
from broker.models.fetches import Fetches
from broker.models.load_failures import LoadFailures
from broker.models.orders import Orders
from broker.models.recycling import Recycling
from broker.models.unwanted import expire_unwanted
from broker.reports import status
from broker.reports.api_figures import ApiFigures
from broker.reports.counts import Counts
from broker.reports.history import History
from broker.requests.admission import Admission, draining, unaffordable, unavailable
from broker.requests.key_limits import KeyLimits
from broker.requests.quarantine import Quarantine
from broker.requests.requests import CANCELLED, Requests
from broker.requests.scheduler import Scheduler
from broker.requests.waiting import positions
from broker.rules import Changes, MemoryRules
from broker.startup import Life, Survivor, Timeouts
from broker.workers.exit_causes import ExitCause, Fault
from broker.workers.forgetting import Forgetting
from broker.workers.lifecycle import SERVING, State
from broker.workers.registry import Api, Registry
from broker.workers.workers import Workers
from shared.errors import InvalidSettings, ModelNotFound
from shared.protocol import (
    Ack,
    ApiToBroker,
    Cancel,
    ChangesReport,
    Done,
    Figures,
    Follow,
    ForgetPrompts,
    Forward,
    Inspection,
    Operation,
    Order,
    Ping,
    Pong,
    PromptsForgotten,
    Refused,
    Reload,
    Reloaded,
    Status,
    StatusReport,
    SubmitHeader,
    WorkerToBroker,
)

_APIS_MAY_BE_SILENT = 2  # times as long as workers
_TELL_POSITIONS = 1.0  # seconds between messages about places in queues


class Broker:
    def __init__(
        self,
        models: Collection[str],
        scheduler: Scheduler,
        timeouts: Timeouts,
        life: Life,
        rules: MemoryRules | None = None,
    ) -> None:
        self._models = models = list(models)  # all that decide read this list, and only the core changes it
        self._scheduler = scheduler
        scheduler.concurrency = rules.concurrency if rules else {}
        self._life = life
        self._registry = registry = Registry()
        self._failures = failures = LoadFailures()
        quarantine = Quarantine()
        self._api_silence = _APIS_MAY_BE_SILENT * timeouts.silence
        self._keys = KeyLimits()
        self._counts = Counts()
        self._figures = ApiFigures()
        self._admission = Admission(models, scheduler, registry, failures, quarantine, self._keys)
        self._requests = Requests(
            registry, scheduler, self._admission, quarantine, self._api_silence, self._counts
        )
        self._memory = memory = Memory(
            rules or MemoryRules(), registry, scheduler, failures, life.started, life.name_worker
        )
        self._workers = Workers(
            models, registry, scheduler, self._requests, failures, memory, timeouts, life, self._counts
        )
        self._fetches = Fetches(registry, scheduler, self._requests, failures, memory, self._counts)
        self._orders = Orders(
            models, registry, self._admission, failures, memory, self._workers, self._fetches
        )
        self._forgetting = Forgetting(registry, lambda: self._workers.awaits_survivors)
        self._recycling = Recycling(registry, memory, self._orders)
        self._memory.needs.restore(life.learned)
        for model in life.pulls:
            if model in models:
                memory.downloads.order(model)
        self._lost_apis = 0
        self._pulls_at_end: frozenset[str] = frozenset()
        self._history = History()
        self._told_at = life.started

    @property
    def stopping(self) -> bool:
        return self._admission.closed

    @property
    def known(self) -> tuple[Survivor, ...]:
        """The workers that the next broker should expect."""
        return tuple(
            Survivor(w.id, w.model, w.pid, w.spawned, w.state in SERVING or w.returning)
            for w in self._registry
            if w.state is not State.STOPPING
        )

    @property
    def learned(self) -> dict[str, dict[str, Any]]:
        """What models need, for the next broker."""
        return self._memory.needs.saved()

    @property
    def pulls(self) -> frozenset[str]:
        """What operators have asked to be fetched, for the next broker."""
        return self._pulls_at_end if self.stopping else frozenset(self._memory.downloads.pulls)

    @property
    def idle(self) -> bool:
        """Nothing changes by time alone."""
        return (
            not self._scheduler
            and not self._memory.downloads.running
            and not self._workers.awaits_survivors
            and all(worker.state is State.READY and not worker.in_flight for worker in self._registry)
        )

    def handle(self, event: Event, now: float) -> list[Action]:
        actions = [*self._react(event, now), *self._schedule(now, asks_ledger=not is_frequent(event))]
        for action in actions:
            if isinstance(action, TellApi) and isinstance(action.message, Refused):
                self._requests.note_refusal(action.message, now)
        return actions

    def _react(self, event: Event, now: float) -> Iterator[Action]:
        match event:
            case WorkerSaid(worker_id, message):
                yield from self._hear_worker(worker_id, message, now)
            case ApiSaid(api, message, body):
                yield from self._hear_api(api, message, body, now)
            case WorkerExited():
                yield from self._workers.note_exit(event, now)
            case SpawnFailed(worker_id, reason):
                cause = ExitCause(f"could not be started: {reason}", Fault.CRASH)
                yield from self._workers.note_exit(WorkerExited(worker_id, None), now, cause)
            case PeerGone(peer):
                yield from self._lose_peer(peer, now)
            case Tick():
                yield from self._expire(now)
            case Inspected(model, found):
                yield from self._note_inspection(model, found, now)
            case DownloadSaid() | DownloadEnded() | SpareSaid() | SpareEnded():
                yield from self._hear_child(event, now)
            case MemoryRead(available):
                self._memory.hear_machine(available, now)
            case SettingsRead():
                yield from self._configure(event, now)
            case Leave() | StopAll():
                yield from self._depart(event, now)

    def _hear_worker(self, worker_id: str, message: WorkerToBroker, now: float) -> Iterator[Action]:
        if isinstance(message, PromptsForgotten):
            self._forgetting.hear(worker_id, message)
        yield from self._workers.hear(worker_id, message, now)

    def _hear_child(
        self, event: DownloadSaid | DownloadEnded | SpareSaid | SpareEnded, now: float
    ) -> Iterator[Action]:
        """Of a process that is no worker, or not yet one."""
        match event:
            case DownloadSaid():
                yield from self._fetches.hear(event, now)
            case DownloadEnded():
                yield from self._fetches.end(event, now)
                yield from self._orders.go_on_after_fetch(event.model, now)
            case SpareSaid(spare, footprint):
                self._memory.spares.hear(spare, footprint)
            case SpareEnded():
                yield from self._memory.spares.note_end(event, now)

    def _schedule(self, now: float, *, asks_ledger: bool) -> Iterator[Action]:
        self._workers.end_recovery(now)
        if asks_ledger and not self.stopping and (model := self._memory.next_to_inspect(self._models)):
            yield Inspect(model, self._memory.rules.pythons.get(model, ""))
        if asks_ledger and not self.stopping:
            yield from self._fetches.begin(now)
        if not self._workers.awaits_survivors:
            yield from self._dispatch(now)
            if asks_ledger and not self.stopping:
                yield from self._share_memory(now)
                yield from self._dispatch(now)  # to workers that get new requests again
        if asks_ledger:
            yield from self._orders.settle(now)
            yield from self._forgetting.settle()
            self._history.look(
                status.states_of_models(self._models, self._registry, self._failures, self._memory),
                {worker.id: (worker.state.value, worker.model) for worker in self._registry},
                status.states_of_downloads(self._memory.downloads),
            )
        if self.stopping and not any(worker.spawned for worker in self._registry):
            yield Exit()

    def _dispatch(self, now: float) -> Iterator[Action]:
        while dispatch := self._scheduler.next_dispatch(self._registry):
            self._memory.needs.note_request(dispatch[1].model, now)
            yield self._requests.dispatch(*dispatch, now)

    def _share_memory(self, now: float) -> Iterator[Action]:
        while decision := self._memory.decide(now):
            yield from self._arrange(decision, now)
        for said in list(self._memory.look_after_spares(now)):
            yield from self._arrange(said, now) if isinstance(said, Shrink) else [said]
        for line in self._memory.news():
            self._history.note("memory", line)
            yield Note(line)

    def _arrange(self, decision: Decision, now: float) -> Iterator[Action]:
        match decision:
            case Start(model, lease):
                yield self._workers.spawn(model, lease, now)
            case Evict(victims):
                self._counts.swaps += 1
                self._counts.evictions.update(w.model for w in self._registry if w.id in victims)
                yield from self._workers.end(victims, now)
            case Shrink(leases) | Grow(leases):
                yield from (self._memory.tell(worker, size) for worker, size in leases.items())
            case Never(model):
                self._memory.refuse(decision)
                error = unaffordable(decision)
                yield from self._requests.refuse_model(model, error)

    # ---------------------------------------------------------------- apis

    def _hear_api(self, api: str, message: ApiToBroker, body: bytes, now: float) -> Iterator[Action]:
        known = self._meet_api(api, now)
        if isinstance(message, Ack | Done | Cancel):
            self._keys.hear(message, now)
        match message:
            case Ping():
                yield TellApi(api, Pong(epoch=known.epoch))
            case Figures(sums=sums):
                self._figures.hear(api, sums)
            case SubmitHeader():
                yield from self._requests.submit(api, message, body, now)
            case Ack():
                yield from self._requests.acknowledge(message)
            case Done():
                yield from self._requests.finish(message, now)
            case Cancel():
                yield from self._requests.cancel(message, now)
            case _:
                yield from self._hear_operator(api, message, now)

    def _hear_operator(self, api: str, message: Operation, now: float) -> Iterator[Action]:
        match message:
            case Order():
                yield from self._orders.take(api, message, now)
            case ForgetPrompts():
                self._forgetting.take(api, message)
            case Follow():
                yield TellApi(api, self._changes_since(message))
            case Reload(query=query):
                yield ReadSettings(api, query)
            case Status():
                yield TellApi(api, self._report(message, now))

    def _meet_api(self, api: str, now: float) -> Api:
        """A lost api that comes back sees a new epoch, and so submits again what it holds."""
        known = self._registry.apis.get(api)
        if known is None:
            epoch = f"{self._life.epoch}.{self._lost_apis}" if self._lost_apis else self._life.epoch
            known = self._registry.apis[api] = Api(now, epoch)
        known.last_heard = now
        return known

    def _lose_peer(self, peer: str, now: float) -> Iterator[Action]:
        if peer in self._registry.apis:
            yield from self._lose_api(peer, "lost its connection", now)
        elif worker := self._registry.get(peer):
            yield from self._workers.lose_connection(worker, now)

    def _lose_api(self, api: str, why: str, now: float) -> Iterator[Action]:
        yield Forget(api, why)
        self._requests.recent.end_all_of(api, CANCELLED, now)
        del self._registry.apis[api]
        self._orders.forget(api)
        self._forgetting.forget_api(api)
        self._lost_apis += 1
        self._keys.end_all_of(api)
        self._figures.forget(api)
        yield from self._requests.cancel_all_of(api)

    def _report(self, asked: Status, now: float) -> StatusReport:
        return StatusReport(
            query=asked.query,
            epoch=self._life.epoch,
            pid=self._life.pid,
            uptime=now - self._life.started,
            models=[
                status.of_model(
                    model, self._registry, self._scheduler, self._failures, self._memory, self._counts
                )
                for model in self._models
            ],
            workers=[status.of_worker(worker, now) for worker in self._registry],
            in_flight=sum(len(worker.in_flight) for worker in self._registry),
            queued=len(self._scheduler),
            recent=self._requests.recent.latest(now),
            deaths=self._workers.crash_reports.latest(now),
            memory=self._memory.report(now),
            keys=self._keys.report(now),
            swaps=self._counts.swaps,
            figures=self._figures.total() if asked.figures else {},
        )

    def _note_inspection(self, model: str, found: Inspection | None, now: float) -> Iterator[Action]:
        self._memory.note_inspection(model, found)
        if found and found.reason and not self._registry.of_model(model):
            yield Note(
                f"{model!r} cannot be loaded: {found.reason!r}{' (for good)' if found.permanent else ''}"
            )
            failure = self._failures.record(model, found.reason, found.permanent, now)
            self._memory.wishes.pop(model, None)
            yield from self._requests.refuse_model(model, unavailable(model, failure, now))

    def _changes_since(self, asked: Follow) -> ChangesReport:
        ours = asked.epoch == self._life.epoch
        return ChangesReport(
            query=asked.query,
            epoch=self._life.epoch,
            latest=self._history.latest,
            changes=self._history.since(asked.since) if ours else None,
        )

    # ---------------------------------------------------------------- settings

    def _configure(self, read: SettingsRead, now: float) -> Iterator[Action]:
        if not isinstance(read.outcome, Changes):
            yield from (
                Note(f"the settings cannot be used and stay as they are: {line}") for line in read.outcome
            )
            if read.api:
                wrong = InvalidSettings("; ".join(read.outcome))
                yield TellApi(read.api, Reloaded(query=read.query, failure=wrong.to_failure()))
            return
        gone = [model for model in self._models if model not in read.outcome.models]
        before = self._memory.rules.replicas
        self._models[:] = read.outcome.models
        self._memory.configure(read.outcome.rules, self._models)
        self._scheduler.concurrency = read.outcome.rules.concurrency
        for line in read.outcome.lines:
            self._history.note("settings", line)
            yield Note(f"settings: {line}")
        for model in gone:
            error = ModelNotFound(model, self._models)
            yield from self._requests.refuse_model(model, error)
            yield from self._workers.end([worker.id for worker in self._registry.of_model(model)], now)
        yield from self._fetches.stop(gone)
        for model, bounds in read.outcome.rules.replicas.items():
            if bounds != before.get(model, bounds):
                yield from self._workers.end(surplus(self._registry, model, bounds), now)
        for model in read.outcome.again:
            yield from self._fetches.restart(model)
            yield from self._orders.renew(model, now)
        for model in (*gone, *read.outcome.again):
            self._forget_findings(model)
        for api in self._registry.apis:
            query = read.query if api == read.api else ""
            yield TellApi(api, Reloaded(query=query, lines=list(read.outcome.lines)))

    def _forget_findings(self, model: str) -> None:
        """They are of other settings, unless a worker still serves by those."""
        self._memory.inspections.repeat([model])
        self._memory.downloads.forget(model)
        self._failures.clear(model)
        if not self._registry.ready(model):
            self._registry.details.pop(model, None)

    # ---------------------------------------------------------------- time and the end

    def _expire(self, now: float) -> Iterator[Action]:
        silent = [name for name, a in self._registry.apis.items() if now - a.last_heard > self._api_silence]
        for api in silent:
            yield from self._lose_api(api, f"was silent for {self._api_silence:g} s", now)
        yield from self._workers.expire(now)
        yield from expire_unwanted(self._registry, self._memory, self._workers, now)
        if not self.stopping:
            yield from self._recycling.look(now)
            yield from self._requests.even_out(now)
        downloads = self._memory.downloads
        yield from self._requests.expire(now, downloads.absent | downloads.running.keys())
        if now >= self._told_at + _TELL_POSITIONS:
            self._told_at = now
            yield from positions(self._scheduler, self._registry, self._failures, self._memory)

    def _depart(self, event: Leave | StopAll, now: float) -> Iterator[Action]:
        if self.stopping:
            yield from self._workers.kill()
            yield Exit()
        elif isinstance(event, Leave):
            yield Exit()
        else:
            self._pulls_at_end = self.pulls
            self._admission.closed = True
            yield from self._fetches.stop(self._models)
            yield from self._requests.refuse_waiting(lambda _: True, draining())
            yield from self._workers.stop(now)


def is_frequent(event: Event) -> bool:
    """Whether it comes with each token; what it changes for the ledger is seen at the next Tick."""
    return isinstance(event, WorkerSaid | ApiSaid) and isinstance(
        event.message, Forward | Ack | Done | Ping | Figures
    )
