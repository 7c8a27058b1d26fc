"""The broker's sockets, signals and processes: turns what arrives into events and carries actions out; decides nothing.

A turn: wait, handle signals, drain both sockets within a budget, send what was parked, tick.
A Tick comes only after both sockets were found empty, so that no peer with an unread message is judged silent.
"""

import logging
import math
import os
import signal
from collections import deque
from collections.abc import Callable, Container
from typing import Final

import zmq

from broker.clock import AwakeClock
from broker.core import Broker
from broker.events import (
    Abort,
    Action,
    ApiSaid,
    Download,
    DownloadEnded,
    EndSpare,
    Event,
    Exit,
    Forget,
    Inspect,
    Inspected,
    Kill,
    Leave,
    MemoryRead,
    PassOn,
    PeerGone,
    ReadSettings,
    SettingsRead,
    SpareEnded,
    Spawn,
    SpawnFailed,
    StartSpare,
    StopAll,
    StopDownload,
    TellApi,
    TellWorker,
    Terminate,
    Tick,
    WorkerSaid,
)
from broker.reports import event_log
from broker.rules import Changes
from broker.system.learned_file import LearnedFile
from broker.system.machine_memory import available_memory
from broker.system.mailbox import Mailbox
from broker.system.pulls_file import PullsFile
from broker.system.statefile import StateFile
from broker.system.supervisor import Supervisor
from broker.system.wakeup import Wakeup
from shared.errors import CannotBePassedOn
from shared.failpoints import failpoint
from shared.protocol import Forward, Goodbye, Part, SubmitHeader
from shared.settings_errors import SettingsError
from shared.wire import FROM_API, FROM_WORKER, ProtocolError, decode, encode

log = logging.getLogger(__name__)

PIDFDS: Final = hasattr(os, "pidfd_open")
_BUDGET = 256  # messages of one socket in one turn; times below are seconds
_TICK = 0.1
_IDLE_TICK = 0.5
_RETRY = 0.01  # while something is parked
_OVERDUE = 1.0  # longest delay of a Tick by sockets that never run empty
_LINGER = 0.2
_REAP = 1.0
_LAST_MESSAGES = 20  # milliseconds to wait for what a worker sent before it ended
_MEASURE = 5.0  # between looks at the memory of the machine
_TRIM = 10.0  # between looks at the sizes of workers' logs
_SENDERS_LOGGED: Final = 1000  # of garbage, each once
_SIGNALS: Final = {Terminate: signal.SIGTERM, Kill: signal.SIGKILL, Abort: signal.SIGABRT}


class Server:
    def __init__(
        self,
        core: Broker,
        apis: Mailbox,
        workers: Mailbox,
        supervisor: Supervisor,
        state_file: StateFile,
        wakeup: Wakeup,
        clock: AwakeClock,
        reread: Callable[[], Changes],
        learned_file: LearnedFile,
        pulls_file: PullsFile,
    ) -> None:
        """``reread`` raises SettingsError."""
        self._reread = reread
        self._learned_file = learned_file
        self._pulls_file = pulls_file
        self._core = core
        self._apis = apis
        self._workers = workers
        self._supervisor = supervisor
        self._state_file = state_file
        self._wakeup = wakeup
        self._clock = clock
        self._now = self._ticked = self._trimmed = self._measured = clock.wake(0.0)
        self._pending: deque[Event] = deque()
        self._ends: deque[Event] = deque()  # of processes and connections, handled at the end of the turn
        self._garbage_senders: set[bytes] = set()
        self._running = True
        self.garbage = 0
        self._poller = zmq.Poller()
        for source in (apis.socket, workers.socket, wakeup.fd, *supervisor.watched):
            self._poller.register(source, zmq.POLLIN)

    def run(self) -> None:
        while self._running:
            self._turn()
            self._write_state()
        self._learned_file.write(self._core.learned)
        self._supervisor.close(_REAP if self._core.stopping else 0.0)
        self._apis.close(_LINGER)
        self._workers.close(_LINGER)

    def _turn(self) -> None:
        planned = self._poll_timeout()
        woken = dict(self._poller.poll(math.ceil(planned * 1000)))
        self._now = self._clock.wake(planned)
        if self._wakeup.fd in woken:
            self._handle_signals()
        self._check_adopted(woken)
        drained = [self._drain(self._workers, self._read_worker), self._drain(self._apis, self._read_api)]
        self._flush()
        self._handle_ends()
        if self._now >= self._ticked + self._tick and (all(drained) or self._now > self._ticked + _OVERDUE):
            self._ticked = self._now
            for said in self._supervisor.read():
                self._handle(said)
            if self._now >= self._measured + _MEASURE:
                self._measured = self._now
                self._handle(MemoryRead(available_memory()))
            self._handle(Tick())
            self._supervisor.end_overdue_inspections()
            self._learned_file.write(self._core.learned)
            if self._now >= self._trimmed + _TRIM:
                self._trimmed = self._now
                self._supervisor.trim_logs()

    @property
    def _tick(self) -> float:
        return _IDLE_TICK if self._core.idle else _TICK

    def _poll_timeout(self) -> float:
        until_tick = max(0.0, self._ticked + self._tick - self._now)
        return min(_RETRY, until_tick) if self._apis.waits or self._workers.waits else until_tick

    def _check_adopted(self, woken: Container[object]) -> None:
        """Without pidfds every turn asks for them; they are few."""
        ended = [fd for fd in self._supervisor.watched if fd in woken]
        for fd in ended:
            self._supervisor.watched.remove(fd)
            self._poller.unregister(fd)
        if ended or not PIDFDS:
            self._reap()

    def _write_state(self) -> None:
        self._state_file.write(self._core.known, self._supervisor.pid_of)
        self._pulls_file.write(self._core.pulls)

    def _handle_signals(self) -> None:
        for number in self._wakeup.read():
            match number:
                case signal.SIGCHLD:
                    self._reap()
                case signal.SIGTERM:
                    self._handle(Leave())
                case signal.SIGINT:
                    self._handle(StopAll())
                case signal.SIGHUP:
                    self._handle(self._read_settings())

    # ---------------------------------------------------------------- what arrives

    def _drain(self, mailbox: Mailbox, read: Callable[[list[bytes]], None]) -> bool:
        """Whether the socket is empty now."""
        for _ in range(_BUDGET):
            frames = mailbox.receive()
            if frames is None:
                return True
            try:
                read(frames)
            except ProtocolError as error:
                self._note_garbage(mailbox, frames[0], error)
        return False

    def _read_api(self, frames: list[bytes]) -> None:
        match frames:
            case [name, header, *body] if len(body) <= 1:
                message = decode(FROM_API, header)
                if body and not isinstance(message, SubmitHeader):
                    raise ProtocolError(f"a body after {message.type!r}")
                self._handle(ApiSaid(read_name(name), message, *body))
            case _:
                raise ProtocolError(f"{len(frames) - 1} frames")

    def _read_worker(self, frames: list[bytes]) -> None:
        name = read_name(frames[0])
        message = decode(FROM_WORKER, frames[1]) if len(frames) > 1 else None
        match message, frames[2:]:
            case Forward(), [body]:
                self._handle(WorkerSaid(name, message), body)
            case None | Forward(), _:
                raise ProtocolError(f"{len(frames) - 1} frames")
            case _, []:
                self._handle(WorkerSaid(name, message))
            case _:
                raise ProtocolError(f"a body after {message.type!r}")

    def _note_garbage(self, mailbox: Mailbox, name: bytes, error: ProtocolError) -> None:
        self.garbage += 1
        if name not in self._garbage_senders and len(self._garbage_senders) < _SENDERS_LOGGED:
            self._garbage_senders.add(name)
            log.warning("%r sent what is no message: %s (%d such so far)", name, error, self.garbage)
            if mailbox is self._workers:
                mailbox.send_raw(name, encode(Goodbye(reason=f"that is no message: {error}")))

    def _reap(self) -> None:
        self._ends.extend(self._supervisor.reap())

    def _handle_ends(self) -> None:
        """What a worker sent before its end is handled first, because its end fails what has not finished."""
        if not self._ends:
            return
        for _ in range(_BUDGET):
            if not self._workers.socket.poll(_LAST_MESSAGES):
                break
            self._drain(self._workers, self._read_worker)
        while self._ends:
            self._handle(self._ends.popleft())

    # ---------------------------------------------------------------- what happens then

    def _handle(self, event: Event, body: bytes = b"") -> None:
        """The event, and the events that its actions cause."""
        self._pending.append(event)
        self._handle_pending(body)

    def _handle_pending(self, body: bytes = b"") -> None:
        while self._pending:
            event = self._pending.popleft()
            if line := event_log.of_event(event, self._supervisor.log_of):
                log.info(line)
            failpoint("broker.heard", name_of(event))
            for action in self._core.handle(event, self._now):
                failpoint("broker.does", name_of(action))
                self._act(action, body)
                failpoint("broker.did", name_of(action))

    def _act(self, action: Action, body: bytes) -> None:
        if line := event_log.of_action(action):
            log.info(line)
        match action:
            case PassOn(api):
                self._send(self._apis, api, body)
            case TellApi(api, message):
                self._tell(self._apis, api, message)
            case TellWorker(worker, message, body_to_send):
                self._tell(self._workers, worker, message, *([body_to_send] if body_to_send else []))
            case Forget(api):
                self._apis.forget(api)
            case ReadSettings(api, query):
                self._pending.append(self._read_settings(api, query))
            case Exit():
                self._running = False
            case _:
                self._act_on_process(action)

    def _act_on_process(self, action: Action) -> None:
        match action:
            case Spawn():
                self._spawn(action)
            case StartSpare(spare):
                if reason := self._supervisor.start_spare(spare):
                    self._pending.append(SpareEnded(spare, reason))
            case EndSpare(spare):
                self._supervisor.spares.end(spare)
            case Terminate(worker) | Kill(worker) | Abort(worker):
                self._supervisor.signal(worker, _SIGNALS[type(action)])
            case Inspect(model, python):
                self._inspect(model, python)
            case Download(model):
                if reason := self._supervisor.downloads.start(model):
                    self._pending.append(DownloadEnded(model, reason))
            case StopDownload(model):
                self._supervisor.downloads.stop(model)

    def _spawn(self, wanted: Spawn) -> None:
        """The state says the worker's name before its process gets it, so that a next broker finds it."""
        supervisor = self._supervisor
        was_spare = bool(wanted.spare) and supervisor.spawn_from(wanted.spare, wanted.worker)
        self._write_state()
        if was_spare:
            reason = supervisor.hand_over(wanted.worker, wanted.model)
        else:
            reason = supervisor.spawn(wanted.worker, wanted.model, wanted.python)
        if reason:
            self._pending.append(SpawnFailed(wanted.worker, reason))

    def _inspect(self, model: str, python: str) -> None:
        if not self._supervisor.inspect(model, python):
            self._pending.append(Inspected(model, None))

    def _read_settings(self, api: str = "", query: str = "") -> SettingsRead:
        try:
            return SettingsRead(self._reread(), api, query)
        except SettingsError as error:
            return SettingsRead(error.lines, api, query)

    def _tell(self, mailbox: Mailbox, peer: str, message: Part, *body: bytes) -> None:
        """A message that cannot be encoded is logged and dropped: it is no reason to end."""
        try:
            header = encode(message)
        except CannotBePassedOn as error:
            log.error("a %s for %s cannot be encoded: %s", type(message).__name__, peer, error.message)
        else:
            self._send(mailbox, peer, header, *body)

    def _send(self, mailbox: Mailbox, peer: str, *frames: bytes) -> None:
        if not mailbox.send(peer, *frames):
            self._lose(peer)

    def _flush(self) -> None:
        for mailbox in (self._apis, self._workers):
            for peer in mailbox.flush():
                self._lose(peer)
        self._handle_pending()

    def _lose(self, peer: str) -> None:
        """The exit of a child is handled before its lost connection, because it says more."""
        self._reap()
        self._ends.append(PeerGone(peer))


def name_of(what: Event | Action) -> str:
    """For failpoints: the message's type, or the event's or action's class."""
    match what:
        case (
            ApiSaid(message=said)
            | WorkerSaid(message=said)
            | TellApi(message=said)
            | TellWorker(message=said)
        ):
            return said.type
    return type(what).__name__.lower()


def read_name(name: bytes) -> str:
    """Raises ProtocolError: a name is printable ascii, so that it can be logged and sent back."""
    text = name.decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise ProtocolError("its name is not printable ascii")
    return text
