"""A world around the broker's core for random plays: an api, workers, exits and time, and what must hold between them.

It keeps what a real one would: a worker's messages arrive in order but late, even after its end; an api submits again
when it is told to or sees a new epoch; a killed process is gone at once, and its exit is learned some time later.

Rule 1: an attempt is answered once, and nothing is answered after its cancel.
Rule 2: a refusal has a cause that the world has seen: `check_refusal`.
Rule 3: no request waits while a ready worker of its model has room: `check_queue`.
Rule 4: a cancel reaches every worker that runs the request: `cancel`.
"""

import random
from collections import Counter, deque
from itertools import count

from broker.core import Broker
from broker.events import (
    Abort,
    Action,
    ApiSaid,
    EndSpare,
    Event,
    Exit,
    Kill,
    Leave,
    PassOn,
    PeerGone,
    SpareEnded,
    SpareSaid,
    Spawn,
    SpawnFailed,
    StartSpare,
    StopAll,
    TellApi,
    TellWorker,
    Terminate,
    Tick,
    WorkerExited,
    WorkerSaid,
)
from broker.rules import MemoryRules
from broker.startup import Survivor, Timeouts
from shared.protocol import (
    BrokerToApi,
    Bye,
    Done,
    Failed,
    Failure,
    Forward,
    Goodbye,
    Ping,
    Pong,
    Refused,
    Register,
    Resubmit,
    RunHeader,
    StatusReport,
)
from tests.broker.plays import (
    API,
    BODY,
    cancel,
    header,
    load_failed,
    loading,
    make_broker,
    ready,
    status,
)
from tests.broker.world_process import LIMITS, Process

MODELS = ("a", "b")
TIMEOUTS = Timeouts(silence=5, stall=6, load=20, drain=10)
OWN_FAILURE = Failure(status=400, code="c", message="m")
CRASHES = (-11, 70)
FROM_OUTSIDE = (-9, 0)
SIGNALS = {Kill: -9, Abort: -6, Terminate: -15}
SPARE = 10**9 // 4  # bytes


class World:
    def __init__(self, seed: int, rules: MemoryRules | None = None) -> None:
        self.rng = random.Random(seed)
        self.rules = rules
        self.lives = 0
        self.numbers = count(1)
        self.now = 0.0
        self.stopping = self.exited = False
        self.broker = self.next_broker()
        self.epoch = "e1"
        self.alive: dict[str, Process] = {}
        self.dead: list[Process] = []
        self.spares: set[str] = set()
        self.exits: deque[WorkerExited | SpareEnded] = deque()
        self.caused: deque[Event] = deque()  # not handled yet; the first is being handled
        self.open: dict[str, tuple[str, int]] = {}  # request -> model, attempt
        self.cancelled: set[str] = set()
        self.failed: set[tuple[str, int]] = set()  # by a worker, in its own words
        self.crashed: Counter[str] = Counter()  # how many crashes each request has been in
        self.crashers: set[str] = set()  # workers that have crashed
        self.unloadable: set[str] = set()  # models of which a load has failed
        self.answers: Counter[tuple[str, int]] = Counter()
        self.ends: Counter[str] = Counter()  # by how a request ended: served, or the code of its refusal
        self.asked = 0

    def next_broker(self, survivors: tuple[Survivor, ...] = ()) -> Broker:
        self.lives += 1
        self.born = self.now
        self.stopping = self.exited = False
        epoch = f"e{self.lives}"
        return make_broker(
            MODELS, LIMITS, TIMEOUTS, survivors, epoch, self.numbers, started=self.now, rules=self.rules
        )

    # ---------------------------------------------------------------- between broker and world

    def play(self, event: Event) -> None:
        """The event, and then, once all its actions are done, the events that they cause."""
        self.caused.append(event)
        if len(self.caused) > 1:
            return
        while self.caused:
            cause = self.caused[0]
            self.note(cause)
            for action in self.broker.handle(cause, self.now):
                self.act(action, cause)
            self.caused.popleft()

    def note(self, event: Event) -> None:
        match event:
            case WorkerSaid(message=Failed(request_id=request_id, attempt=attempt)):
                self.failed.add((request_id, attempt))
            case WorkerSaid(worker, Register()) if worker in self.alive:
                self.alive[worker].registered = self.lives

    def act(self, action: Action, cause: Event) -> None:
        match action:
            case StartSpare() | EndSpare():
                self.act_on_spare(action)
            case Spawn(worker, model, spare):
                self.spares.discard(spare)  # without it a new process is started
                self.alive[worker] = Process(worker, model, spawned=True)
            case Kill() | Abort() | Terminate():
                self.die(action.worker, SIGNALS[type(action)])
            case TellWorker(worker, Goodbye()):
                self.die(worker, 0)
            case TellWorker(worker, message) if worker in self.alive:
                self.alive[worker].obey(message)
            case TellWorker(worker, RunHeader(submit=submit)) if worker in self.crashers:
                self.crashed[submit.request_id] += 1  # sent before its exit is learned, which then blames it
            case PassOn():
                assert isinstance(cause, WorkerSaid) and isinstance(cause.message, Forward)
                self.hear_ends(cause.message)
            case TellApi(_, message):
                self.hear(message)
            case Exit():
                self.exited = True

    def hear_ends(self, said: Forward) -> None:
        for request_id, attempt in said.ended.items():
            if self.is_current(request_id, attempt):
                self.answer(request_id, attempt)
                self.close(request_id, "served")
                self.play(ApiSaid(API, Done(request_id=request_id)))

    def hear(self, message: BrokerToApi) -> None:
        """As an api does."""
        match message:
            case Pong(epoch=epoch) if epoch != self.epoch:
                self.epoch = epoch
                for request_id in list(self.open):
                    self.come_again(request_id)
            case Refused(request_id=request_id, attempt=attempt, failure=failure):
                self.answer(request_id, attempt)
                if self.is_current(request_id, attempt):
                    self.check_refusal(request_id, attempt, failure.code)
                    self.close(request_id, failure.code)
            case Resubmit(request_id=request_id, attempt=attempt):
                self.answer(request_id, attempt)
                if self.is_current(request_id, attempt):
                    self.come_again(request_id)

    def is_current(self, request_id: str, attempt: int) -> bool:
        return request_id in self.open and self.open[request_id][1] == attempt

    def submit(self, request_id: str, model: str, attempt: int) -> None:
        """No two requests say the same."""
        self.open[request_id] = model, attempt
        submit = header(request_id, model, attempt).model_copy(update={"fingerprint": request_id.encode()})
        self.play(ApiSaid(API, submit, BODY))

    def come_again(self, request_id: str) -> None:
        model, attempt = self.open[request_id]
        self.submit(request_id, model, attempt + 1)

    def answer(self, request_id: str, attempt: int) -> None:
        assert request_id not in self.cancelled, "answered after its cancel"
        self.answers[request_id, attempt] += 1
        assert self.answers[request_id, attempt] == 1, "answered twice"

    def close(self, request_id: str, how: str) -> None:
        del self.open[request_id]
        self.ends[how] += 1

    def die(self, worker: str, code: int) -> None:
        if process := self.alive.pop(worker, None):
            self.dead.append(process)
            if code in (*CRASHES, -6):
                self.crashed.update(process.runs)
                self.crashers.add(worker)
            if process.registered < self.lives:
                self.unloadable.add(process.model)
            if process.spawned:
                self.exits.append(WorkerExited(worker, code))

    def act_on_spare(self, action: StartSpare | EndSpare) -> None:
        if isinstance(action, StartSpare):
            self.spares.add(action.spare)
        else:
            self.end_spare(action.spare)

    def end_spare(self, spare: str) -> None:
        if spare in self.spares:
            self.spares.remove(spare)
            self.exits.append(SpareEnded(spare, "was killed by SIGKILL"))

    # ---------------------------------------------------------------- what must hold

    def with_room(self, report: StatusReport, model: str) -> bool:
        """Whether a ready worker of the model has room that the broker may give to any request.

        What survivors of an earlier broker still run may take their room, for as long as no api claims it; a request
        that was in a crash may be a suspect, which has a worker for itself.
        """
        if self.rules:  # a worker that is to make room for another gets nothing new
            return False
        recovered = self.now > self.born + 2 * TIMEOUTS.silence + 1 or self.lives == 1
        if not recovered or any(self.crashed[request_id] for request_id in self.open):
            return False
        return any(
            worker.model == model and worker.state == "ready" and worker.in_flight < LIMITS.max_in_flight
            for worker in report.workers
        )

    def check_refusal(self, request_id: str, attempt: int, code: str) -> None:
        model, _ = self.open[request_id]
        report = status(self.broker, self.now)
        match code:
            case OWN_FAILURE.code:
                assert (request_id, attempt) in self.failed, "refused in words that no worker said"
            case "draining":
                assert self.stopping, "refused as if the broker were stopping"
            case "queue_full":
                assert not self.with_room(report, model), "refused while a ready worker had room"
            case "model_unavailable":
                unknown = any(p.model == model and p.registered < self.lives for p in self.alive.values())
                assert unknown or model in self.unloadable, "refused for a load that never failed"
                assert not any(w.model == model and w.state == "ready" for w in report.workers), (
                    "refused as unavailable while a ready worker served the model"
                )
            case "request_crashed_engine":
                assert self.crashed[request_id] >= 2, "refused for crashes that it was not in"
            case _:
                raise AssertionError(f"refused without a cause: {code}")

    def check_spares(self) -> None:
        """No more than are wanted, and all of them, with the workers, within the budget."""
        if not self.rules or not self.rules.spares:
            assert not self.spares
            return
        memory = status(self.broker, self.now).memory
        assert len(self.spares) <= self.rules.spares
        assert self.spares <= memory.spares.keys(), "the broker has forgotten one"
        assert memory.used <= memory.budget, "more than the budget is in use"

    def check_queue(self) -> None:
        report = status(self.broker, self.now)
        for model in report.models:
            waits = model.queued > 0 and not self.stopping
            assert not (waits and self.with_room(report, model.id)), "waits while a ready worker has room"

    # ---------------------------------------------------------------- what may happen

    def begin(self) -> None:
        self.asked += 1
        self.submit(f"r{self.asked}", self.rng.choice(MODELS), 1)

    def cancel(self) -> None:
        if self.open:
            request_id = self.rng.choice(list(self.open))
            del self.open[request_id]
            self.cancelled.add(request_id)
            serving = {
                w.id for w in status(self.broker, self.now).workers if w.state in ("ready", "draining")
            }
            self.play(cancel(request_id))
            running = {process.id for process in self.alive.values() if request_id in process.runs}
            assert not running & serving, "a cancel did not reach the worker"

    def submit_again(self) -> None:
        if self.open:
            request_id = self.rng.choice(list(self.open))
            model, attempt = self.open[request_id]
            self.submit(request_id, model, attempt + self.rng.choice([0, 1]))

    def lose_api(self) -> None:
        self.play(PeerGone(API))
        self.play(ApiSaid(API, Ping()))

    def start_foreign(self) -> None:
        if sum(not process.spawned for process in self.alive.values()) < 2:
            self.asked += 1
            process = Process(f"static-{self.asked}", self.rng.choice(MODELS), spawned=False)
            self.alive[process.id] = process

    def load(self) -> None:
        for process in self.some():
            if not process.ready:
                process.words.append(loading(process.id, done=self.rng.randrange(9), model=process.model))
                process.ready = self.rng.random() < 0.6
                if process.ready:
                    process.words.append(ready(process.id, process.model, epoch=process.epoch))

    def fail_load(self) -> None:
        for process in self.some():
            if not process.ready:
                self.unloadable.add(process.model)
                process.words.append(load_failed(process.id, permanent=self.rng.random() < 0.5))
                self.die(process.id, 1)

    def finish(self) -> None:
        for process in self.some():
            if process.runs and not process.silent and not process.hangs:
                request_id, attempt = process.runs.popitem()
                process.end(request_id, attempt)

    def fail_run(self) -> None:
        for process in self.some():
            if process.runs and not process.silent:
                request_id, attempt = process.runs.popitem()
                process.fail(request_id, attempt, OWN_FAILURE)

    def end_from_outside(self) -> None:
        for process in self.some():
            self.die(process.id, self.rng.choice(FROM_OUTSIDE))

    def crash(self) -> None:
        for process in self.some():
            self.die(process.id, self.rng.choice(CRASHES))

    def fall_silent(self) -> None:
        for process in self.some():
            process.silent = True

    def hang(self) -> None:
        """It beats and makes no step."""
        for process in self.some():
            process.hangs = True

    def drain(self) -> None:
        """An operator's SIGTERM."""
        for process in self.some():
            process.drains = process.ready

    def say_bye(self) -> None:
        """It leaves at once, whatever it runs."""
        for process in self.some():
            if process.ready:
                self.leave(process)

    def leave(self, process: Process) -> None:
        process.words.append(WorkerSaid(process.id, Bye(reason="exit 0")))
        self.die(process.id, 0)

    def fail_spawn(self) -> None:
        for process in self.some():
            if process.spawned and not process.ready and not process.words:
                del self.alive[process.id]
                self.unloadable.add(process.model)
                self.play(SpawnFailed(process.id, "no"))

    def stop(self) -> None:
        self.stopping = True
        self.play(StopAll())

    def replace(self) -> None:
        """An orderly restart: the workers stay."""
        self.play(Leave())

    def restart(self) -> None:
        """Killed: messages to and from it are lost, or some of them."""
        survivors = tuple(one for one in self.broker.known if one.id in self.alive)
        for process in self.alive.values():
            for _ in range(self.rng.randrange(len(process.words) + 1)):
                process.words.popleft()
        self.exits.clear()
        self.spares.clear()  # each ends with its broker
        self.dead.clear()  # what they said is lost with the broker that would have read it
        self.broker = self.next_broker(survivors)

    def lose_spare(self) -> None:
        for spare in sorted(self.spares)[:1]:
            self.end_spare(spare)

    def import_spare(self) -> None:
        for spare in sorted(self.spares)[:1]:
            self.play(SpareSaid(spare, SPARE))

    def lose_worker(self) -> None:
        for process in self.some():
            self.play(PeerGone(process.id))

    def hear_one(self) -> None:
        speaking = [p for p in [*self.alive.values(), *self.dead] if p.words]
        if speaking:
            self.play(self.rng.choice(speaking).words.popleft())
        elif self.exits:
            self.play(self.exits.popleft())

    def tick(self) -> None:
        self.play(ApiSaid(API, Ping()))
        for process in [*self.alive.values(), *self.dead]:
            if process.id in self.alive and not process.silent:
                process.beat()
            while process.words:
                self.play(process.words.popleft())
        for process in list(self.alive.values()):
            if process.drains and not process.runs:
                self.leave(process)
        self.dead = [process for process in self.dead if process.words]
        while self.exits:
            self.play(self.exits.popleft())
        self.play(Tick())
        self.check_queue()
        self.check_spares()

    def do(self, what: str) -> None:
        getattr(self, what)()
        if self.exited:
            self.restart()

    def some(self) -> list[Process]:
        alive = list(self.alive.values())
        return self.rng.sample(alive, min(1, len(alive)))

    def settle(self) -> None:
        """No more faults: what is open must come to an end."""
        for _ in range(400):
            if not self.open:
                return
            self.now += 0.9
            for what in ("load", "finish", "tick"):
                self.do(what)
