"""Short words for the broker's tests: what is said to the mind, and what is expected of it."""

from collections.abc import Collection, Iterator, Mapping
from itertools import count
from typing import Any

from broker.core import Broker
from broker.events import Action, ApiSaid, Event, Note, TellApi, TellWorker, WorkerSaid
from broker.requests.scheduler import Limits, Scheduler
from broker.rules import MemoryRules
from broker.startup import Life, Survivor, Timeouts
from shared.protocol import (
    BrokerToApi,
    Cancel,
    Forward,
    Generation,
    Heartbeat,
    KeyTerms,
    LoadFailed,
    Loading,
    Refused,
    Register,
    RunHeader,
    Sampling,
    Status,
    StatusReport,
    Submit,
    SubmitHeader,
    Task,
    TextPrompt,
    Waiting,
)
from shared.wire import header_of

TOKEN = "secret"
GENERATION = Generation(prompt=TextPrompt(text="hi"), sampling=Sampling(seed=1))
API = "api-1"
BODY = b"what only a worker opens"


def make_broker(
    models: Collection[str] = ("a", "b"),
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    survivors: tuple[Survivor, ...] = (),
    epoch: str = "e1",
    numbers: Iterator[int] | None = None,
    started: float = 0.0,
    rules: MemoryRules | None = None,
    pulls: tuple[str, ...] = (),
) -> Broker:
    """Its workers are called a#1, b#2 …"""
    numbers = numbers or count(1)
    life = Life(
        epoch=epoch,
        token=TOKEN,
        pid=1,
        started=started,
        name_worker=lambda model: f"{model}#{next(numbers)}",
        survivors=survivors,
        pulls=pulls,
    )
    limits = limits or Limits(max_in_flight=2, queue_per_model=3, queue_total=5, queue_age=100)
    timeouts = timeouts or Timeouts(silence=5, load=30, drain=60)
    return Broker(models, Scheduler(limits), timeouts, life, rules)


def submit(
    request_id: str,
    model: str = "a",
    attempt: int = 1,
    losses: int = 0,
    *,
    caller: str = "",
    group: str = "",
    digest: str = "",
    key: KeyTerms | None = None,
    task: Task = GENERATION,
) -> Submit:
    return Submit(
        request_id=request_id,
        attempt=attempt,
        model=model,
        task=task,
        losses=losses,
        caller=caller,
        group=group,
        digest=digest,
        key=key,
    )


def header(request_id: str, model: str = "a", attempt: int = 1, losses: int = 0, **more: Any) -> SubmitHeader:
    """As the broker reads it."""
    return header_of(submit(request_id, model, attempt, losses, **more))


def ask(
    request_id: str, model: str = "a", attempt: int = 1, api: str = API, losses: int = 0, **more: Any
) -> ApiSaid:
    return ApiSaid(api, header(request_id, model, attempt, losses, **more), BODY)


def cancel(request_id: str) -> ApiSaid:
    return ApiSaid(API, Cancel(request_id=request_id))


def run(worker: str, request_id: str, model: str = "a", attempt: int = 1, **more: Any) -> TellWorker:
    return TellWorker(worker, RunHeader(api=API, submit=header(request_id, model, attempt, **more)), BODY)


def loading(worker: str, done: int = 0, model: str | None = None, token: str = TOKEN) -> WorkerSaid:
    return WorkerSaid(worker, Loading(token=token, model=model or worker[0], pid=7, phase="load", done=done))


def ready(
    worker: str,
    model: str | None = None,
    held: Mapping[str, int] = {},
    epoch: str = "",
) -> WorkerSaid:
    word = Register(
        epoch=epoch,
        token=TOKEN,
        model=model or worker[0],
        pid=7,
        digest="d",
        context_length=4096,
        held=dict(held),
    )
    return WorkerSaid(worker, word)


def beat(worker: str, epoch: str = "e1") -> WorkerSaid:
    return WorkerSaid(worker, Heartbeat(epoch=epoch, step=1, active=0))


def forward(worker: str, *ended: str, attempt: int = 1) -> WorkerSaid:
    return WorkerSaid(worker, Forward(api=API, ended=dict.fromkeys(ended, attempt)))


def load_failed(worker: str, permanent: bool) -> WorkerSaid:
    return WorkerSaid(worker, LoadFailed(reason="no such file", permanent=permanent))


def play(broker: Broker, *events: Event, now: float = 0.0) -> list[Action]:
    """What came of the last one, without lines for the log and places in queues."""
    actions: list[Action] = []
    for event in events:
        actions = broker.handle(event, now)
    return [action for action in actions if not (isinstance(action, Note) or tells_places(action))]


def tells_places(action: Action) -> bool:
    return isinstance(action, TellApi) and isinstance(action.message, Waiting)


def notes(actions: list[Action]) -> list[str]:
    return [action.line for action in actions if isinstance(action, Note)]


def said(actions: list[Action]) -> list[BrokerToApi]:
    return [action.message for action in actions if isinstance(action, TellApi)]


def refusals(actions: list[Action]) -> list[tuple[str, str]]:
    """Who was refused, and the code."""
    return [(m.request_id, m.failure.code) for m in said(actions) if isinstance(m, Refused)]


def reason(actions: list[Action]) -> str:
    """The message of the only refusal."""
    [refused] = [message for message in said(actions) if isinstance(message, Refused)]
    return refused.failure.message


def status(broker: Broker, now: float = 0.0) -> StatusReport:
    [report] = said(broker.handle(ApiSaid("api-status", Status(query="q")), now))
    assert isinstance(report, StatusReport)
    return report


class ManualClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
