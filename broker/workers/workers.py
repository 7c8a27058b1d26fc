"""What becomes of each worker: introduced, made ready, heard, judged late, lost, removed.

Rule 1: whatever ends a worker, ``_lose`` answers for what it ran and for what waited for it; what it says later is
dropped.
Rule 2: a worker that is not in the registry is told how to get there, or to leave; nothing else it says counts.
Rule 3: the workers of an earlier broker are awaited for a while; until then no request is dispatched from a queue.
"""

import hmac
from collections.abc import Collection, Iterator

from broker.events import Abort, Action, Kill, Note, PassOn, Spawn, TellWorker, Terminate, WorkerExited
from broker.memory.accounts import Memory
from broker.models.load_failures import LoadFailures
from broker.reports.counts import Counts
from broker.requests.admission import unavailable
from broker.requests.requests import Requests
from broker.requests.scheduler import Scheduler
from broker.startup import Life, Survivor, Timeouts
from broker.workers.crash_reports import CrashReports, Loss, phase_of
from broker.workers.exit_causes import ExitCause, Fault, left, of_exit
from broker.workers.lifecycle import SERVING, STARTING, Signal, State
from broker.workers.registry import ModelDetails, Registry, Worker
from shared.errors import Draining
from shared.protocol import (
    Bye,
    Drain,
    Failed,
    Forward,
    Goodbye,
    Heartbeat,
    LoadFailed,
    Loading,
    Pong,
    Register,
    WorkerToBroker,
)

# Seconds of silence after which a busy worker that is not our child is written to: no exit is reported of it.
PROBE = 0.25
GIVEN_UP = "given up: it was silent or could not be reached"


class Workers:
    def __init__(
        self,
        models: Collection[str],
        registry: Registry,
        scheduler: Scheduler,
        requests: Requests,
        failures: LoadFailures,
        memory: Memory,
        timeouts: Timeouts,
        life: Life,
        counts: Counts,
    ) -> None:
        self._models = models
        self._registry = registry
        self._scheduler = scheduler
        self._requests = requests
        self._failures = failures
        self._memory = memory
        self._timeouts = timeouts
        self._life = life
        self._counts = counts
        self.crash_reports = CrashReports()
        self._losses: dict[str, Loss] = {}  # by id, of workers whose process has still to end
        self.failed_replacements: dict[str, str] = {}  # the reason by model, until it is reloaded again
        self.absent_replacements: set[str] = set()  # models to be reloaded once they are fetched
        self._awaited = {survivor.id for survivor in life.survivors}
        for survivor in life.survivors:
            if survivor.spawned:
                self._adopt(survivor)

    def _adopt(self, survivor: Survivor) -> None:
        worker = self._registry.add(survivor.id, survivor.model, self._life.started, spawned=True)
        worker.pid, worker.returning = survivor.pid, survivor.ready

    @property
    def awaits_survivors(self) -> bool:
        """Workers of an earlier broker may still come back."""
        return bool(self._awaited)

    def spawn(self, model: str, lease: int, now: float, replaces: tuple[str, ...] = ()) -> Spawn:
        """``replaces``: workers of the model that leave when this one is ready."""
        worker = self._registry.add(self._life.name_worker(model), model, now, spawned=True)
        worker.replaces = replaces
        self._memory.note_start(worker, lease, now)
        python = self._memory.rules.pythons.get(model, "")
        spare = self._memory.spares.take() if self._memory.rules.takes_a_spare(model) else ""
        worker.was_spare = bool(spare)
        return Spawn(worker.id, model, spare, python)

    # ---------------------------------------------------------------- what a worker says

    def hear(self, worker_id: str, message: WorkerToBroker, now: float) -> Iterator[Action]:
        worker = self._registry.get(worker_id)
        if isinstance(message, Loading | Register):
            yield from self._introduce(worker_id, worker, message, now)
        elif worker is None:
            yield from self._challenge(worker_id, message)
        else:
            worker.last_heard = now
            yield from self._hear_known(worker, message, now)

    def _hear_known(self, worker: Worker, message: WorkerToBroker, now: float) -> Iterator[Action]:
        match message:
            case Forward(api=api) if worker.state in SERVING:
                self._requests.note_ends(worker, message, now)
                yield PassOn(api)
            case Heartbeat():
                worker.note_heartbeat(message, now)
                self._memory.note_use(worker)
                yield self._pong(worker.id)
            case Failed():
                yield from self._fail_run(worker, message, now)
            case LoadFailed(absent=True) if worker.state in STARTING:
                yield Note(f"{worker.id} cannot load: {worker.model!r} has to be fetched first")
                self._memory.downloads.absent.add(worker.model)
                if worker.replaces:
                    self.absent_replacements.add(worker.model)
                if worker.replaces or not worker.spawned:  # no request or wish has it fetched
                    self._memory.downloads.order(worker.model)
                worker.receive(Signal.STOP, now)
                self._remove_foreign(worker, now)
            case LoadFailed(reason=reason, permanent=permanent) if worker.state in STARTING:
                yield Note(f"{worker.id} cannot load: {reason!r}{' (for good)' if permanent else ''}")
                yield from self._fail_load(worker, reason, now, permanent=permanent)
                self._remove_foreign(worker, now)
            case Bye(reason=reason):
                yield Note(f"{worker.id} leaves: {reason!r}")
                yield from self._lose(worker, left(reason), now)
                self._remove_foreign(worker, now)

    def _introduce(
        self, worker_id: str, worker: Worker | None, message: Loading | Register, now: float
    ) -> Iterator[Action]:
        if objection := self._objection(worker_id, worker, message):
            yield TellWorker(worker_id, Goodbye(reason=objection))
            return
        if worker is None:
            worker = self._registry.add(worker_id, message.model, now, spawned=False)
        worker.last_heard = now
        worker.pid = message.pid
        if worker.state not in STARTING:
            return
        if isinstance(message, Loading):
            self._awaited.discard(worker_id)
            worker.note_loading(message.phase, message.done, message.total, now)
            yield self._pong(worker_id)  # without it a long load would look like a lost broker to the worker
        elif message.epoch not in ("", self._life.epoch):
            yield self._pong(worker_id)  # makes it register again, with what it holds by now
        else:
            yield from self._make_ready(worker, message, now)

    def _make_ready(self, worker: Worker, message: Register, now: float) -> Iterator[Action]:
        self._awaited.discard(worker.id)
        self._counts.loads[worker.model] += not worker.returning
        worker.receive(Signal.READY, now)
        details = ModelDetails(message.context_length, message.capabilities)
        worker.details = self._registry.details[worker.model] = details
        self._failures.clear(worker.model)
        if self._registry.ready(worker.model) == [worker]:
            self._scheduler.restart_ages(worker.model, now)
        yield Note(
            f"{worker.id} is ready: {worker.model!r}, pid {worker.pid}, holds {len(message.held)} requests"
            f"{'' if worker.spawned else '; static: its memory counts, and it is never evicted'}"
        )
        yield from self._memory.first_lease(worker, message, now)
        yield from self.end(worker.replaces, now)
        worker.replaces = ()
        yield from self._requests.retain(worker, message.held, now)

    def _pong(self, worker_id: str) -> Action:
        return TellWorker(worker_id, Pong(epoch=self._life.epoch, busy=max(1, self._registry.busy)))

    def _objection(self, worker_id: str, worker: Worker | None, message: Loading | Register) -> str | None:
        if worker_id in self._registry.given_up:
            return GIVEN_UP
        if not hmac.compare_digest(message.token.encode(), self._life.token.encode()):
            return "wrong token"
        if message.model not in self._models:
            return f"the model {message.model!r} is not served here"
        if worker and worker.model != message.model:
            return f"{message.model!r} is not the model it was started for"
        return None

    def _challenge(self, worker_id: str, message: WorkerToBroker) -> Iterator[Action]:
        """An unknown worker is one of an earlier broker, which a Pong makes register, or was given up here."""
        if worker_id in self._registry.given_up:
            yield TellWorker(worker_id, Goodbye(reason=GIVEN_UP))
        elif isinstance(message, Heartbeat | Forward):
            yield self._pong(worker_id)

    def _fail_run(self, worker: Worker, failed: Failed, now: float) -> Iterator[Action]:
        """A worker that was told by someone else to leave refuses its next runs: another worker can run them."""
        run = worker.in_flight.get(failed.request_id)
        if run is None or run.attempt != failed.attempt:
            return
        if failed.failure.code != Draining.code:
            yield self._requests.fail(worker, failed.request_id, failed.failure)
            return
        if worker.state is State.READY:
            worker.receive(Signal.DRAIN, now)
        yield self._requests.hand_over(worker, failed.request_id, ExitCause("is leaving", Fault.NONE))

    # ---------------------------------------------------------------- how a worker ends

    def note_exit(self, event: WorkerExited, now: float, cause: ExitCause | None = None) -> Iterator[Action]:
        if worker := self._registry.get(event.worker):
            cause = cause or of_exit(event.code)
            if (
                worker.was_spare and worker.state is State.SPAWNED
            ):  # it ended before the model had anything to do with it
                cause = ExitCause(cause.how)
            early = " before it was ready" if worker.state in STARTING else ""
            how = f"{cause.how}{early}; the log of {worker.id} says more"
            yield from self._lose(worker, ExitCause(how, cause.fault), now)
            self._remove(worker, now, event)

    def lose_connection(self, worker: Worker, now: float) -> Iterator[Action]:
        """A loading worker runs nothing, and its exit or silence says more than its connection.

        A worker of ours is answered for when its process has ended, because its exit says whose fault that was:
        sockets are closed before a process can be reaped.
        """
        if worker.state not in SERVING:
            return
        if not worker.spawned:
            yield from self._give_up(worker, ExitCause("lost its connection"), now)
            return
        if worker.state is State.READY:
            worker.receive(Signal.DRAIN, now)
        yield Kill(worker.id, "lost its connection")

    def end_recovery(self, now: float) -> None:
        if self._awaited and now > self._life.started + self._timeouts.recovery:
            self._awaited.clear()

    def expire(self, now: float) -> Iterator[Action]:
        for worker in list(self._registry):
            if why := overdue(worker, self._timeouts, now):
                fault = Fault.CRASH if worker.state in STARTING and not worker.returning else Fault.OUTSIDE
                yield from self._give_up(worker, ExitCause(why, fault), now)
            elif worker.state in SERVING and worker.is_stalled(self._timeouts.stall, now):
                stall = ExitCause(f"made no step for {now - worker.last_step:.0f} s", Fault.CRASH)
                yield from self._give_up(worker, stall, now)
            elif not worker.spawned and worker.in_flight and now - worker.last_heard > PROBE:
                yield self._pong(worker.id)  # fails at once when its connection is gone

    def end(self, names: Collection[str], now: float) -> Iterator[Action]:
        """Those that are ready finish what they run. Only those of ours: an operator's are stopped by the operator."""
        for worker in self._registry:
            if worker.id not in names or not worker.spawned:
                continue
            if worker.state is State.READY:
                worker.receive(Signal.DRAIN, now)
                yield TellWorker(worker.id, Drain())  # a signal would overtake its last Run
            elif worker.state in STARTING:
                worker.receive(Signal.STOP, now)
                yield Terminate(worker.id)

    def stop(self, now: float) -> Iterator[Action]:
        yield from self.end([worker.id for worker in self._registry], now)

    def kill(self) -> Iterator[Action]:
        yield from (Kill(worker.id, "told to stop twice") for worker in self._registry if worker.spawned)

    def _lose(self, worker: Worker, cause: ExitCause, now: float) -> Iterator[Action]:
        if worker.state is not State.STOPPING and cause.fault is not Fault.NONE:
            shapes = [run.shape for run in worker.in_flight.values()]
            self._losses[worker.id] = Loss(cause.how, now, phase_of(worker), shapes)
        self._awaited.discard(worker.id)
        worker.retained.clear()
        if worker.returning:
            worker.receive(Signal.STOP, now)
        elif worker.state in STARTING:
            tried_again = cause.fault is Fault.OUTSIDE
            yield from self._fail_load(worker, f"its worker {cause.how}", now, tried_again=tried_again)
        elif worker.state in SERVING:
            worker.receive(Signal.STOP, now)
            yield from self._requests.lose_worker(worker, cause, now)

    def _fail_load(
        self, worker: Worker, reason: str, now: float, *, permanent: bool = False, tried_again: bool = False
    ) -> Iterator[Action]:
        """What waits for the model is refused, unless another load of it runs or will be tried."""
        worker.receive(Signal.STOP, now)
        model = worker.model
        if self._registry.ready(model) or self._registry.starting(model):
            if worker.replaces:
                self.failed_replacements[model] = reason
            else:
                self._memory.growth.failures.record(model, reason, permanent, now)
            return
        self._counts.failed_loads[model] += 1
        failure = self._failures.record(model, reason, permanent, now)
        if not tried_again or failure.broken:
            self._memory.wishes.pop(model, None)
            error = unavailable(model, failure, now)
            yield from self._requests.refuse_model(model, error)

    def _give_up(self, worker: Worker, cause: ExitCause, now: float) -> Iterator[Action]:
        first = worker.state is not State.STOPPING
        yield from self._lose(worker, cause, now)
        if worker.spawned:
            worker.since = now
            hangs = first and cause.fault is Fault.CRASH
            yield Abort(worker.id, cause.how) if hangs else Kill(worker.id, cause.how)
        else:
            self._registry.given_up.append(worker.id)
            self._remove(worker, now)

    def _remove(self, worker: Worker, now: float, exited: WorkerExited | None = None) -> None:
        exited = exited or WorkerExited(worker.id, None)
        worker.receive(Signal.EXIT, now)
        self._registry.remove(worker)
        self._memory.forget(worker.id)
        if loss := self._losses.pop(worker.id, None):
            self._counts.losses[worker.model] += 1
            self.crash_reports.record(worker, loss, exited.code, exited.last_lines)

    def _remove_foreign(self, worker: Worker, now: float) -> None:
        """No exit is reported of a process that is not our child."""
        if not worker.spawned:
            self._remove(worker, now)


def overdue(worker: Worker, timeouts: Timeouts, now: float) -> str | None:
    """Why its time is up, if it is: the rest of a sentence that begins with the worker."""
    match worker.state:
        case State.SPAWNED if worker.returning and now - worker.last_heard > timeouts.silence:
            return f"did not come back to a new broker for {timeouts.silence:g} s"
        case State.SPAWNED | State.LOADING if now - worker.last_progress > timeouts.load:
            return f"made no progress in loading for {timeouts.load:g} s"
        case State.READY | State.DRAINING if now - worker.last_heard > timeouts.silence:
            return f"was silent for {timeouts.silence:g} s"
        case State.DRAINING if now - worker.since > timeouts.drain:
            return f"had not finished after {timeouts.drain:g} s"
        case State.STOPPING if now - worker.since > timeouts.silence:
            return "does not end"
    return None
