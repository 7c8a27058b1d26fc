"""The broker's mind: events in, actions out, no I/O, no clock and no chance.

Rule 1: ``handle`` is the only door, and ``_schedule`` runs after every event: the decision tree exists once.
Rule 2: a request is in one place: one queue, or one worker's ``in_flight``. Who takes it out answers for it.
Rule 3: whatever ends a worker, ``_lose`` answers for what it held and for what waited for it.
Rule 4: who is not in the registry is told how to get there, or to leave; nothing it says counts.
Rule 5: what a worker keeps goes on there; while workers of an earlier broker may come back, nothing else begins.
"""

import hmac
from collections.abc import Collection, Iterator
from dataclasses import replace

from broker import status
from broker.admission import Admission
from broker.crash_reports import Deaths, Fall, phase_of, shape_of
from broker.deadlines import overdue
from broker.events import (
    Abort,
    Action,
    ApiSaid,
    Event,
    Exit,
    Forget,
    Kill,
    Leave,
    PassOn,
    PeerGone,
    Spawn,
    SpawnFailed,
    StopAll,
    TellApi,
    TellWorker,
    Terminate,
    Tick,
    WorkerExited,
    WorkerSaid,
)
from broker.exit_causes import Ending, Fault, left, of_exit
from broker.lifecycle import Signal, State
from broker.load_failures import Loads
from broker.quarantine import Suspects
from broker.refusals import draining, refusal, refuse, unavailable
from broker.registry import COMING, SERVING, Api, Facts, Kept, Registry, Running, Worker
from broker.scheduler import Scheduler, Waiting
from broker.startup import Life, Survivor, Timeouts
from shared.errors import (
    BrokerLost,
    Draining,
    QueueFull,
    RequestCrashedEngine,
)
from shared.protocol import (
    Ack,
    ApiToBroker,
    Bye,
    Cancel,
    Done,
    Drain,
    Failed,
    Failure,
    Forward,
    Goodbye,
    Heartbeat,
    LoadFailed,
    Loading,
    Ping,
    Pong,
    Refused,
    Register,
    Resubmit,
    RunHeader,
    Status,
    StatusReport,
    SubmitHeader,
    WorkerToBroker,
)

# Seconds of silence after which a busy worker that is not our child is written to: nobody tells us of its exit.
PROBE = 0.25
GIVEN_UP = "given up: it was silent or could not be reached"


class Broker:
    def __init__(self, models: Collection[str], scheduler: Scheduler, timeouts: Timeouts, life: Life) -> None:
        self.models = models
        self.scheduler = scheduler
        self.timeouts = timeouts
        self.life = life
        self.registry = Registry()
        self.loads = Loads()
        self.suspects = Suspects()
        self.deaths = Deaths()
        self.admission = Admission(models, scheduler, self.registry, self.loads, self.suspects)
        self.stopping = False
        self._acquaintance = 0
        self._falls: dict[str, Fall] = {}  # of workers that have still to end
        self._awaited = {survivor.id for survivor in life.survivors}
        for survivor in life.survivors:
            if survivor.spawned:
                self._adopt(survivor)

    def _adopt(self, survivor: Survivor) -> None:
        worker = self.registry.add(survivor.id, survivor.model, self.life.started, spawned=True)
        worker.pid, worker.returning = survivor.pid, survivor.ready

    @property
    def known(self) -> tuple[Survivor, ...]:
        """Whom the next broker should expect."""
        return tuple(
            Survivor(w.id, w.model, w.pid, w.spawned, w.state in SERVING or w.returning)
            for w in self.registry
            if w.state is not State.STOPPING
        )

    def handle(self, event: Event, now: float) -> list[Action]:
        return [*self._react(event, now), *self._schedule(now)]

    @property
    def idle(self) -> bool:
        """Nobody waits for anything that time brings."""
        return (
            len(self.scheduler) == 0
            and not self._awaited
            and all(worker.state is State.READY and not worker.in_flight for worker in self.registry)
        )

    def _react(self, event: Event, now: float) -> Iterator[Action]:
        match event:
            case WorkerSaid(worker_id, message):
                yield from self._hear(worker_id, message, now)
            case ApiSaid(api, message, body):
                yield from self._obey(api, message, body, now)
            case WorkerExited():
                yield from self._end(event, of_exit(event.code), now)
            case SpawnFailed(worker_id, reason):
                ending = Ending(f"could not be started: {reason}", Fault.CRASH)
                yield from self._end(WorkerExited(worker_id, None), ending, now)
            case PeerGone(peer):
                yield from self._lose_peer(peer, now)
            case Tick():
                yield from self._expire(now)
            case Leave() | StopAll():
                yield from self._depart(event, now)

    def _schedule(self, now: float) -> Iterator[Action]:
        if not self._recovering(now):
            yield from self._begin(now)
        if self.stopping and not any(worker.spawned for worker in self.registry):
            yield Exit()

    def _recovering(self, now: float) -> bool:
        if self._awaited and now > self.life.started + self.timeouts.recovery:
            self._awaited.clear()
        return bool(self._awaited)

    def _begin(self, now: float) -> Iterator[Action]:
        while dispatch := self.scheduler.next_dispatch(self.registry):
            yield self._run(*dispatch, now)
        while model := self.scheduler.next_to_load(self.registry, self.loads, now):
            worker = self.registry.add(self.life.name_worker(model), model, now, spawned=True)
            yield Spawn(worker.id, model)

    def _run(self, waiting: Waiting, worker: Worker, now: float) -> Action:
        submit = waiting.submit
        worker.kept.pop(submit.request_id, None)
        run = Running(waiting.api, shape_of(submit), now)
        if waiting.suspect and worker.trial in (None, submit.request_id):
            run = replace(run, fingerprint=submit.fingerprint)
            worker.trial = submit.request_id
        worker.in_flight[submit.request_id] = run
        return TellWorker(worker.id, RunHeader(api=waiting.api, submit=submit), waiting.body)

    # ---------------------------------------------------------------- apis

    def _obey(self, api: str, message: ApiToBroker, body: bytes, now: float) -> Iterator[Action]:
        known = self._meet(api, now)
        match message:
            case Ping():
                yield TellApi(api, Pong(epoch=known.epoch))
            case SubmitHeader():
                waiting = Waiting(api, message, body, now, suspect=message.request_id in self.suspects)
                yield from self._submit(waiting, now)
            case Ack(request_id=request_id):
                if worker := self.registry.runner(request_id):
                    self.suspects.weigh(worker, message)
                    yield TellWorker(worker.id, message)
            case Done(request_id=request_id):
                yield from self._release(request_id, message)
            case Cancel(request_id=request_id):
                self.scheduler.take(request_id)
                yield from self._cancel_run(request_id)
                yield from self._release(request_id, message)
            case Status(query=query):
                yield TellApi(api, self._report(query, now))

    def _meet(self, api: str, now: float) -> Api:
        """An api that was given up and comes back sees a new epoch, and so tells what it holds."""
        known = self.registry.apis.get(api)
        if known is None:
            epoch = f"{self.life.epoch}.{self._acquaintance}" if self._acquaintance else self.life.epoch
            known = self.registry.apis[api] = Api(now, epoch)
        known.heard = now
        return known

    def _submit(self, waiting: Waiting, now: float) -> Iterator[Action]:
        submit = waiting.submit
        if submit.attempt <= self._attempt_on_record(submit.request_id):
            return
        self.scheduler.take(submit.request_id)
        if not waiting.body:
            yield refuse(waiting, BrokerLost("The api process is older than its broker: restart it."))
        elif worker := self.registry.runner(submit.request_id):
            yield self._run(waiting, worker, now)
        elif keepers := self.registry.keepers(submit.request_id):
            yield from self._claim(waiting, keepers, now)
        elif objection := draining() if self.stopping else self.admission.objection(waiting, now):
            yield refuse(waiting, objection)
        else:
            self.scheduler.admit(waiting)

    def _claim(self, waiting: Waiting, keepers: list[Worker], now: float) -> Iterator[Action]:
        """The one that was told last goes on; to the others it was an earlier attempt."""
        best, *others = keepers
        yield self._run(waiting, best, now)
        for worker in others:
            yield from release(
                worker, waiting.submit.request_id, Cancel(request_id=waiting.submit.request_id)
            )

    def _release(self, request_id: str, word: Done | Cancel) -> Iterator[Action]:
        for worker in self.registry.keepers(request_id):
            yield from release(worker, request_id, word)

    def _attempt_on_record(self, request_id: str) -> int:
        """0: there is none."""
        if waiting := self.scheduler.find(request_id):
            return waiting.submit.attempt
        if worker := self.registry.runner(request_id):
            return worker.in_flight[request_id].attempt
        keepers = self.registry.keepers(request_id)
        return keepers[0].kept[request_id].attempt if keepers else 0

    def _cancel_run(self, request_id: str) -> Iterator[Action]:
        """The slot is free at once: a worker reads the Cancel before the Run that takes it."""
        if worker := self.registry.runner(request_id):
            worker.drop(request_id)
            yield TellWorker(worker.id, Cancel(request_id=request_id))

    def _lose_api(self, api: str, why: str) -> Iterator[Action]:
        yield Forget(api, why)
        del self.registry.apis[api]
        self._acquaintance += 1
        self.scheduler.withdraw(lambda waiting: waiting.api == api)
        held = [id for worker in self.registry for id, run in worker.in_flight.items() if run.api == api]
        for request_id in held:
            yield from self._cancel_run(request_id)

    def _report(self, query: str, now: float) -> StatusReport:
        return StatusReport(
            query=query,
            epoch=self.life.epoch,
            pid=self.life.pid,
            uptime=now - self.life.started,
            models=[status.of_model(id, self.registry, self.scheduler, self.loads) for id in self.models],
            workers=[status.of_worker(worker, now) for worker in self.registry],
            in_flight=sum(len(worker.in_flight) for worker in self.registry),
            queued=len(self.scheduler),
            deaths=self.deaths.report(now),
        )

    # ---------------------------------------------------------------- workers

    def _hear(self, worker_id: str, message: WorkerToBroker, now: float) -> Iterator[Action]:
        worker = self.registry.get(worker_id)
        if isinstance(message, Loading | Register):
            yield from self._introduce(worker_id, worker, message, now)
            return
        if worker is None:
            yield from self._challenge(worker_id, message)
            return
        worker.heard = now
        match message:
            case Forward(api=api):
                if worker.state in SERVING:
                    self._end_runs(worker, message, now)
                    yield PassOn(api)
            case Heartbeat():
                worker.beat(message, now)
                yield self._pong(worker_id)
            case Failed(request_id=request_id, attempt=attempt, failure=failure):
                run = worker.in_flight.get(request_id)
                if run and run.attempt == attempt:
                    worker.drop(request_id)
                    yield self._answer_failed(worker, request_id, run, failure, now)
            case LoadFailed(reason=reason, permanent=permanent) if worker.state in COMING:
                yield from self._fail_load(worker, reason, now, permanent=permanent)
                self._bury_foreign(worker, now)
            case Bye(reason=reason):
                yield from self._lose(worker, left(reason), now)
                self._bury_foreign(worker, now)

    def _end_runs(self, worker: Worker, forward: Forward, now: float) -> None:
        """The worker keeps them until the api says that it has got to the end."""
        for request_id, attempt in forward.ended.items():
            run = worker.in_flight.get(request_id)
            if run and run.attempt == attempt:
                worker.drop(request_id)
                if run.attempt == 1:  # of a later one this is not all
                    self.scheduler.note_end(worker.model, now - run.since)
                worker.kept[request_id] = Kept(run.attempt, now + 2 * self.timeouts.silence, ended=True)

    def _introduce(
        self, worker_id: str, worker: Worker | None, message: Loading | Register, now: float
    ) -> Iterator[Action]:
        if objection := self._distrust(worker_id, worker, message):
            yield TellWorker(worker_id, Goodbye(reason=objection))
            return
        if worker is None:
            worker = self.registry.add(worker_id, message.model, now, spawned=False)
        worker.heard = now
        worker.pid = message.pid
        if worker.state not in COMING:
            return
        if isinstance(message, Loading):
            self._awaited.discard(worker_id)
            worker.loads(message.phase, message.done, message.total, now)
            yield self._pong(worker_id)  # else it would take a long load for a lost broker
        elif message.epoch not in ("", self.life.epoch):
            yield self._pong(worker_id)  # makes it say again what it holds
        else:
            self._make_ready(worker, message, now)
            yield from self._take_over(worker, message, now)

    def _make_ready(self, worker: Worker, message: Register, now: float) -> None:
        self._awaited.discard(worker.id)
        worker.receive(Signal.READY, now)
        worker.returning = False
        worker.facts = self.registry.facts[worker.model] = Facts(message.context_length, message.capabilities)
        self.loads.work(worker.model)
        if self.registry.ready(worker.model) == [worker]:
            self.scheduler.restart_clocks(worker.model, now)

    def _pong(self, worker_id: str) -> Action:
        return TellWorker(worker_id, Pong(epoch=self.life.epoch, busy=max(1, self.registry.busy)))

    def _take_over(self, worker: Worker, message: Register, now: float) -> Iterator[Action]:
        """What it held for an earlier broker goes on here, if its api has come or comes before it counts as silent."""
        until = now + 2 * self.timeouts.silence
        for request_id, attempt in message.held.items():
            worker.kept[request_id] = Kept(attempt, until, ended=False)
            if waiting := self.scheduler.take(request_id):
                yield from self._claim(waiting, self.registry.keepers(request_id), now)

    def _distrust(self, worker_id: str, worker: Worker | None, message: Loading | Register) -> str | None:
        if worker_id in self.registry.given_up:
            return GIVEN_UP
        if not hmac.compare_digest(message.token.encode(), self.life.token.encode()):
            return "wrong token"
        if message.model not in self.models:
            return f"the model {message.model!r} is not served here"
        if worker and worker.model != message.model:
            return f"{message.model!r} is not the model it was started for"
        return None

    def _challenge(self, worker_id: str, message: WorkerToBroker) -> Iterator[Action]:
        """Unknown: of an earlier life, so that a Pong makes it register; or given up in this one."""
        if worker_id in self.registry.given_up:
            yield TellWorker(worker_id, Goodbye(reason=GIVEN_UP))
        elif isinstance(message, Heartbeat | Forward):
            yield self._pong(worker_id)

    def _lose(self, worker: Worker, ending: Ending, now: float) -> Iterator[Action]:
        """From here on nothing it says counts."""
        if worker.state is not State.STOPPING and ending.fault is not Fault.NONE:
            shapes = [run.shape for run in worker.in_flight.values()]
            self._falls[worker.id] = Fall(ending.how, now, phase_of(worker), shapes)
        self._awaited.discard(worker.id)
        worker.kept.clear()
        if worker.returning:
            worker.returning = False
            worker.receive(Signal.STOP, now)
        elif worker.state in COMING:
            blameless = ending.fault is Fault.OUTSIDE
            yield from self._fail_load(worker, f"its worker {ending.how}", now, blameless=blameless)
        elif worker.state in SERVING:
            worker.receive(Signal.STOP, now)
            runs, worker.in_flight = worker.in_flight, {}
            culprit = self.suspects.blame(worker, runs, now) if ending.fault is Fault.CRASH else None
            worker.trial = None
            for request_id, run in runs.items():
                if request_id == culprit:
                    crashed = RequestCrashedEngine(f"The engine crashes over this request: it {ending.how}.")
                    yield refusal(run.api, request_id, run.attempt, crashed)
                else:
                    yield self._answer_for(request_id, run, ending)

    def _answer_failed(
        self, worker: Worker, request_id: str, run: Running, failure: Failure, now: float
    ) -> Action:
        """A worker that somebody else told to leave refuses what it was still sent: another can run that."""
        if failure.code != Draining.code:
            return TellApi(run.api, Refused(request_id=request_id, attempt=run.attempt, failure=failure))
        if worker.state is State.READY:
            worker.receive(Signal.DRAIN, now)
        return self._answer_for(request_id, run, Ending("is leaving", Fault.NONE))

    def _answer_for(self, request_id: str, run: Running, ending: Ending) -> Action:
        if self.stopping:
            return refusal(run.api, request_id, run.attempt, draining())
        word = Resubmit(
            request_id=request_id,
            attempt=run.attempt,
            reason=f"its worker {ending.how}",
            blameless=ending.fault is Fault.NONE,
        )
        return TellApi(run.api, word)

    def _fail_load(
        self, worker: Worker, reason: str, now: float, *, permanent: bool = False, blameless: bool = False
    ) -> Iterator[Action]:
        """Who waits is refused; but a load that is ended from outside is tried again until the breaker opens."""
        worker.receive(Signal.STOP, now)
        model = worker.model
        if self.registry.ready(model) or self.registry.coming(model):
            return
        failure = self.loads.fail(model, reason, permanent, now)
        if blameless and not failure.broken:
            return
        for waiting in self.scheduler.withdraw(lambda waiting: waiting.submit.model == model):
            yield refuse(waiting, unavailable(model, failure, now))

    def _lose_peer(self, peer: str, now: float) -> Iterator[Action]:
        """A worker that is still loading has nothing to lose: its exit or its silence will tell more.

        One of ours is answered for when its process has ended, because how it ended says whose fault it was: sockets
        are closed before a process can be reaped.
        """
        if peer in self.registry.apis:
            yield from self._lose_api(peer, "lost its connection")
        elif (worker := self.registry.get(peer)) and worker.state in SERVING:
            if not worker.spawned:
                yield from self._give_up(worker, Ending("lost its connection"), now)
                return
            if worker.state is State.READY:
                worker.receive(Signal.DRAIN, now)
            yield Kill(worker.id, "lost its connection")

    def _give_up(self, worker: Worker, ending: Ending, now: float) -> Iterator[Action]:
        first = worker.state is not State.STOPPING
        yield from self._lose(worker, ending, now)
        if worker.spawned:
            worker.since = now
            stalled = first and ending.fault is Fault.CRASH
            yield Abort(worker.id, ending.how) if stalled else Kill(worker.id, ending.how)
        else:
            self.registry.given_up.append(worker.id)
            self._bury(worker, now)

    def _bury(self, worker: Worker, now: float, exited: WorkerExited | None = None) -> None:
        exited = exited or WorkerExited(worker.id, None)
        worker.receive(Signal.EXIT, now)
        self.registry.remove(worker)
        if fall := self._falls.pop(worker.id, None):
            self.deaths.record(worker, fall, exited.code, exited.last_lines)

    def _bury_foreign(self, worker: Worker, now: float) -> None:
        """Nobody tells us when a process ends that is not our child."""
        if not worker.spawned:
            self._bury(worker, now)

    def _end(self, event: WorkerExited, ending: Ending, now: float) -> Iterator[Action]:
        if worker := self.registry.get(event.worker):
            early = " before it was ready" if worker.state in COMING else ""
            story = f"{ending.how}{early}; the log at {self.life.log_of(worker.id)} says more"
            yield from self._lose(worker, Ending(story, ending.fault), now)
            self._bury(worker, now, event)

    # ---------------------------------------------------------------- time and the end

    def _expire(self, now: float) -> Iterator[Action]:
        for api in [name for name, api in self.registry.apis.items() if self._is_silent(api, now)]:
            yield from self._lose_api(api, f"was silent for {2 * self.timeouts.silence:g} s")
        for worker in list(self.registry):
            if why := overdue(worker, self.timeouts, now):
                fault = Fault.CRASH if worker.state in COMING and not worker.returning else Fault.OUTSIDE
                yield from self._give_up(worker, Ending(why, fault), now)
            elif worker.state in SERVING and worker.stalled(self.timeouts.stall, now):
                stall = Ending(f"made no step for {now - worker.moved:.0f} s", Fault.CRASH)
                yield from self._give_up(worker, stall, now)
            elif not worker.spawned and worker.in_flight and now - worker.heard > PROBE:
                yield self._pong(worker.id)  # fails at once when its connection is gone
            for request_id in [id for id, kept in worker.kept.items() if kept.until < now]:
                yield from release(worker, request_id, Cancel(request_id=request_id))
        for waiting in self.scheduler.expire(self.registry, now):
            model = waiting.submit.model
            message = f"No worker of {model!r} had room within {self.scheduler.limits.queue_age:g} s."
            seconds = self.scheduler.retry_after(waiting.submit, self.registry, now)
            yield refuse(waiting, QueueFull(message, retry_after=seconds))

    def _is_silent(self, api: Api, now: float) -> bool:
        return now - api.heard > 2 * self.timeouts.silence

    def _depart(self, event: Leave | StopAll, now: float) -> Iterator[Action]:
        if self.stopping:
            yield from (Kill(worker.id, "told to stop twice") for worker in self.registry if worker.spawned)
            yield Exit()
        elif isinstance(event, Leave):
            yield Exit()
        else:
            yield from self._stop_all(now)

    def _stop_all(self, now: float) -> Iterator[Action]:
        self.stopping = True
        for waiting in self.scheduler.withdraw(lambda _: True):
            yield refuse(waiting, draining())
        for worker in self.registry:
            if worker.spawned and worker.state is State.READY:
                worker.receive(Signal.DRAIN, now)
                yield TellWorker(worker.id, Drain())  # behind its last Run, which a signal would overtake
            elif worker.spawned and worker.state in COMING:
                worker.receive(Signal.STOP, now)
                yield Terminate(worker.id)


def release(worker: Worker, request_id: str, word: Done | Cancel) -> Iterator[Action]:
    if worker.kept.pop(request_id, None):
        yield TellWorker(worker.id, word)
