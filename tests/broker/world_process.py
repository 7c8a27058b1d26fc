"""A worker of the broker's world: what it runs, what it says, what it obeys."""

from collections import deque

from broker.events import WorkerSaid
from broker.requests.scheduler import Limits
from shared.errors import Draining
from shared.protocol import (
    BrokerToWorker,
    Cancel,
    Done,
    Drain,
    Failed,
    Failure,
    Heartbeat,
    Pong,
    RunHeader,
)
from tests.broker.plays import forward, ready

LIMITS = Limits(max_in_flight=3, queue_per_model=5, queue_total=8, queue_age=40)


class Process:
    """A worker as it is, whatever the broker thinks of it."""

    def __init__(self, id: str, model: str, spawned: bool) -> None:
        self.id = id
        self.model = model
        self.spawned = spawned
        self.ready = False
        self.silent = False
        self.hangs = False
        self.drains = False
        self.epoch = ""
        self.registered = 0  # in which life of the broker
        self.step = 0
        self.runs: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.words: deque[WorkerSaid] = deque()

    def obey(self, message: BrokerToWorker) -> None:
        match message:
            case RunHeader(submit=submit) if submit.request_id in self.ended:
                del self.ended[submit.request_id]
                self.end(submit.request_id, submit.attempt)
            case RunHeader(submit=submit) if self.drains and submit.request_id not in self.runs:
                leaving = Draining("I leave").to_failure()
                self.fail(submit.request_id, submit.attempt, leaving)
            case RunHeader(submit=submit):
                self.runs[submit.request_id] = submit.attempt
                assert len(self.runs) <= LIMITS.max_in_flight, "a worker got more than it may hold"
            case Cancel(request_id=request_id) | Done(request_id=request_id):
                self.runs.pop(request_id, None)
                self.ended.pop(request_id, None)
            case Drain():
                self.drains = True
            case Pong(epoch=epoch) if epoch != self.epoch:
                self.epoch = epoch
                if self.ready:
                    held = {**self.runs, **self.ended}
                    self.words.append(ready(self.id, self.model, held, epoch))

    def end(self, request_id: str, attempt: int) -> None:
        self.ended[request_id] = attempt
        self.words.append(forward(self.id, request_id, attempt=attempt))

    def fail(self, request_id: str, attempt: int, failure: Failure) -> None:
        failed = Failed(request_id=request_id, attempt=attempt, failure=failure)
        self.words.append(WorkerSaid(self.id, failed))

    def beat(self) -> None:
        self.step += not self.hangs
        word = Heartbeat(epoch=self.epoch, step=self.step, active=len(self.runs))
        self.words.append(WorkerSaid(self.id, word))
