"""The link thread: the only thread that uses ZeroMQ, sends heartbeats and handles signals.

Rule 1: it decodes headers only; ``accepted`` decides what is answered and retained.
Rule 2: it survives its broker: it registers again with a new epoch, and exits after ``orphan_grace`` without a broker.
Rule 3: other threads reach it only through ``post``, which wakes it.
"""

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from types import FrameType

from shared import exits, wire
from shared.errors import CannotBePassedOn, Draining, ServingError
from shared.failpoints import failpoint
from shared.protocol import (
    Ack,
    Bye,
    Cancel,
    Chunks,
    Done,
    Drain,
    Failed,
    Failure,
    ForgetPrompts,
    Forward,
    Goodbye,
    Heartbeat,
    Lease,
    LoadFailed,
    Loading,
    MemoryUse,
    Part,
    Pong,
    PromptsForgotten,
    Register,
    RunHeader,
)
from shared.settings import Settings
from workers.accepted import AcceptedRequests, DeltaBatch
from workers.broker_socket import BrokerSocket, WorkerIdentity
from workers.footprint import footprint
from workers.job import Runnable
from workers.loop import Add, Cancelled, ForgetKept, Inbox, SetLease, ShareCores, StopWhenIdle
from workers.posted import (
    CannotRun,
    EngineDone,
    LeaseObeyed,
    Loaded,
    LoadingFailed,
    LoadingProgress,
    Outputs,
    Posted,
    Prepared,
    PromptsGone,
)
from workers.request.preparation import PreparationPool

log = logging.getLogger(__name__)

MOST_STUCK = 4  # preparing threads that do not end; with so many the worker drains


class Link:
    def __init__(
        self,
        settings: Settings,
        who: WorkerIdentity,
        inbox: Inbox,
        footprint: Callable[[], int] = footprint,
    ) -> None:
        """``footprint``: bytes of all that this worker consists of."""
        self._footprint = footprint
        self._settings = settings
        self._identity = who
        self._inbox = inbox
        self._posted: deque[Posted] = deque()
        self._pool: PreparationPool | None = None  # set when the model is loaded
        self.preparing = 0  # requests that have arrived and are not in the inbox yet
        self._requests = AcceptedRequests()
        self._loading = LoadingProgress("starting", 0, 0)
        self._loaded: Loaded | None = None
        self._epoch = ""
        self._last_pong = self._next_beat = time.monotonic()
        self._busy = 1
        self._told_to_end = 0  # count of SIGTERM and SIGINT
        self._drain_until: float | None = None
        self._finishing = False
        self._exit: int | None = None
        self._socket = BrokerSocket(who, settings.worker_socket)

    def post(self, item: Posted) -> None:
        """Hands an item to the link thread; may be called on any thread."""
        self._posted.append(item)
        self._socket.wake()

    def run(self) -> int:
        """Runs until this worker is done; returns the exit code."""
        self._watch_signals()
        now = time.monotonic()
        while self._exit is None:
            self._beat(now)
            self._socket.wait(self._next_beat - time.monotonic())
            now = time.monotonic()  # used for the whole turn: a suspension during it counts in the next one
            self._forgive_sleep(now)
            self._hear_all()
            if self._told_to_end:  # checked after reading the socket, because a signal overtakes messages
                self._drain("SIGTERM")
                self._exit = 0 if self._told_to_end > 1 else self._exit
            while self._posted:
                self._take(self._posted.popleft())
            self._give_up_overdue(now)
            self._finish()
            self._judge(now)
        self._socket.send(Bye(reason=f"exit {self._exit}"))
        self._socket.close()
        return self._exit

    # ------------------------------------------------------------ broker

    def _hear_all(self) -> None:
        for message, body in self._socket.received():
            match message:
                case wire.ProtocolError():
                    log.error("the broker sent an invalid message: %s", message)
                    self._drain("it does not understand its broker")
                case RunHeader():
                    self._accept(message, body)
                case _:
                    self._hear(message)

    def _hear(self, message: Part) -> None:
        match message:
            case Cancel(request_id=request_id) | Done(request_id=request_id):
                self._forget(request_id)
            case Pong(epoch=epoch, busy=busy):
                self._last_pong = time.monotonic()
                if busy != self._busy:
                    self._busy = busy
                    self._inbox.put(ShareCores(busy))
                if epoch != self._epoch:
                    self._epoch = epoch
                    self._introduce()
            case Lease(size=size, serial=serial):
                self._inbox.put(SetLease(size, serial))
            case ForgetPrompts(query=query, namespace=namespace):
                self._inbox.put(ForgetKept(query, namespace))
            case Drain():
                self._drain("the broker asked for it")
            case Goodbye(reason=reason):
                log.warning("told to leave: %s", reason)
                self._exit = 0
            case Ack(request_id=request_id, choice=choice, next_index=next_index):
                self._requests.acknowledge(request_id, choice, next_index)

    def _introduce(self) -> None:
        who = self._identity
        if self._loaded is None:
            now = self._loading
            self._socket.send(
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
        self._socket.send(
            Register(
                epoch=self._epoch,
                token=who.token,
                model=who.model,
                pid=os.getpid(),
                digest=self._loaded.served.digest,
                context_length=self._loaded.served.context_length,
                context_bytes=self._loaded.served.context_bytes,
                lease=self._loaded.served.engine.kv_use.obeyed if self._loaded.lease() else 0,
                capabilities=self._loaded.served.capabilities,
                held=self._requests.attempts,
            )
        )

    def _beat(self, now: float) -> None:
        if now < self._next_beat:
            return
        self._next_beat = now + self._settings.heartbeat_interval
        self._requests.drop_unclaimed(now - self._settings.resume_timeout)
        if self._loaded is None:
            self._introduce()
            return
        self._socket.send(
            Heartbeat(
                epoch=self._epoch,
                step=self._loaded.steps(),
                active=self._requests.active,
                preparing=self._being_prepared,
                memory=self._memory(),
                engine=self._loaded.served.engine.report,
            )
        )

    def _memory(self) -> MemoryUse:
        """The serial number first: what is read after it is of the same lease, or of a later one."""
        assert self._loaded
        serial, use = self._loaded.lease(), self._loaded.served.engine.kv_use
        return MemoryUse(
            footprint=self._footprint(),
            serial=serial,
            obeyed=use.obeyed,
            kv=use.held,
            committed=use.committed,
            kept=use.kept,
        )

    # ------------------------------------------------------------ requests

    def _accept(self, header: RunHeader, body: bytes) -> None:
        """The body is decoded on a preparing thread, where a bad or large one delays no heartbeat."""
        request_id, attempt = header.submit.request_id, header.submit.attempt
        failpoint("worker.run")
        if (again := self._requests.resume(header)) is not None:
            self._send_batch(again)
            return
        self._forget(request_id)
        if self._drain_until is not None or self._pool is None:
            self._send_failed(
                request_id, attempt, Draining("This worker is leaving; try again.", retry_after=1)
            )
            return
        self._requests.add(header)
        self.preparing += 1
        self._pool.submit(header, body)

    def _prepared(self, header: RunHeader, outcome: Runnable | Failure) -> None:
        """Runs on a preparing thread."""
        if isinstance(outcome, Failure):
            self.post(CannotRun(header.submit.request_id, header.submit.attempt, outcome))
        else:
            self.post(Prepared(outcome))

    def _give_up_overdue(self, now: float) -> None:
        """A preparation that exceeds its time fails only its own request."""
        if self._pool is None:
            return
        for header, failure in self._pool.give_up_overdue(now):
            log.warning("request %s was not prepared in time", header.submit.request_id)
            self._take(CannotRun(header.submit.request_id, header.submit.attempt, failure))
        if self._pool.stuck >= MOST_STUCK:
            self._drain("preparations that do not end keep its cores busy")

    def _forget(self, request_id: str) -> None:
        entry = self._requests.remove(request_id)
        if entry and self._pool and self._pool.withdraw(request_id):
            self.preparing -= 1
        elif entry and not entry.ended:
            self._inbox.put(Cancelled(request_id))

    @property
    def _being_prepared(self) -> int:
        """``preparing`` includes cancelled requests, so it is bounded by the active ones."""
        return min(self.preparing, self._requests.active)

    @property
    def _digest(self) -> str:
        return self._loaded.served.digest if self._loaded else ""

    # ------------------------------------------------------------ what other threads posted

    def _take(self, item: Posted) -> None:
        match item:
            case Outputs(outputs):
                for batch in self._requests.batches(outputs, time.monotonic()):
                    self._send_batch(batch)
            case Prepared(job):
                if self._requests.running(job.request_id, job.attempt):
                    self._inbox.put(Add(job))
                self.preparing -= 1
            case CannotRun():
                self.preparing -= 1
                self._refuse(item)
            case LoadingProgress():
                self._note_progress(item)
            case Loaded(served):
                self._loaded = item
                limit = self._settings.prepare_timeout
                self._pool = PreparationPool(served.prepare, self._prepared, limit)
                self._introduce()
            case PromptsGone(query, gone):
                told = PromptsForgotten(query=query, memory=gone.memory, disk=gone.disk, reason=gone.reason)
                self._socket.send(told)
            case LeaseObeyed():
                self._next_beat = 0.0
            case LoadingFailed(reason, permanent, absent):
                self._socket.send(LoadFailed(reason=reason, permanent=permanent, absent=absent))
                self._exit = exits.MISCONFIGURED if permanent else exits.LOAD_MAY_WORK
            case EngineDone():
                self._exit = 0

    def _note_progress(self, loading: LoadingProgress) -> None:
        news = loading.phase != self._loading.phase
        self._loading = loading
        if news:  # other progress is sent with the heartbeat
            self._introduce()

    def _refuse(self, item: CannotRun) -> None:
        if entry := self._requests.running(item.request_id, item.attempt):
            self._requests.remove(item.request_id)
            failed = Failed(request_id=item.request_id, attempt=entry.attempt, failure=item.failure)
            self._socket.send(failed)

    def _send_batch(self, batch: DeltaBatch) -> None:
        """One message with all deltas of a step for one api process."""
        if not batch.deltas:
            return
        index = batch.deltas[-1].index
        header = Forward(api=batch.api, ended=batch.ended)
        failpoint("worker.says_end" if batch.ended else "worker.says", index)
        try:
            self._socket.send_chunks(header, Chunks(deltas=batch.deltas, digest=self._digest))
        except CannotBePassedOn as error:
            self._send_singly(batch, error)
            return
        failpoint("worker.said_end" if batch.ended else "worker.said", index)

    def _send_singly(self, batch: DeltaBatch, error: CannotBePassedOn) -> None:
        """Sends each delta by itself, so that only the request whose delta cannot be encoded fails."""
        if len(batch.deltas) > 1:
            for single in batch.singles():
                if single.deltas[0].request_id in self._requests:
                    self._send_batch(single)
            return
        (delta,) = batch.deltas
        log.error("request %s: %s", delta.request_id, error.message)
        self._forget(delta.request_id)
        self._send_failed(delta.request_id, delta.attempt, error)

    def _send_failed(self, request_id: str, attempt: int, error: ServingError) -> None:
        self._socket.send(Failed(request_id=request_id, attempt=attempt, failure=error.to_failure()))

    # ------------------------------------------------------------ leaving

    def _forgive_sleep(self, now: float) -> None:
        """Extends all deadlines by the time for which this process was suspended."""
        slept = now - self._next_beat
        if slept > self._settings.heartbeat_interval:
            self._last_pong += slept
            if self._pool:
                self._pool.forgive(slept)
            if self._drain_until is not None:
                self._drain_until += slept

    def _judge(self, now: float) -> None:
        if self._drain_until is not None and now > self._drain_until:
            log.warning("%d requests were not finished in time", self._requests.active)
            self._exit = 0
        if now - self._last_pong > self._settings.orphan_grace:
            log.warning("no broker for %.0f s", now - self._last_pong)
            self._exit = 0

    def _drain(self, why: str) -> None:
        """Starts draining, once. Requests that are unfinished at its end are resumed by another worker."""
        if self._drain_until is not None:
            return
        log.info("leaving: %s; %d requests to finish", why, self._requests.active)
        self._drain_until = time.monotonic() + self._settings.drain_timeout
        if self._loaded is None:
            self._exit = 0

    def _finish(self) -> None:
        """Stops the engine after the last preparation, so that no accepted request is lost."""
        if self._drain_until is not None and not self._finishing and not self.preparing:
            self._finishing = True
            self._inbox.put(StopWhenIdle())

    def _watch_signals(self) -> None:
        def on_term(_signal: int, _frame: FrameType | None) -> None:
            self._told_to_end += 1
            self._socket.wake()

        signal.signal(signal.SIGTERM, on_term)
        signal.signal(signal.SIGINT, on_term)
