"""The broker's promise, under random play: each attempt is answered once, and every request ends.

The world keeps what a real one would: a worker's words arrive in order but late, even after its death; apis come
again when told to; a killed process is gone at once, and its exit is learned some time later.
"""

import random
from collections import Counter, deque
from itertools import count

import pytest

from broker.core import Broker
from broker.events import (
    Action,
    ApiSaid,
    Event,
    Kill,
    PassOn,
    PeerGone,
    Spawn,
    SpawnFailed,
    TellApi,
    TellWorker,
    Tick,
    WorkerExited,
    WorkerSaid,
)
from broker.scheduler import Limits
from broker.startup import Survivor, Timeouts
from shared.protocol import (
    BrokerToApi,
    BrokerToWorker,
    Cancel,
    Done,
    Failed,
    Failure,
    Forward,
    Ping,
    Pong,
    Refused,
    Resubmit,
    RunHeader,
)
from tests.broker.plays import (
    API,
    ask,
    beat,
    cancel,
    forward,
    load_failed,
    loading,
    make_broker,
    ready,
    status,
)

MODELS = ("a", "b")
LIMITS = Limits(max_in_flight=3, queue_per_model=5, queue_total=8, queue_age=40)


class Process:
    """A worker as it is, whatever the broker thinks of it."""

    def __init__(self, id: str, model: str, ours: bool) -> None:
        self.id = id
        self.model = model
        self.ours = ours
        self.ready = False
        self.stalled = False
        self.epoch = ""
        self.runs: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.words: deque[WorkerSaid] = deque()

    def obey(self, message: BrokerToWorker) -> None:
        match message:
            case RunHeader(submit=submit):
                if self.ended.pop(submit.request_id, None):
                    self.end(submit.request_id, submit.attempt)
                else:
                    self.runs[submit.request_id] = submit.attempt
                assert len(self.runs) <= LIMITS.max_in_flight, "a worker got more than it may hold"
            case Cancel(request_id=request_id) | Done(request_id=request_id):
                self.runs.pop(request_id, None)
                self.ended.pop(request_id, None)
            case Pong(epoch=epoch) if epoch != self.epoch:
                self.epoch = epoch
                held = {**self.runs, **self.ended}
                if not self.ready:
                    return
                self.words.append(ready(self.id, self.model, held, epoch))

    def end(self, request_id: str, attempt: int) -> None:
        self.ended[request_id] = attempt
        self.words.append(forward(self.id, request_id, attempt=attempt))


class World:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.lives = 0
        self.numbers = count(1)
        self.now = 0.0
        self.broker = self.next_broker()
        self.epoch = "e1"
        self.alive: dict[str, Process] = {}
        self.dead: list[Process] = []
        self.exits: deque[WorkerExited] = deque()
        self.open: dict[str, tuple[str, int]] = {}  # request -> model, attempt
        self.cancelled: set[str] = set()
        self.answers: Counter[tuple[str, int]] = Counter()
        self.asked = 0

    def next_broker(self, survivors: tuple[Survivor, ...] = ()) -> Broker:
        self.lives += 1
        timeouts = Timeouts(silence=5, load=20, drain=10)
        return make_broker(
            MODELS, LIMITS, timeouts, survivors, f"e{self.lives}", self.numbers, started=self.now
        )

    # -------- between broker and world

    def play(self, event: Event) -> None:
        for action in self.broker.handle(event, self.now):
            self.act(action, event)

    def act(self, action: Action, cause: Event) -> None:
        match action:
            case Spawn(worker, model):
                self.alive[worker] = Process(worker, model, ours=True)
            case Kill(worker):
                self.die(worker, -9)
            case TellWorker(worker, message) if worker in self.alive:
                self.alive[worker].obey(message)
            case PassOn():
                assert isinstance(cause, WorkerSaid)
                assert isinstance(cause.message, Forward)
                for request_id, attempt in cause.message.ended.items():
                    if self.is_current(request_id, attempt):
                        self.answer(request_id, attempt)
                        del self.open[request_id]
                        self.play(ApiSaid(API, Done(request_id=request_id)))
            case TellApi(_, message):
                self.hear(message)

    def hear(self, message: BrokerToApi) -> None:
        """As an api does."""
        match message:
            case Pong(epoch=epoch) if epoch != self.epoch:
                self.epoch = epoch
                for request_id in list(self.open):
                    self.come_again(request_id)
            case Refused(request_id=request_id, attempt=attempt):
                self.answer(request_id, attempt)
                if self.is_current(request_id, attempt):
                    del self.open[request_id]
            case Resubmit(request_id=request_id, attempt=attempt):
                self.answer(request_id, attempt)
                if self.is_current(request_id, attempt):
                    self.come_again(request_id)

    def is_current(self, request_id: str, attempt: int) -> bool:
        return request_id in self.open and self.open[request_id][1] == attempt

    def come_again(self, request_id: str) -> None:
        model, attempt = self.open[request_id]
        self.open[request_id] = model, attempt + 1
        self.play(ask(request_id, model, attempt + 1))

    def answer(self, request_id: str, attempt: int) -> None:
        assert request_id not in self.cancelled, "answered after its cancel"
        self.answers[request_id, attempt] += 1
        assert self.answers[request_id, attempt] == 1, "answered twice"

    def die(self, worker: str, code: int) -> None:
        if process := self.alive.pop(worker, None):
            self.dead.append(process)
            if process.ours:
                self.exits.append(WorkerExited(worker, code))

    # -------- what may happen

    def begin(self) -> None:
        self.asked += 1
        request_id, model = f"r{self.asked}", self.rng.choice(MODELS)
        self.open[request_id] = model, 1
        self.play(ask(request_id, model))

    def cancel(self) -> None:
        if self.open:
            request_id = self.rng.choice(list(self.open))
            del self.open[request_id]
            self.cancelled.add(request_id)
            self.play(cancel(request_id))

    def submit_again(self) -> None:
        if self.open:
            request_id = self.rng.choice(list(self.open))
            model, attempt = self.open[request_id]
            more = self.rng.choice([0, 1])
            self.open[request_id] = model, attempt + more
            self.play(ask(request_id, model, attempt + more))

    def lose_api(self) -> None:
        self.play(PeerGone(API))
        self.play(ApiSaid(API, Ping()))

    def start_foreign(self) -> None:
        if sum(not process.ours for process in self.alive.values()) < 2:
            self.asked += 1
            process = Process(f"static-{self.asked}", self.rng.choice(MODELS), ours=False)
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
                process.words.append(load_failed(process.id, permanent=self.rng.random() < 0.5))
                self.die(process.id, 1)

    def finish(self) -> None:
        for process in self.some():
            if process.runs and not process.stalled:
                request_id, attempt = process.runs.popitem()
                process.end(request_id, attempt)

    def fail_run(self) -> None:
        for process in self.some():
            if process.runs and not process.stalled:
                request_id, attempt = process.runs.popitem()
                failure = Failure(status=400, code="c", message="m")
                failed = Failed(request_id=request_id, attempt=attempt, failure=failure)
                process.words.append(WorkerSaid(process.id, failed))

    def crash(self) -> None:
        for process in self.some():
            self.die(process.id, self.rng.choice([-9, -11, 0, 70]))

    def stall(self) -> None:
        for process in self.some():
            process.stalled = True

    def fail_spawn(self) -> None:
        for process in self.some():
            if process.ours and not process.ready and not process.words:
                del self.alive[process.id]
                self.play(SpawnFailed(process.id, "no"))

    def restart(self) -> None:
        """Killed: what it was told and what was said to it is lost, or some of it."""
        survivors = tuple(one for one in self.broker.known if one.id in self.alive)
        for process in self.alive.values():
            for _ in range(self.rng.randrange(len(process.words) + 1)):
                process.words.popleft()
        self.exits.clear()
        self.broker = self.next_broker(survivors)

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
            if process.id in self.alive and not process.stalled:
                process.words.append(beat(process.id))
            while process.words:
                self.play(process.words.popleft())
        self.dead = []
        while self.exits:
            self.play(self.exits.popleft())
        self.play(Tick())

    def some(self) -> list[Process]:
        alive = list(self.alive.values())
        return self.rng.sample(alive, min(1, len(alive)))

    def settle(self) -> None:
        """No more faults: what is open must come to an end."""
        for _ in range(400):
            if not self.open:
                break
            self.now += 0.9
            self.load()
            self.finish()
            self.tick()


@pytest.mark.parametrize("seed", range(200))
def test_each_attempt_is_answered_once_and_every_request_ends(seed: int) -> None:
    world = World(seed)
    often = [world.begin, world.load, world.finish, world.hear_one, world.hear_one, world.tick]
    rarely = [
        world.cancel, world.submit_again, world.lose_api, world.start_foreign, world.fail_load, world.fail_run,
        world.crash, world.stall, world.fail_spawn, world.lose_worker, world.restart,
    ]  # fmt: skip
    for _ in range(160):
        world.now += world.rng.random()
        world.rng.choice(often * 4 + rarely)()
    world.settle()
    assert not world.open
    world.tick()
    report = status(world.broker, world.now)
    assert (report.queued, report.in_flight) == (0, 0)


def test_the_plays_are_worth_playing() -> None:
    """They reach what they are for: many ends of each kind."""
    world = World(1)
    for _ in range(300):
        world.now += 0.1
        world.rng.choice([world.begin, world.load, world.finish, world.hear_one, world.crash])()
    assert max(attempt for _, attempt in world.answers) >= 2
    assert len(world.answers) > 30
