"""The link thread: the only one that touches ZeroMQ, heartbeats and signals.

It owns the record of each request this worker has accepted, until the api is done with it. It survives its broker: a
new epoch makes it register again; no broker for ``orphan_grace`` makes it leave. The other threads speak to it
through ``post``, which wakes it.
"""

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import psutil
import zmq

from shared import exits, wire
from shared.errors import CannotBePassedOn, Draining, ServingError
from shared.failpoints import failpoint
from shared.protocol import (
    Ack,
    Bye,
    Cancel,
    Chunks,
    Delta,
    Done,
    Drain,
    Failed,
    Failure,
    Forward,
    Goodbye,
    Heartbeat,
    LoadFailed,
    Loading,
    Part,
    Pong,
    Register,
    Run,
    RunHeader,
)
from shared.settings import Settings
from shared.sockets import dealer
from workers.job import Job, Output, Served
from workers.loop import Add, Cancelled, Finish, Inbox, Share
from workers.request.preparation import Preparing, overrun_failure
from workers.unacked import Record

log = logging.getLogger(__name__)

MOST_STUCK = 4  # preparing threads that will not end; then a new worker is better than this one


@dataclass(frozen=True)
class Who:
    """``id`` is the ZeroMQ routing id too, never used twice."""

    id: str
    model: str
    token: str


@dataclass(frozen=True)
class Loaded:
    """The model can serve. ``steps`` counts the engine's, for the heartbeat."""

    served: Served
    steps: Callable[[], int]


@dataclass(frozen=True)
class LoadingProgress:
    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class LoadingFailed:
    reason: str
    permanent: bool


@dataclass(frozen=True)
class Outputs:
    outputs: list[Output]


@dataclass(frozen=True)
class Prepared:
    job: Job


@dataclass(frozen=True)
class CannotRun:
    request_id: str
    attempt: int
    failure: Failure


@dataclass(frozen=True)
class Finished:
    """The engine thread has nothing left and has returned."""


Posted = Loaded | LoadingProgress | LoadingFailed | Outputs | Prepared | CannotRun | Finished


class Link:
    def __init__(self, settings: Settings, who: Who, inbox: Inbox) -> None:
        self._settings = settings
        self._who = who
        self._inbox = inbox
        self._posted: deque[Posted] = deque()
        self._waked, self._waker = os.pipe()
        for end in (self._waked, self._waker):
            os.set_blocking(end, False)
        self._preparing: Preparing | None = None  # once the model is loaded
        self.preparing = 0  # requests that have come and are not in the inbox yet
        self._records: dict[str, Record] = {}
        self._loading = LoadingProgress("starting", 0, 0)
        self._loaded: Loaded | None = None
        self._epoch = ""
        self._last_pong = self._next_beat = time.monotonic()
        self._busy = 1
        self._told_to_end = 0  # how often
        self._drain_until: float | None = None
        self._finishing = False
        self._exit: int | None = None
        self._process = psutil.Process()
        self._socket = dealer(zmq.Context.instance(), self._settings.worker_socket, self._who.id)

    def post(self, item: Posted) -> None:
        """From any thread."""
        self._posted.append(item)
        self._wake()

    def run(self) -> int:
        """Until this worker is done; gives the exit code."""
        self._watch_signals()
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._waked, zmq.POLLIN)
        now = time.monotonic()
        while self._exit is None:
            self._beat(now)
            poller.poll(int(1000 * max(0.0, self._next_beat - time.monotonic())) + 1)
            now = time.monotonic()  # of the whole turn: a stop in the middle of it counts in the next one
            self._forgive_sleep(now)
            self._clear_wake()
            self._hear_all()
            if self._told_to_end:  # after what was sent before the signal, which overtakes it
                self._drain("SIGTERM")
                self._exit = 0 if self._told_to_end > 1 else self._exit
            while self._posted:
                self._take(self._posted.popleft())
            self._give_up_overdue(now)
            self._finish()
            self._judge(now)
        self._say(Bye(reason=f"exit {self._exit}"))
        self._socket.close(linger=200)
        zmq.Context.instance().term()  # waits for what lingers
        return self._exit

    # ------------------------------------------------------------ broker

    def _say(self, message: Part) -> None:
        """What no message can carry is left out: one message is no reason to end."""
        try:
            self._socket.send(wire.encode(message))
        except CannotBePassedOn as error:
            log.error("a %s could not be said: %s", type(message).__name__, error.message)

    def _hear_all(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = wire.decode(wire.TO_WORKER, frames[0])
            except wire.ProtocolError as error:
                log.error("the broker sent what is no message: %s", error)
                self._drain("it does not understand its broker")
                continue
            if isinstance(message, RunHeader):
                self._open(message, frames[1] if len(frames) > 1 else b"")
            else:
                self._hear(message)

    def _open(self, header: RunHeader, body: bytes) -> None:
        """What cannot be read is this request's failure and nobody else's."""
        try:
            run = wire.opened(header, body)
        except wire.ProtocolError as error:
            asked = header.submit
            log.error("request %s cannot be read: %s", asked.request_id, error)
            failure = ServingError("The worker cannot read this request.").to_failure()
            self._say(Failed(request_id=asked.request_id, attempt=asked.attempt, failure=failure))
        else:
            self._accept(run)

    def _hear(self, message: Part) -> None:
        match message:
            case Cancel(request_id=request_id) | Done(request_id=request_id):
                self._forget(request_id)
            case Pong(epoch=epoch, busy=busy):
                self._last_pong = time.monotonic()
                if busy != self._busy:
                    self._busy = busy
                    self._inbox.put(Share(busy))
                if epoch != self._epoch:
                    self._epoch = epoch
                    self._introduce()
            case Drain():
                self._drain("the broker asked for it")
            case Goodbye(reason=reason):
                log.warning("told to leave: %s", reason)
                self._exit = 0
            case Ack(request_id=request_id, choice=choice, next_index=next_index):
                if record := self._records.get(request_id):
                    record.acknowledge(choice, next_index)

    def _introduce(self) -> None:
        who = self._who
        if self._loaded is None:
            now = self._loading
            self._say(
                Loading(
                    token=who.token,
                    model=who.model,
                    pid=os.getpid(),
                    phase=now.phase,
                    done=now.done,
                    total=now.total,
                )
            )
            return
        self._say(
            Register(
                epoch=self._epoch,
                token=who.token,
                model=who.model,
                pid=os.getpid(),
                digest=self._loaded.served.digest,
                context_length=self._loaded.served.context_length,
                capabilities=self._loaded.served.capabilities,
                held={request_id: record.attempt for request_id, record in self._records.items()},
            )
        )

    def _beat(self, now: float) -> None:
        if now < self._next_beat:
            return
        self._next_beat = now + self._settings.heartbeat_interval
        self._forget_unclaimed(now - self._settings.resume_timeout)
        if self._loaded is None:
            self._introduce()
            return
        self._say(
            Heartbeat(
                epoch=self._epoch,
                step=self._loaded.steps(),
                active=self._active,
                preparing=self._being_prepared,
                memory=self._process.memory_info().rss,
                engine=self._loaded.served.engine.report,
            )
        )

    # ------------------------------------------------------------ requests

    def _accept(self, run: Run) -> None:
        submit = run.submit
        failpoint("worker.run")
        if self._goes_on(run):
            return
        self._forget(submit.request_id)
        if self._drain_until is not None or self._preparing is None:
            failure = Draining("This worker is leaving; try again.", retry_after=1).to_failure()
            self._say(Failed(request_id=submit.request_id, attempt=submit.attempt, failure=failure))
            return
        self._records[submit.request_id] = Record(run)
        self.preparing += 1
        self._preparing.submit(run)

    def _goes_on(self, run: Run) -> bool:
        """It is here already, and what is kept of it joins what the api holds."""
        record = self._records.get(run.submit.request_id)
        again = record.adopt(run) if record else None
        if record is None or again is None:
            return False
        if again:
            ended = {run.submit.request_id: record.attempt} if record.ended else {}
            self._send_chunks(record.api, again, ended)
        return True

    def _prepared(self, run: Run, outcome: Job | Failure) -> None:
        """On a preparing thread."""
        if isinstance(outcome, Job):
            self.post(Prepared(outcome))
        else:
            self.post(CannotRun(run.submit.request_id, run.submit.attempt, outcome))

    def _give_up_overdue(self, now: float) -> None:
        """A preparation that does not come to its end is this request's failure and nobody else's."""
        if self._preparing is None:
            return
        for run in self._preparing.give_up_overdue(now):
            submit = run.submit
            log.warning("request %s was not prepared in time", submit.request_id)
            failure = overrun_failure(run, self._settings.prepare_timeout)
            self._take(CannotRun(submit.request_id, submit.attempt, failure))
        if self._preparing.stuck >= MOST_STUCK:
            self._drain("preparations that do not end keep its cores busy")

    def _forget(self, request_id: str) -> None:
        record = self._records.pop(request_id, None)
        if record and self._preparing and self._preparing.withdraw(request_id):
            self.preparing -= 1
        elif record and not record.ended:
            self._inbox.put(Cancelled(request_id))

    def _running(self, request_id: str, attempt: int) -> Record | None:
        """The record of what the engine runs under this attempt, unless it has been replaced."""
        record = self._records.get(request_id)
        return record if record and record.running == attempt and not record.ended else None

    @property
    def _being_prepared(self) -> int:
        """Also of those that nobody waits for any more; but no more than are active."""
        return min(self.preparing, self._active)

    @property
    def _digest(self) -> str:
        return self._loaded.served.digest if self._loaded else ""

    @property
    def _active(self) -> int:
        return sum(not record.ended for record in self._records.values())

    # ------------------------------------------------------------ what other threads posted

    def _take(self, item: Posted) -> None:
        match item:
            case Outputs(outputs):
                self._forward(outputs)
            case Prepared(job):
                if self._running(job.request_id, job.attempt):
                    self._inbox.put(Add(job))
                self.preparing -= 1
            case CannotRun(request_id, attempt, failure):
                self.preparing -= 1
                if record := self._running(request_id, attempt):
                    del self._records[request_id]
                    self._say(Failed(request_id=request_id, attempt=record.attempt, failure=failure))
            case LoadingProgress():
                news = item.phase != self._loading.phase
                self._loading = item
                if news:  # the rest goes with the heartbeat
                    self._introduce()
            case Loaded(served):
                self._loaded = item
                limit = self._settings.prepare_timeout
                self._preparing = Preparing(served.prepare, self._prepared, limit)
                self._introduce()
            case LoadingFailed(reason, permanent):
                self._say(LoadFailed(reason=reason, permanent=permanent))
                self._exit = exits.MISCONFIGURED if permanent else exits.LOAD_MAY_WORK
            case Finished():
                self._exit = 0

    def _forward(self, outputs: list[Output]) -> None:
        """One message per api process, with all its rows of this step."""
        deltas: dict[str, list[Delta]] = {}
        ended: dict[str, dict[str, int]] = {}
        for output in outputs:
            request_id = output.delta.request_id
            record = self._running(request_id, output.delta.attempt)
            if record is None:
                continue
            deltas.setdefault(record.api, []).append(record.keep(output.delta))
            if record.ended:
                record.ended_at = time.monotonic()
                ended.setdefault(record.api, {})[request_id] = record.attempt
        for api, rows in deltas.items():
            self._send_chunks(api, rows, ended.get(api, {}))

    def _send_chunks(self, api: str, rows: list[Delta], ended: dict[str, int]) -> None:
        header = Forward(api=api, ended=ended)
        failpoint("worker.says_end" if ended else "worker.says", rows[-1].index)
        try:
            body = wire.encode(Chunks(deltas=rows, digest=self._digest))
        except CannotBePassedOn as error:
            self._send_one_by_one(api, rows, ended, error)
            return
        self._socket.send_multipart([wire.encode(header), body])
        failpoint("worker.said_end" if ended else "worker.said", rows[-1].index)

    def _send_one_by_one(
        self, api: str, rows: list[Delta], ended: dict[str, int], error: CannotBePassedOn
    ) -> None:
        """Only the request whose delta no message can carry fails."""
        if len(rows) == 1:
            self._fail(rows[0].request_id, rows[0].attempt, error)
            return
        last = {row.request_id: at for at, row in enumerate(rows)}
        for at, row in enumerate(rows):
            if row.request_id in self._records:
                ends = row.request_id in ended and last[row.request_id] == at
                self._send_chunks(api, [row], {row.request_id: ended[row.request_id]} if ends else {})

    def _fail(self, request_id: str, attempt: int, error: ServingError) -> None:
        log.error("request %s: %s", request_id, error.message)
        self._forget(request_id)
        self._say(Failed(request_id=request_id, attempt=attempt, failure=error.to_failure()))

    # ------------------------------------------------------------ leaving

    def _forgive_sleep(self, now: float) -> None:
        """While this process was stopped, nobody else was late."""
        slept = now - self._next_beat
        if slept > self._settings.heartbeat_interval:
            self._last_pong += slept
            if self._preparing:
                self._preparing.forgive(slept)
            if self._drain_until is not None:
                self._drain_until += slept

    def _judge(self, now: float) -> None:
        if self._drain_until is not None and now > self._drain_until:
            log.warning("%d requests were not finished in time", self._active)
            self._exit = 0
        if now - self._last_pong > self._settings.orphan_grace:
            log.warning("no broker for %.0f s", now - self._last_pong)
            self._exit = 0

    def _forget_unclaimed(self, before: float) -> None:
        """An api waits no longer for a lost broker, and then does not ask for what has ended."""
        old = [id for id, r in self._records.items() if r.ended_at is not None and r.ended_at < before]
        for request_id in old:
            del self._records[request_id]

    def _drain(self, why: str) -> None:
        """Once; what is not finished when it ends goes on elsewhere."""
        if self._drain_until is not None:
            return
        log.info("leaving: %s; %d requests to finish", why, self._active)
        self._drain_until = time.monotonic() + self._settings.drain_timeout
        if self._loaded is None:
            self._exit = 0

    def _finish(self) -> None:
        """Tells the engine once there is nothing left to prepare: what was accepted before is not left behind."""
        if self._drain_until is not None and not self._finishing and not self.preparing:
            self._finishing = True
            self._inbox.put(Finish())

    def _watch_signals(self) -> None:
        def on_term(_signal: int, _frame: FrameType | None) -> None:
            self._told_to_end += 1
            self._wake()

        signal.signal(signal.SIGTERM, on_term)
        signal.signal(signal.SIGINT, on_term)

    def _wake(self) -> None:
        try:
            os.write(self._waker, b"\0")
        except BlockingIOError:
            pass  # it is awake

    def _clear_wake(self) -> None:
        try:
            while os.read(self._waked, 4096):
                pass
        except BlockingIOError:
            pass
